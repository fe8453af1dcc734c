"""What is said of a code, before any value."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ehr_tokenize.narrative.config import Lookup, NarrateConfig
from ehr_tokenize.units import split_unit
from ehr_tokenize.user_table import Pair, read_pairs
from ehr_tokenize.vocabulary import NO_INFO, CodeInfo
from ehr_tracking.errors import UserError

PREFIXES = {
    "DRG": "DRG",
    "INFUSION_END": "infusion end",
    "INFUSION_START": "infusion start",
    "INSURANCE": "insurance",
    "LAB//RESULT": "",
    "LAB//SPECIMEN_COLLECTED": "specimen collected",
    "LANGUAGE": "language",
    "MARITAL_STATUS": "marital status",
    "MEDICATION//START": "medication start",
    "MEDICATION//STOP": "medication stop",
    "PROCEDURE//END": "procedure end",
    "PROCEDURE//START": "procedure start",
    "RACE": "race",
    "SUBJECT_WEIGHT_AT_INFUSION": "weight",
}
"""How the beginning of a code is said where it tells something that the rest, or the term of the
whole code, does not. The longest counts; one that is in no table is left out: `ICD10CM//I10` is told
as what I10 means."""
EVENTS = {
    "ADMISSION": "admission",
    "ED_OUT": "emergency department out",
    "ED_REGISTRATION": "emergency department registration",
    "HOSPITAL_ADMISSION": "hospital admission",
    "HOSPITAL_DISCHARGE": "hospital discharge",
    "ICU_ADMISSION": "intensive care admission",
    "ICU_DISCHARGE": "intensive care discharge",
    "MEDS_BIRTH": "birth",
    "MEDS_DEATH": "death",
    "REGISTRATION": "registration",
    "TRANSFER_TO": "transfer to",
    "VISIT": "visit",
    "VISIT_END": "visit end",
    "VISIT_START": "visit start",
}
"""The same for beginnings that a term of the whole code says itself; said where there is none."""
SEXES = {"F": "female", "M": "male"}
_SAYS_NOTHING = {"", "?", "n/a", "na", "none", "null", "other", "unk", "unknown"}
"""A rest that is told with its beginning only: `SMOKING//UNKNOWN`, not a bare "UNKNOWN"."""
_SEX = re.compile(r"^(?i:GENDER|SEX)/+(?P<sex>[FM])$")
_BIRTH = re.compile(r"^MEDS_BIRTH(//|$)")


@dataclass(frozen=True, slots=True)
class Phrase:
    """What a code becomes."""

    text: str
    unit: str
    """Empty where the code holds none."""
    birth: bool
    excluded: bool
    demographic: str | None
    """The beginning of the code where it is told first, else None."""


class Terms:
    """Looks codes up, each once."""

    def __init__(self, infos: Mapping[str, CodeInfo], config: NarrateConfig) -> None:
        self._infos, self._config = infos, config
        self._tables = [_table(lookup) for lookup in config.lookups]
        self._prefixes = PREFIXES | config.prefixes
        self._demographics = [re.compile(p) for p in config.demographics]
        self._exclude = [re.compile(p) for p in config.exclude]
        self._phrases: dict[str, Phrase] = {}
        self.unknown: set[str] = set()
        """Codes met so far for which there is no term; they were told by themselves."""

    def phrases(self, codes: Iterable[str]) -> list[Phrase]:
        """What each code becomes."""
        return [self._phrases.get(c) or self._add(c) for c in codes]

    def _add(self, code: str) -> Phrase:
        bare, unit = split_unit(code, self._config.unit_codes, self._config.no_unit)
        phrase = self._phrases[code] = Phrase(
            text=self._text(code, bare),
            unit=unit,
            birth=bool(_BIRTH.search(code)),
            excluded=any(p.search(code) for p in self._exclude),
            demographic=re.split("/+", code)[0]
            if any(p.search(code) for p in self._demographics)
            else None,
        )
        return phrase

    def _text(self, code: str, bare: str) -> str:
        sex = _SEX.search(code)
        term = self._term(code) or (self._term(bare) if bare != code else None)
        if term is None and sex:
            term = SEXES[sex["sex"].upper()]
        begin = self._beginning(bare)
        said = self._prefixes.get(begin, "")
        if term is None:
            self.unknown.add(code)
            said = said or EVENTS.get(begin, "")
            rest = bare[len(begin) :]
            term = _readable(rest)
            if not said and term.lower() in _SAYS_NOTHING:
                term = _readable(bare)
        return _joined(said, term) or "(empty code)"

    def _beginning(self, code: str) -> str:
        """The longest known beginning, else what stands before the first `//`."""
        parts = code.split("//")
        for n in range(len(parts), 0, -1):
            begin = "//".join(parts[:n])
            if begin in self._prefixes or begin in EVENTS:
                return begin
        return parts[0] if len(parts) > 1 else ""

    def _term(self, code: str) -> str | None:
        """From the user's tables, codes.parquet, then the same of the first parent that has one."""
        parents = self._infos.get(code, NO_INFO).parents or []
        for name in (code, *parents):
            for table in self._tables:
                if name in table:
                    return _clean(table[name])
            description = _clean(self._infos.get(name, NO_INFO).description or "")
            if description:
                return description
        return None


def _table(lookup: Lookup) -> dict[str, str]:
    terms: dict[str, Pair] = {}
    for pair in read_pairs(lookup.table, "code", "term"):
        first = terms.setdefault(pair.key, pair)
        if first.value != pair.value:
            raise UserError(
                f"{lookup.table} row {pair.row}: code {pair.key!r} is {pair.value!r}, but row "
                f"{first.row} has {first.value!r}; drop one of them"
            )
    return {lookup.prefix + key: pair.value for key, pair in terms.items()}


def _readable(code: str) -> str:
    """`HEART_FAILURE//LEFT` -> `HEART FAILURE LEFT`."""
    return _clean(code.replace("//", " ").replace("_", " "))


def _clean(text: str) -> str:
    return " ".join(text.split())


def _joined(*parts: str) -> str:
    return " ".join(p for p in parts if p)
