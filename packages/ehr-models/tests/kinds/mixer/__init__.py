"""A mixer: each token takes in the few before it; without torch."""

from typing import Annotated, Literal

from pydantic import PositiveInt
from pydantic.dataclasses import dataclass

from ehr_models.kinds.record import ArchitectureConfig, Kind, Size, one_of
from ehr_tracking.config import STRICT

SIZES = {"tiny": Size(32, 2, 2, 64, 2048), "small": Size(128, 4, 2, 256, 2048)}


@dataclass(frozen=True, kw_only=True, config=STRICT)
class MixerModelConfig(ArchitectureConfig):
    """Causal mixer over the last few tokens."""

    kind: Literal["mixer"] = "mixer"
    size: Annotated[str, one_of(SIZES)] = "small"
    taps: PositiveInt | None = None
    """How many tokens back, itself included."""


MIXER = Kind(
    name="mixer",
    config=MixerModelConfig,
    sizes=SIZES,
    module="ehr_models.kinds.mixer.model",
    sees="past",
    isolates="reset",
    inputs={"input_ids": "input_ids", "position_ids": "position_ids"},
    token_head=("lm_head",),
    adapters=("up", "down"),
    files=("ehr_models.kinds.mixer.model",),
)
