"""Synthetic records in which order and timing alone carry the risk."""
