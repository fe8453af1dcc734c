"""What was fitted, and its use in memory and on disk."""
