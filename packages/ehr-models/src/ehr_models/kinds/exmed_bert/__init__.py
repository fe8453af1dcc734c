"""ExMed-BERT: a bidirectional encoder over drugs and diagnoses, age, sex and region; without torch."""

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field, PositiveInt
from pydantic.dataclasses import dataclass

from ehr_models.kinds.exmed_bert.words import DIAGNOSES, DRUGS, REGIONS, SEXES, lookups
from ehr_models.kinds.record import ArchitectureConfig, Initialization, Kind, Size, one_of
from ehr_tracking.config import STRICT, Regex

SIZES = {
    "tiny": Size(32, 1, 1, 64, 512),
    "small": Size(64, 2, 2, 128, 512),
    "medium": Size(128, 4, 4, 256, 512),
    "large": Size(288, 6, 6, 576, 512),
    "paper": Size(288, 6, 6, 512, 512),
}


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ExMedBertModelConfig(ArchitectureConfig):
    """ExMed-BERT (Lentzen et al. 2023): code, entity, age, sex, region and visit, summed."""

    kind: Literal["exmed_bert"] = "exmed_bert"
    size: Annotated[str, one_of(SIZES)] = "small"
    entities: Mapping[str, tuple[Regex, ...]] = Field(
        default_factory=lambda: {"drug": DRUGS, "diagnosis": DIAGNOSES}
    )
    """What a code is: name -> patterns, one of which is found in the code. Each has a row of its
    table, the first that fits; the rest of the codes share another."""
    sex: tuple[Regex, ...] = SEXES
    """Patterns of the codes that tell a subject's sex, e.g. GENDER//F."""
    region: tuple[Regex, ...] = REGIONS
    """Patterns of the codes that tell where a subject lives, e.g. STATE//NY."""
    sexes: PositiveInt = 4
    """Rows of the table of sexes: one for unknown, one for each code of the vocabulary that tells it."""
    regions: PositiveInt = 64
    """Rows of the table of regions, likewise."""
    position: Literal["sinusoid", "learned"] = "sinusoid"
    """How the ordinal of the visit is encoded."""
    initialization: Initialization = "orthogonal"


EXMED_BERT = Kind(
    name="exmed_bert",
    config=ExMedBertModelConfig,
    sizes=SIZES,
    module="ehr_models.kinds.exmed_bert.model",
    sees="all",
    inputs={"input_ids": "input_ids", "age": "age", "visit": "visit"},
    lookups=lookups,
    token_head=("head",),
    adapters=("q_proj", "k_proj", "v_proj", "o_proj"),
    files=(
        "ehr_models.kinds.exmed_bert.model",
        "ehr_models.layers.encoder",
        "ehr_models.layers.embeddings",
    ),
)
