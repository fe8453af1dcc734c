"""A MEDS data set on disk to sealed tokens, and a look into these."""
