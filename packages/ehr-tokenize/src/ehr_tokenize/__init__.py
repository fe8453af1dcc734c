"""From MEDS health records to sealed token data sets."""

from importlib.metadata import version

__version__ = version("ehr-tokenize")
