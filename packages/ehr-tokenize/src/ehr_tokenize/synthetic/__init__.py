"""Synthetic cohorts whose outcomes depend on history in a stated way."""
