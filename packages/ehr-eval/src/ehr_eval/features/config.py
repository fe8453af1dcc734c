"""What a user may set about how features are read from a model."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field
from pydantic.dataclasses import dataclass

from ehr_tracking.arrow.label_csv import LabelColumns
from ehr_tracking.config import STRICT

POOLINGS = ("auto", "last", "mean", "max", "sum", "cls", "attention")
Combine = Literal["mean", "concat"]


def _known(pooling: str) -> str:
    """Refuse what is no pooling, and those that have weights of their own."""
    for name in pooling.split("+"):
        if name in ("bigru", "bilstm", "gru", "lstm"):
            raise ValueError(
                "its weights are learned with a classifier: fine-tune one (ehr-train -s objective.pooling="
                f"{name}), and judge its predictions"
            )
        if name not in POOLINGS:
            raise ValueError(
                f"{name!r} is none of {', '.join(POOLINGS)}, or several of them as last+mean"
            )
    return pooling


def _several(layers: Any) -> Any:  # noqa: ANN401 -- as the user wrote it
    return (layers,) if isinstance(layers, int) else layers


@dataclass(frozen=True, kw_only=True, config=STRICT)
class FeaturesConfig:
    """How one vector is read from a model for each prediction time."""

    pooling: Annotated[str, AfterValidator(_known)] = "auto"
    """`last` visible token, `mean`, `max` or `sum` over all, the leading [CLS] (`cls`), or what the last state
    attends to (`attention`, without weights); `auto`: last of a causal model, mean of a bidirectional one.
    `last+mean` puts both side by side."""
    layers: Annotated[tuple[int, ...], BeforeValidator(_several), Field(min_length=1)] = (-1,)
    """Whose states: 0 the embeddings, n behind the n-th block, -1 the last, -2 the one before; or several."""
    combine: Combine = "mean"
    """Of several layers: their mean, or side by side (`concat`)."""
    context: int | None = Field(default=None, ge=2)
    """Most tokens a model sees at once (the newest, behind [CLS]/[BOS]); null: as in its training."""
    one_pass: bool = True
    """Causal models read a subject once for all its prediction times, where they fit the context."""
    batch_tokens: int = Field(default=4096, ge=1)
    """Most tokens in one forward pass; a longer subject goes alone."""
    exact: bool = False
    """Every bit of a row depends on what the row sees alone, not on which other rows are asked for: passes go
    one by one. A store of features needs it."""
    labels: LabelColumns = Field(default_factory=LabelColumns)
    """What the columns of `--labels FILE.csv` are called."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """`auto`: bf16 where the hardware has units for it, as in training."""
