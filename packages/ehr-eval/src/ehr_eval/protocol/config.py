"""What a user may set about the protocol."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Literal, Self, TypeAlias, Union

from pydantic import Field, model_validator
from pydantic.dataclasses import dataclass

from ehr_eval.heads import HEADS
from ehr_eval.heads.grid import HeadConfig
from ehr_eval.judge.metrics.ranked import SPECIFICITY
from ehr_tracking.arrow.label_csv import LabelColumns
from ehr_tracking.config import STRICT
from ehr_tracking.names import require_name

if TYPE_CHECKING:
    AnyHead: TypeAlias = HeadConfig
else:  # mypy cannot read a union off a table
    AnyHead = Annotated[
        Union[tuple(head.config for head in HEADS.values())],  # noqa: UP007
        Field(discriminator="kind"),
    ]

EHRSHOT_GROUPS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "Operational": ("guo_*",),
        "Labs": ("lab_*",),
        "New diagnoses": ("new_*",),
        "Chest X-ray": ("chexpert*",),
    }
)
"""EHRSHOT's own."""
GIVEN = "given"
"""In place of a head's name: predictions that were made elsewhere."""


def _protocols_heads() -> dict[str, AnyHead]:
    return {name: HEADS[name].config() for name in ("lr", "gbm")}


@dataclass(frozen=True, kw_only=True, config=STRICT)
class EhrshotConfig:
    """The few-shot protocol; the defaults are EHRSHOT's own."""

    ks: Annotated[tuple[int, ...], Field(min_length=1)] = (
        *(1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 128),
        -1,
    )
    """Shots per class; -1 is every row."""
    max_k: int = Field(default=128, ge=1)
    """Shots drawn per class; a smaller k takes the first k of them."""
    replicates: int = Field(default=5, ge=1)
    """Draws of the shots; the seed of a draw is its number."""
    replicates_all: int = Field(default=5, ge=1)
    """The same for k = -1, where the rows are always all rows and only their order is drawn."""
    heads: dict[str, AnyHead] = Field(default_factory=_protocols_heads, min_length=1)
    bootstraps: int = Field(default=1000, ge=0)
    """Resamples of the held-out patients; 0 gives no intervals."""
    specificity: Annotated[float, Field(gt=0, lt=1)] = SPECIFICITY
    """At which `sensitivity` is asked for."""
    labels: LabelColumns = Field(default_factory=LabelColumns)
    """What the columns of `--labels FILE.csv` are called."""
    baseline: str = "counts"
    """The features that every model is compared with, where they are given."""
    compare: tuple[tuple[str, str], ...] = ()
    """Further pairs, each a model, or model/head, and another; every two models are compared at the same
    head and k as it is."""
    groups: dict[str, tuple[str, ...]] = Field(default_factory=lambda: dict(EHRSHOT_GROUPS))
    """Group of tasks -> patterns of their names; those without a task are left out."""
    reference: str | None = None
    """Published numbers to show beside one's own, where groups are called the same: `ehrshot`, or a YAML file."""
    compat: Literal["original"] | None = None
    """`original`: refit what was chosen as EHRSHOT's own code does, which forgets most of its settings."""
    tasks: tuple[str, ...] | None = None
    """Null: every task of the labels."""
    few_positives: int = Field(default=10, ge=0)
    """The report warns of tasks with fewer held-out positives (or negatives) than this."""

    @model_validator(mode="after")
    def _one_refit(self) -> Self:
        both = [name for name, head in self.heads.items() if self.compat and head.refit]
        if both:
            raise ValueError(
                f"heads.{both[0]}.refit and compat: a head is refitted one way or the other"
            )
        return self

    @model_validator(mode="after")
    def _draws(self) -> Self:
        wrong = [k for k in self.ks if k != -1 and not 1 <= k <= self.max_k]
        if wrong:
            raise ValueError(f"ks holds {wrong[0]}: a k is -1 or in 1..max_k = {self.max_k}")
        if len(set(self.ks)) < len(self.ks):
            raise ValueError("ks holds a number twice")
        if GIVEN in self.heads:
            raise ValueError(
                f"no head may be called {GIVEN}: it stands for predictions made elsewhere"
            )
        for name in self.heads:
            require_name(name, "head")
        return self

    def draws(self, k: int) -> int:
        """Replicates at one k."""
        return self.replicates_all if k == -1 else self.replicates
