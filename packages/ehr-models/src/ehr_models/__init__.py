"""Models of health records, their input batches and checkpoints."""

from importlib.metadata import version

__version__ = version("ehr-models")
