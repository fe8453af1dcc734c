"""For any torch loop: an experiment's checkpoints, curves and summary, and models beside each other."""

from ehr_tracking.experiments.benchmark import BenchmarkTracker
from ehr_tracking.experiments.experiment import ExperimentTracker

__all__ = ["BenchmarkTracker", "ExperimentTracker"]
