"""What makes results look better than they are: leaks, duplicates, mix-ups."""
