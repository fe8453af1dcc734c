"""What a code is called: keys, units, maps to other codes, phrases."""
