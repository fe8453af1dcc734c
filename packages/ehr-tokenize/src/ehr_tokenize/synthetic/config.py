"""The parameters of a synthetic cohort."""

from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from ehr_tracking.config import STRICT

Rate = Annotated[float, Field(ge=0, le=100)]
Effect = Annotated[float, Field(ge=-5, le=5)]
_Count = Annotated[int, Field(ge=1, le=100_000)]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class RisksConfig:
    """How much work goes into the risks that are written beside labels; of no effect on the data."""

    splits: tuple[Literal["train", "tuning", "held_out"], ...] = ("held_out",)
    """Whose rows get risks."""
    true_draws: _Count = 512
    """Futures drawn from each latent state."""
    chains: _Count = 32
    """States of each subject that the sampler moves side by side."""
    cells: _Count = 256
    """Candidates (onset, progression) of each condition of a subject."""
    burn_in: _Count = 12
    """Sweeps before a subject's first prediction time."""
    sweeps: _Count = 2
    """Sweeps from one prediction time to the next, before any is kept."""
    kept: _Count = 3
    """Sweeps whose states are kept, at each prediction time."""
    futures: _Count = 6
    """Futures drawn from each kept state."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class SynthConfig:
    """How many subjects, from which seed, and how strongly history acts on what follows.

    With every `burden_*`, `readmission` and `frailty_*` at 0, what happens to a subject no longer
    depends on the latent conditions: a cohort in which there is nothing to learn from them.
    """

    num_patients: Annotated[int, Field(ge=1, le=100_000_000)] = 1000
    seed: Annotated[int, Field(ge=0)] = 0
    novel_prob: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Probability that a diagnosis or medication is written in a code that no table knows."""
    frailty_onset: Effect = 0.4
    """Log hazard ratio of each condition's onset for one standard deviation of frailty."""
    frailty_events: Effect = 0.3
    """The same for progression and admission."""
    order_effect: Effect = 0.4
    """Log ratio of a condition's progression for each of its causes that came before it."""
    outpatient_rate: Rate = 0.9
    """Outpatient visits a year with no burden, for the median subject."""
    admission_rate: Rate = 0.10
    """Admissions a year with no burden."""
    death_rate: Rate = 0.005
    """Deaths a year at the age of 60 with no burden."""
    burden_outpatient: Effect = 0.3
    """Log rate ratio for one unit of burden; likewise below."""
    burden_admission: Effect = 0.65
    burden_death: Effect = 0.9
    burden_acute: Effect = 0.35
    """Rise of the mean acute severity of a stay for one unit of burden."""
    readmission: Effect = 3.0
    """Log rate ratio of admission right after a discharge at full instability; decays with time."""
    readmission_days: Annotated[float, Field(gt=0, le=3650)] = 30.0
    """Time constant of that decay."""
    noise: Rate = 1.0
    """Factor on the deviation of each laboratory value about its subject's level."""
    dropout_rate: Rate = 0.03
    """Subjects lost to follow-up a year, independently of everything."""
    risks: RisksConfig = Field(default_factory=RisksConfig)
