"""How events become tokens: pure functions over flat arrays."""
