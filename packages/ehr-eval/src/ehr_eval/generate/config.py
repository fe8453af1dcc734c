"""What a user may set about how futures are drawn."""

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field
from pydantic.dataclasses import dataclass

from ehr_tracking.arrow.label_csv import LabelColumns
from ehr_tracking.config import STRICT, Regex

_SECONDS = {"m": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400, "y": 31_557_600}
_LONGEST = 200 * _SECONDS["y"]


def microseconds(span: str) -> int:
    """A length of time as people write it.

    Raises:
        ValueError: If it is none, is not above 0, or is longer than two centuries.

    Examples:
        >>> microseconds("36h"), microseconds("365d") // 86_400_000_000, microseconds("0.5 d") // 3_600_000_000
        (129600000000, 365, 12)
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([mhdwy])\s*", span)
    if not found:
        raise ValueError("a length of time is a number with m, h, d, w or y behind it, e.g. 365d")
    seconds = float(found[1]) * _SECONDS[found[2]]
    if not 0 < seconds <= _LONGEST:
        raise ValueError("has to be above 0 and at most 200y")
    return round(seconds * 1_000_000)


def _span(span: str) -> str:
    microseconds(span)
    return span


Span = Annotated[str, AfterValidator(_span)]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class GenerateConfig:
    """How futures are drawn, where they stop, and how the work is cut."""

    samples: Annotated[int, Field(ge=1)] = 20
    """Futures of each (subject, prediction time)."""
    horizon: Span = "365d"
    """How far they go beyond the prediction time: a number with m, h, d, w or y."""
    budget: Annotated[int, Field(ge=1)] = 2048
    """Most tokens drawn for one; it then ends with what it has (`budget`), and counts as that."""
    context: Annotated[int, Field(ge=2)] | None = None
    """Most tokens that the model sees of record and future together; null: as in its training."""
    prompt: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """Share of the context that a record takes at first, its newest tokens; and again, record and
    future together, whenever the context is full."""
    temperature: Annotated[float, Field(gt=0)] = 1.0
    """Below 1 likely tokens become likelier; risks are those of the model at 1 alone."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Draw from the likeliest tokens that hold this much; risks are those of the model at 1 alone."""
    death: Regex = "^MEDS_DEATH"
    """A code after which a future ends (`death`)."""
    stop: tuple[Regex, ...] = ()
    """Further codes after which it ends (`stop`)."""
    suppress: tuple[Regex, ...] = ("^MEDS_BIRTH",)
    """Texts of tokens that are not drawn. Never drawn besides: special tokens (but [SEP] and [EOS] where
    train has them), tokens that train lacks, and those that train knows without a time only."""
    dates: Literal["auto", "tokens", "head"] = "auto"
    """What tells the time: time tokens, or the model's time head; `auto`: time tokens where the
    vocabulary has such."""
    rows: Annotated[int, Field(ge=1)] = 1024
    """Futures drawn at once, about: more are faster, and take more memory."""
    part: Annotated[int, Field(ge=1)] = 64
    """Prediction times in a part: what a killed run does again, and what processes share out."""
    per_sample: bool = False
    """Also write one table a sample, in the GeneratedTrajectorySchema of MEDS_trajectory_evaluation."""
    seed: int = 0
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """`auto`: bf16 where the hardware has units for it, as in training."""
    labels: LabelColumns = Field(default_factory=LabelColumns)
    """What the columns of `--labels FILE.csv` are called."""
