"""What a kind of model is, said once; without torch."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import AfterValidator, Field, PositiveInt
from pydantic.dataclasses import dataclass as model_config

from ehr_tracking.config import STRICT, ConfigError

Pretraining = Literal["mlm", "clm"]
"""Masked tokens, or the next one."""
HeadName = Literal["token", "pooled", "both"]
"""Over tokens, over the pooled states of subjects, or one of each on the same states."""
Initialization = Literal["normal", "orthogonal", "xavier", "kaiming"]
"""How matrices are drawn: see `layers.initialization`."""
Forecast = Literal["time", "events", "query"]
"""What a head beside that of the next token tells of what comes: see `heads.forecasts`."""
Isolation = Literal["spans", "reset", "padded"]
"""How the subjects of a packed batch are kept apart."""
ISOLATION: dict[Isolation, str] = {
    "spans": "attention runs within each subject of a packed row",
    "reset": "the model forgets all at position 0 of a packed row",
    "padded": "each subject is a row of its own, padded to those of like length",
}
"""In words."""
Fraction = Annotated[float, Field(ge=0, lt=1)]


class Size(NamedTuple):
    """One row of a size table."""

    hidden: int
    layers: int
    heads: int
    intermediate: int
    max_positions: int
    embedding: int | None = None
    """Width of the code table where it is not `hidden`, for kinds that can have it so."""


def one_of(sizes: Mapping[str, Size]) -> AfterValidator:
    """What a `size` field may be, for its annotation."""

    def check(name: str) -> str:
        if name not in sizes:
            raise ValueError(f"choose one of {', '.join(sizes)}")
        return name

    return AfterValidator(check)


@model_config(frozen=True, kw_only=True, config=STRICT)
class ArchitectureConfig:
    """What every kind has; a field left at None takes the value of the size."""

    kind: str = ""
    size: str = ""
    hidden: PositiveInt | None = None
    """Width."""
    layers: PositiveInt | None = None
    heads: PositiveInt | None = None
    intermediate: PositiveInt | None = None
    """Width inside the MLP."""
    max_positions: PositiveInt | None = None
    """Longest sequence."""
    dropout: Fraction | None = None
    """Of embeddings and residual branches; 0, but 0.1 in the sizes that are of a paper."""
    attention_dropout: Fraction | None = None
    """Of attention weights, likewise; above 0 it forgoes the fused kernels of GPUs in training."""
    initialization: Initialization = "normal"
    """How a new model's matrices are drawn. `normal` is the kind's own way."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Kind:
    """One kind of model: everything that the rest of the zoo has to know of it."""

    name: str
    """Also the `model_type` of its Hugging Face configuration."""
    config: type[ArchitectureConfig]
    """Its fields; `kind` is a Literal of the name."""
    sizes: Mapping[str, Size]
    module: str
    """The torch half, imported on first use: see `registry.TorchHalf`."""
    sees: Literal["past", "all"]
    """What the state of a token may depend on."""
    isolates: Isolation = "spans"
    """How packed subjects are kept apart: `spans`, by the attention of `layers.attention`; `reset`,
    by the model itself, wherever a position is 0; `padded`, by being padded after all."""
    incremental: bool = False
    """It decodes token by token from a cache (`use_cache`, `past_key_values`)."""
    caches: bool = False
    """It fills a cache where it is not told otherwise (`use_cache`), though nothing decodes from it."""
    inputs: Mapping[str, str]
    """Argument of the model -> field of `Batch`."""
    lookups: Callable[[Any, Sequence[str]], Mapping[str, Sequence[int]]] | None = None
    """What the kind takes from the vocabulary: from its config and the code of each token (its text,
    where it stands for none) to buffers of the backbone by name, a number for each token."""
    token_head: tuple[str, ...]
    """Modules of the pretraining model that make logits of states, one after the other."""
    heads: tuple[HeadName, ...] = ("token", "pooled", "both")
    forecasts: tuple[Forecast, ...] = ()
    """Heads over tokens' states that the pretraining model may have beside that of the next token."""
    adapters: tuple[str, ...]
    """Last names of the linear modules that adapters go to."""
    whole: tuple[str, ...] = ()
    """Last names of those that no adapter can go to, as their weights are read without them."""
    auxiliary: Mapping[str, str] = field(default_factory=dict)
    """Losses that the backbone gives beside the states, as means over tokens: name in its output ->
    field of its configuration that weighs it. It then gives `expert_shares` as well, [layers, experts],
    and takes those of a whole step in `rebalance`; all are None where it has no experts."""
    files: tuple[str, ...] = ()
    """Modules copied beside a checkpoint as its code, the torch half first; none for a kind whose
    classes are those of transformers. They import torch, transformers and each other only."""

    @property
    def pretraining(self) -> Pretraining:
        """What it can be pretrained for: encoders by masking, causal decoders by the next token."""
        return "clm" if self.sees == "past" else "mlm"


def grouped(heads: int, kv_heads: int | None) -> int:
    """Key/value heads of a layer: as given, else a half of the heads where that goes.

    Raises:
        ConfigError: If the heads cannot be shared out among them.

    Examples:
        >>> grouped(12, None), grouped(12, 4), grouped(1, None)
        (6, 4, 1)
    """
    found = kv_heads or (heads if heads % 2 else heads // 2)
    if heads % found:
        raise ConfigError(f"heads = {heads} must be a multiple of kv_heads = {found}")
    return found


def without_dropout(config: ArchitectureConfig, *more: str) -> None:
    """Refuse a dropout that a kind has not, or more fields that mean nothing to it.

    Raises:
        ConfigError: Naming the first that is set.
    """
    for name in ("dropout", *more):
        if getattr(config, name):
            has = "" if "attention_dropout" in more else "; attention_dropout is what it has"
            raise ConfigError(f"model kind {config.kind} has no {name}{has}")


def size_of(kind: Kind, config: Any) -> Size:  # noqa: ANN401 -- the kind's own config
    """The numbers of a config's size, with its overrides."""
    size = kind.sizes[config.size]
    given = {name: getattr(config, name, None) for name in Size._fields}
    return size._replace(**{name: value for name, value in given.items() if value is not None})
