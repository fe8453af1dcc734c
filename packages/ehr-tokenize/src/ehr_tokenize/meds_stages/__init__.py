"""Tokenising as MEDS_transforms stages: the other driver, and the only place that knows Hydra."""
