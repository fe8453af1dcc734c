"""BERT, the class of transformers; without torch."""

from typing import Annotated, Literal

from pydantic.dataclasses import dataclass

from ehr_models.kinds.record import ArchitectureConfig, Kind, Size, one_of
from ehr_tracking.config import STRICT

SIZES = {
    "tiny": Size(128, 2, 2, 512, 512),
    "mini": Size(256, 4, 4, 1024, 512),
    "small": Size(512, 4, 8, 2048, 512),
    "medium": Size(512, 8, 8, 2048, 512),
    "base": Size(768, 12, 12, 3072, 512),
    "large": Size(1024, 24, 16, 4096, 512),
    "xlarge": Size(1312, 48, 16, 3072, 1024),
    "huge": Size(1280, 96, 64, 3072, 1024),
}
"""To `large` as published; `xlarge` and `huge` are what hf_ehr calls large and xlarge."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class BertModelConfig(ArchitectureConfig):
    """BERT (Devlin et al. 2019; smaller sizes Turc et al. 2019): bidirectional encoder."""

    kind: Literal["bert"] = "bert"
    size: Annotated[str, one_of(SIZES)] = "base"


BERT = Kind(
    name="bert",
    config=BertModelConfig,
    sizes=SIZES,
    module="ehr_models.kinds.bert.model",
    sees="all",
    inputs={
        "input_ids": "input_ids",
        "position_ids": "position_ids",
        "token_type_ids": "segment",
    },
    token_head=("cls",),
    adapters=("query", "key", "value"),
)
