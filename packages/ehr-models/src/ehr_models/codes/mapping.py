"""Which code of which vocabulary a MEDS code stands for, told by patterns."""

import re
from collections.abc import Sequence
from typing import Self

from pydantic import model_validator
from pydantic.dataclasses import dataclass

from ehr_models.codes.systems import normal
from ehr_models.codes.vectors import Key
from ehr_tracking.config import STRICT

_NAMES = {
    "icd10cm": "ICD10CM|ICD10",
    "icd9cm": "ICD9CM|ICD9Proc|ICD9",
    "atc": "ATC",
    "cpt": "CPT4|CPT",
    "rxnorm": "RxNorm",
    "snomedct": "SNOMEDCT_US|SNOMEDCT|SNOMED",
    "lnc": "LOINC|LNC",
    "phecode": "PheCode",
    "umls": "UMLS_CUI|UMLS",
}
"""Vocabulary of ClinVec -> what others call it."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Rule:
    """What one pattern finds."""

    pattern: str
    """Regular expression of the whole MEDS code, in any letter case."""
    vocabulary: str
    """One of ClinVec's, or any other that the tables name."""
    code: str = "{0}"
    """The code, of the groups of the pattern, which are counted from 0."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        try:
            self.code.format(*[""] * re.compile(self.pattern).groups)
        except re.error as e:
            raise ValueError(f"pattern is not a regular expression: {e}") from None
        except (IndexError, KeyError, ValueError):
            raise ValueError(f"code {self.code!r} names a group that the pattern lacks") from None
        return self


DEFAULT_RULES = (
    Rule(pattern=r"DIAGNOSIS//ICD//10//([^/]+)", vocabulary="icd10cm"),
    Rule(pattern=r"DIAGNOSIS//ICD//9//([^/]+)", vocabulary="icd9cm"),
    Rule(pattern=r"PROCEDURE//ICD//9//(\d\d)\.?(\d*)", vocabulary="icd9cm", code="{0}.{1}"),
    # level I of HCPCS is CPT
    Rule(pattern=r"(?:.*//)?HCPCS//?(\d{4}[\dFTUM])", vocabulary="cpt"),
    *(
        Rule(pattern=rf"(?:.*//)?(?:{names})(?://?|:)([^/]+)(?://.*)?", vocabulary=vocabulary)
        for vocabulary, names in _NAMES.items()
    ),
)
"""What the sources of ehr-tokenize write: MIMIC-IV's `DIAGNOSIS//ICD//10//E1165`, OMOP's
`ICD10CM/E11.65` and `LOINC/2823-3//mmol/L`, `MEDICATION//ATC//N02BE01` of JSON and synthetic patients."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class MappingConfig:
    """Rules in the order in which they are tried; the first that matches says it all."""

    rules: tuple[Rule, ...] = ()
    """Tried before the defaults."""
    defaults: bool = True
    """Whether the default rules stand behind."""


class Mapping:
    """Rules, ready to be asked."""

    def __init__(self, rules: Sequence[Rule] = DEFAULT_RULES) -> None:
        """Get ready."""
        self._rules = [(re.compile(r.pattern, re.IGNORECASE), r) for r in rules]

    def locate(self, code: str) -> Key | None:
        """The code that a MEDS code stands for; None where no rule knows it.

        Examples:
            >>> found = Mapping()
            >>> str(found.locate("DIAGNOSIS//ICD//10//E1165")), found.locate("GENDER//F")
            ('icd10cm:E11.65', None)
            >>> str(found.locate("PROCEDURE//ICD//9//0039")), str(found.locate("HCPCS/99213"))
            ('icd9cm:00.39', 'cpt:99213')
            >>> str(found.locate("LAB//LOINC//2823-3//mmol/L")), str(found.locate("ATC/N02BE"))
            ('lnc:2823-3', 'atc:N02BE')
        """
        for pattern, rule in self._rules:
            found = pattern.fullmatch(code)
            if found:
                return normal(Key(rule.vocabulary, rule.code.format(*found.groups(default=""))))
        return None


def mapping_of(config: MappingConfig) -> Mapping:
    """The rules of a config."""
    return Mapping((*config.rules, *(DEFAULT_RULES if config.defaults else ())))
