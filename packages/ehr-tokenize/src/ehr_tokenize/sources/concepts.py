"""OMOP's CONCEPT and its relations: from concept ids to `vocabulary/code`, names and parents."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import polars as pl

from ehr_tokenize.sources.cells import Cells
from ehr_tokenize.sources.lookup import Lookup
from ehr_tokenize.sources.tables import Dialect, column_names, kind, pieces

_PREFIX = re.compile(r"^VISIT(?:_DETAIL)?_(?:START|END)//")
_RELATIONS = ("Is a", "Maps to")


class Concepts:
    """The concepts of one CDM. Holds CONCEPT in memory (about 100 bytes a concept).

    Args:
        files: Table -> its files; without `concept` every id stays `OMOP//<id>`.
    """

    def __init__(self, files: Mapping[str, Sequence[Path]]) -> None:
        self._files = files
        schema = {"key": pl.Int64, "code": pl.String, "short": pl.String, "name": pl.String}
        frames = [pl.DataFrame(schema=schema)]
        columns = ("concept_id", "vocabulary_id", "concept_code", "concept_name")
        for cells in _read(files, "concept", columns):
            short = cells.text("concept_code")
            data = {
                "key": cells.integer("concept_id"),
                "v": cells.text("vocabulary_id"),
                "short": short,
            }
            frame = pl.DataFrame({**data, "name": cells.text("concept_name")})
            code = pl.concat_str("v", pl.lit("/"), "short")
            frames.append(
                frame.select("key", code.alias("code"), "short", "name").drop_nulls("code")
            )
        frame = pl.concat(frames)
        self._code, self._short, self.names = (
            Lookup.build(frame.select("key", pl.col(c).alias("value")))
            for c in ("code", "short", "name")
        )
        self.missing: Counter[str] = Counter()
        """Kind of gap -> events that have it."""

    def codes(self, first: pl.Series, second: pl.Series, source: pl.Series) -> pl.Series:
        """[R] code of each row.

        Args:
            first: [R] Int64 concept that is preferred; 0 and null are none.
            second: [R] Int64 that stands in for it.
            source: [R] String that stands in for both, as `OMOP_SOURCE//<text>`.
        """
        chosen = first.replace(0, None).fill_null(second.replace(0, None))
        code = self._code.get(chosen)
        unlisted, none = code.is_null() & chosen.is_not_null(), chosen.is_null()
        self.missing["unlisted"] += int(unlisted.sum())
        self.missing["none"] += int(none.sum())
        frame = pl.DataFrame({"code": code, "id": chosen, "source": source})
        return frame.select(
            pl.coalesce(
                "code",
                pl.concat_str(pl.lit("OMOP//"), "id"),
                pl.concat_str(pl.lit("OMOP_SOURCE//"), "source"),
                pl.lit("OMOP//0"),
            )
        ).to_series()

    def static(self, concept: pl.Series) -> pl.Series:
        """[R] code of each concept; null for 0 and null."""
        chosen = concept.replace(0, None)
        code = self._code.get(chosen)
        self.missing["person"] += int((code.is_null() & chosen.is_not_null()).sum())
        frame = pl.DataFrame({"code": code, "id": chosen})
        return frame.select(pl.coalesce("code", pl.concat_str(pl.lit("OMOP//"), "id"))).to_series()

    def units(self, concept: pl.Series, source: pl.Series) -> pl.Series:
        """[R] unit as text: the concept's own code (UCUM), else what the source wrote."""
        return self._short.get(concept.replace(0, None)).fill_null(source)

    def describe(self, codes: list[str]) -> Iterator[tuple[str, str | None, list[str] | None]]:
        """Rows of codes.parquet for the codes that are concepts, and for their ancestors."""
        cores = {code: _core(code) for code in codes}
        found = self._code.values.is_in(
            pl.Series(list(set(cores.values())), dtype=pl.String).implode()
        )
        wanted = set(self._code.keys[found.to_numpy()].tolist())
        parents = self._parents(wanted)
        everyone = sorted(wanted | parents.keys() | {p for ps in parents.values() for p in ps})
        ids = pl.Series(everyone, dtype=pl.Int64)
        text = dict(zip(everyone, self._code.get(ids), strict=True))
        names = dict(zip(everyone, self.names.get(ids), strict=True))
        known = {code: names[i] for i, code in text.items() if code}
        for code, core in cores.items():
            if code != core and core in known:
                yield code, known[core], [core]
        for concept in everyone:
            if text[concept]:
                above = sorted({text[p] for p in parents.get(concept, ()) if text[p]})
                yield text[concept], names[concept], above or None

    def _parents(self, wanted: set[int]) -> dict[int, set[int]]:
        """Concept -> its direct parents: for all ancestors where CONCEPT_ANCESTOR is there."""
        parents: dict[int, set[int]] = defaultdict(set)
        below, above = "descendant_concept_id", "ancestor_concept_id"
        reached = set(wanted)
        for cells in _read(self._files, "concept_ancestor", (below, above)):
            inside = np.isin(cells.integer(below).to_numpy(), list(wanted))
            reached.update(cells.integer(above).filter(pl.Series(inside)).to_list())
        level = "min_levels_of_separation"
        for cells in _read(self._files, "concept_ancestor", (below, above, level)):
            frame = pl.DataFrame({"child": cells.integer(below), "parent": cells.integer(above)})
            _add(parents, frame.filter(cells.integer(level) == 1), reached)
        columns = ("concept_id_1", "concept_id_2", "relationship_id")
        for cells in _read(self._files, "concept_relationship", columns):
            frame = pl.DataFrame(
                {"child": cells.integer(columns[0]), "parent": cells.integer(columns[1])}
            )
            _add(parents, frame.filter(cells.text(columns[2]).is_in(_RELATIONS)), reached)
        return parents


def _add(parents: dict[int, set[int]], frame: pl.DataFrame, children: set[int]) -> None:
    inside = np.isin(frame["child"].to_numpy(), list(children))
    for child, parent in frame.filter(pl.Series(inside)).iter_rows():
        if child != parent:
            parents[child].add(parent)


def _core(code: str) -> str:
    """The concept's own code in a code that may say more.

    Examples:
        >>> _core("VISIT_START//Visit/IP"), _core("LOINC/2823-3//mmol/L"), _core("OMOP//17")
        ('Visit/IP', 'LOINC/2823-3', 'OMOP//17')
    """
    code = _PREFIX.sub("", code)
    return code if code.startswith("OMOP") else code.partition("//")[0]


def _read(
    files: Mapping[str, Sequence[Path]], table: str, columns: tuple[str, ...]
) -> Iterator[Cells]:
    for path in files.get(table, ()):
        # Athena's files are tab-separated whatever their name says, with bare quotes in names
        athena = kind(path) != ".parquet" and len(column_names(path, Dialect("\t"))) > 1
        for piece in pieces(path, columns, dialect=Dialect("\t", quotes=False) if athena else None):
            yield Cells(piece)
