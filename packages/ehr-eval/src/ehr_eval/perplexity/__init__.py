"""How well causal models foretell the next token, by its place in the record."""
