"""Finished and unfinished runs: beside each other, in one archive, with fewer checkpoints."""
