"""What ExMed-BERT takes from the vocabulary: the entity of each code, and who is told of by it. V codes."""

import re
from collections.abc import Sequence
from typing import Any

from ehr_tracking.config import ConfigError

DRUGS = (r"(^|/)(ATC|RxNorm|RXNORM|NDC)/", r"^(DRUG|MEDICATION|PRESCRIPTION)(/|$)")
DIAGNOSES = (
    r"(^|/)(ICD(9|10)(CM)?|PHECODE|PheCode|phecode)/",
    r"^(DIAGNOSIS|CONDITION)(/|$)",
)
SEXES = (r"^(?i:(MEDS_)?(GENDER|SEX))/",)
REGIONS = (r"^(?i:REGION|STATE|PROVINCE|COUNTY)/",)


def lookups(config: Any, codes: Sequence[str]) -> dict[str, list[int]]:  # noqa: ANN401 -- ExMedBertModelConfig
    """Buffers of the embeddings, [V] each; 0 is any other code, or unknown.

    Args:
        config: `ExMedBertModelConfig`.
        codes: The code of each token, or its text where it stands for none.

    Raises:
        ConfigError: If the vocabulary tells of more sexes or regions than their tables hold.

    Examples:
        >>> from ehr_models.kinds.exmed_bert import ExMedBertModelConfig
        >>> codes = ["[PAD]", "SEX//F", "MEDICATION//ATC//C07AB02", "PHECODE//250.1", "SEX//M", "LAB//1"]
        >>> for name, values in lookups(ExMedBertModelConfig(), codes).items():
        ...     print(name, values)
        embeddings.entity_of [0, 0, 1, 2, 0, 0]
        embeddings.sex_of [0, 1, 0, 0, 2, 0]
        embeddings.region_of [0, 0, 0, 0, 0, 0]
    """
    return {
        "embeddings.entity_of": _first_that_fits(list(config.entities.values()), codes),
        "embeddings.sex_of": _numbered(config.sex, codes, "sexes", config.sexes),
        "embeddings.region_of": _numbered(config.region, codes, "regions", config.regions),
    }


def _first_that_fits(entities: list[Sequence[str]], codes: Sequence[str]) -> list[int]:
    numbers = dict.fromkeys(codes, 0)
    for number, patterns in reversed(list(enumerate(entities, start=1))):
        numbers.update(dict.fromkeys(filter(_found(patterns), codes), number))
    return [numbers[code] for code in codes]


def _numbered(patterns: Sequence[str], codes: Sequence[str], table: str, rows: int) -> list[int]:
    """1, 2, ... for the distinct codes that fit, in the order of the vocabulary."""
    fitting = dict.fromkeys(filter(_found(patterns), codes))
    if len(fitting) >= rows:
        raise ConfigError(
            f"the vocabulary tells of {len(fitting)} {table} ({next(iter(fitting))} and so on), but "
            f"model.{table} = {rows} holds {rows - 1} beside the unknown: raise it, or narrow the patterns"
        )
    numbers = {code: number for number, code in enumerate(fitting, start=1)}
    return [numbers.get(code, 0) for code in codes]


def _found(patterns: Sequence[str]) -> Any:  # noqa: ANN401 -- a predicate of codes
    one = re.compile("|".join(f"(?:{pattern})" for pattern in patterns) or r"(?!)")
    return one.search
