"""Pretraining and fine-tuning of health-record models on 1..N processes, resumable to the bit."""

from importlib.metadata import version

__version__ = version("ehr-train")
PRODUCER = f"ehr-train {__version__}"
"""Who writes runs and checkpoints."""
