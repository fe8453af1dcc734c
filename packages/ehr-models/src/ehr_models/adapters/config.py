"""How a model is adapted; without torch."""

from typing import Literal

from pydantic import PositiveInt
from pydantic.dataclasses import dataclass

from ehr_models.kinds.record import Fraction
from ehr_tracking.config import STRICT


@dataclass(frozen=True, kw_only=True, config=STRICT)
class AdapterConfig:
    """Low-rank updates W + scale B A of linear modules, whose own weights W are not trained.

    Sources: Hu et al. 2021 (LoRA), Kalajdzievski 2023 (rsLoRA), Liu et al. 2024 (DoRA), Meng et al.
    2024 (PiSSA), Dettmers et al. 2023 (QLoRA).
    """

    kind: Literal["lora", "rslora", "dora", "pissa", "qlora"] = "lora"
    """`rslora` scales by alpha / sqrt(rank); `dora` trains the length of each output's weights
    apart; `pissa` starts from the largest singular vectors of W; `qlora` keeps W in 4 bits (NF4)."""
    rank: PositiveInt = 8
    quantised: bool = False
    """Keep W in 4 bits (NF4), whatever the kind; `qlora` is `lora` with it."""
    compute: Literal["fp32", "bf16"] = "fp32"
    """What products with W in 4 bits are computed in."""
    alpha: PositiveInt | None = None
    """scale = alpha / rank; twice the rank where it is not given."""
    dropout: Fraction = 0.0
    """Of what enters an update."""
    targets: Literal["attention", "all"] | tuple[str, ...] = "attention"
    """Which linear modules of the blocks: those that the kind names for it, all, or these last names."""
    embeddings: bool = False
    """Train and keep the table of code embeddings as well."""

    @property
    def in_4_bits(self) -> bool:
        """Whether W is kept in 4 bits."""
        return self.quantised or self.kind == "qlora"

    @property
    def scale(self) -> float:
        """What the product of the two factors is multiplied by.

        Examples:
            >>> AdapterConfig(rank=4).scale, AdapterConfig(kind="rslora", rank=16, alpha=8).scale
            (2.0, 2.0)
        """
        alpha = self.alpha or 2 * self.rank
        return alpha / (self.rank**0.5 if self.kind == "rslora" else self.rank)
