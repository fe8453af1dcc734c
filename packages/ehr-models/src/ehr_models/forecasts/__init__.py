"""Heads over tokens' states beside that of the next token: a file each, copied beside checkpoints."""
