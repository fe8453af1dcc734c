"""What a user may set about how features are read from a model."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field
from pydantic.dataclasses import dataclass

from ehr_tracking.arrow.label_csv import LabelColumns
from ehr_tracking.config import STRICT


def _free(pooling: object) -> object:
    """Refuse poolings that have weights of their own."""
    if pooling in ("attention", "bigru"):
        raise ValueError(
            "its weights are learned with a classifier: fine-tune one (ehr-train -s objective.pooling="
            f"{pooling}), and judge its predictions"
        )
    return pooling


@dataclass(frozen=True, kw_only=True, config=STRICT)
class FeaturesConfig:
    """How one vector is read from a model for each prediction time."""

    pooling: Annotated[
        Literal["auto", "last", "mean", "max", "sum", "cls"], BeforeValidator(_free)
    ] = "auto"
    """`last` visible token, `mean`, `max` or `sum` over all, or the leading [CLS]; `auto`: last of a
    causal model, mean of a bidirectional one."""
    context: int | None = Field(default=None, ge=2)
    """Most tokens a model sees at once (the newest, behind [CLS]/[BOS]); null: as in its training."""
    one_pass: bool = True
    """Causal models read a subject once for all its prediction times, where they fit the context."""
    batch_tokens: int = Field(default=4096, ge=1)
    """Most tokens in one forward pass; a longer subject goes alone."""
    labels: LabelColumns = Field(default_factory=LabelColumns)
    """What the columns of `--labels FILE.csv` are called."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """`auto`: bf16 where the hardware has units for it, as in training."""
