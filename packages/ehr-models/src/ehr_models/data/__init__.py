"""Records of subjects: opened, mapped into memory, cut at a time, cut to windows, packed."""
