"""Few-shot evaluation of health-record models beside honest baselines."""

from importlib.metadata import version

__version__ = version("ehr-eval")
