"""Synthetic cohorts whose outcomes depend on history in a stated way."""

from ehr_tokenize.synthetic.config import SynthConfig

__all__ = ["SynthConfig"]
