"""Where models err: Brier scores by how repetitive, irregular and long records are."""
