"""Artifact contracts, sealed manifests, lineage, run logs and checkpoints for models of health records."""

from importlib.metadata import version

__version__ = version("ehr-tracking")
