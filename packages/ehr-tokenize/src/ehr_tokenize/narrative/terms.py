"""What is said of a code, before any value."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ehr_tokenize.codes.pairs import Pair, read_pairs
from ehr_tokenize.codes.phrases import PREFIXES, say_code, sex_term, squeezed
from ehr_tokenize.codes.units import split_unit
from ehr_tokenize.narrative.config import NarrateConfig, TermTable
from ehr_tracking.arrow.meds import NO_INFO, CodeInfo
from ehr_tracking.errors import UserError

BIRTH = r"^MEDS_BIRTH(//|$)"


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
        self._tables = [config.terms, *map(_table, config.lookups)]
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
            birth=bool(re.search(BIRTH, code)),
            excluded=any(p.search(code) for p in self._exclude),
            demographic=re.split("/+", code)[0]
            if any(p.search(code) for p in self._demographics)
            else None,
        )
        return phrase

    def _text(self, code: str, bare: str) -> str:
        term = self._term(code) or (self._term(bare) if bare != code else None)
        if term is None and sex_term(code) is None:
            self.unknown.add(code)
        return say_code(bare, term, self._prefixes)

    def _term(self, code: str) -> str | None:
        """From the user's tables, codes.parquet, then the same of the first parent that has one."""
        parents = self._infos.get(code, NO_INFO).parents or []
        for name in (code, *parents):
            for table in self._tables:
                if name in table:
                    return squeezed(table[name])
            description = squeezed(self._infos.get(name, NO_INFO).description or "")
            if description:
                return description
        return None


def unknown_line(unknown: tuple[str, ...]) -> list[str]:
    """What is said of codes without a term, if there are any."""
    if not unknown:
        return []
    some = ", ".join(unknown[:3])
    return [f"{len(unknown):,} codes have no term and are told as they are, such as {some}"]


def _table(lookup: TermTable) -> dict[str, str]:
    terms: dict[str, Pair] = {}
    for pair in read_pairs(lookup.table, "code", "term"):
        first = terms.setdefault(pair.key, pair)
        if first.value != pair.value:
            raise UserError(
                f"{lookup.table} row {pair.row}: code {pair.key!r} is {pair.value!r}, but row "
                f"{first.row} has {first.value!r}; drop one of them"
            )
    return {lookup.prefix + key: pair.value for key, pair in terms.items()}
