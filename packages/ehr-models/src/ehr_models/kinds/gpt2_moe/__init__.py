"""GPT-2 without biases, with experts in every n-th layer; without torch."""

from typing import Annotated, Literal, Self

from pydantic import Field, PositiveInt, model_validator
from pydantic.dataclasses import dataclass

from ehr_models.kinds.record import ArchitectureConfig, Kind, Size, one_of
from ehr_tracking.config import STRICT

WIDTHS = {
    "small": Size(256, 6, 8, 1024, 1024),
    "base": Size(768, 12, 12, 3072, 1024),
    "medium": Size(1024, 24, 16, 4096, 1024),
}
EXPERTS = {"tiny": 4} | {
    f"{name}-{suffix}": experts
    for name in WIDTHS
    for suffix, experts in (("monolith", 1), ("2", 2), ("4", 4), ("8", 8))
}
"""Of each size; one is a plain MLP."""
SIZES = {"tiny": Size(128, 4, 4, 512, 1024)} | {
    name: WIDTHS[name.partition("-")[0]] for name in EXPERTS if name != "tiny"
}


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Gpt2MoeModelConfig(ArchitectureConfig):
    """GPT-2 without biases, whose MLP is a mixture of experts in every n-th layer."""

    kind: Literal["gpt2_moe"] = "gpt2_moe"
    size: Annotated[str, one_of(SIZES)] = "base-8"
    experts: PositiveInt | None = None
    """In each layer that has such; 1 is a plain MLP in all."""
    top_k: PositiveInt | None = None
    """Experts that a token goes to; half of them, at most 2, where not given."""
    every: PositiveInt = 2
    """The last of each so many layers has experts."""
    shared: bool = False
    """One more expert that every token goes to."""
    balance: Annotated[float, Field(ge=0)] = 0.01
    """Weight of the load-balancing loss."""
    z: Annotated[float, Field(ge=0)] = 0.001
    """Weight of the router's z-loss."""
    bias_rate: Annotated[float, Field(ge=0)] = 0.0
    """Balance without a loss: how far choices are moved after each step, e.g. 0.001."""

    @property
    def expert_count(self) -> int:
        """Experts of a layer, by the size where not given."""
        return self.experts or EXPERTS[self.size]

    @property
    def chosen(self) -> int:
        """Experts of a token."""
        return self.top_k or max(1, min(2, self.expert_count // 2))

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.chosen > self.expert_count:
            raise ValueError(f"top_k = {self.top_k}, but there are {self.expert_count} experts")
        layers = self.layers or SIZES[self.size].layers
        if self.expert_count > 1 and self.every > layers:
            raise ValueError(f"every = {self.every}, but there are {layers} layers")
        return self


GPT2_MOE = Kind(
    name="gpt2_moe",
    config=Gpt2MoeModelConfig,
    sizes=SIZES,
    module="ehr_models.kinds.gpt2_moe.model",
    sees="past",
    incremental=True,
    inputs={"input_ids": "input_ids", "position_ids": "position_ids"},
    token_head=("lm_head",),
    adapters=("c_attn",),
    files=("ehr_models.kinds.gpt2_moe.model", "ehr_models.layers.experts"),
    auxiliary={"balance": "balance", "z": "z"},
)
