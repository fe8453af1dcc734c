"""An OMOP CDM (5.3, 5.4) in CSV or Parquet files to MEDS."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import polars as pl

from ehr_tokenize.sources import omop_tables as known
from ehr_tokenize.sources.cells import Cells
from ehr_tokenize.sources.concepts import Concepts
from ehr_tokenize.sources.config import OmopConfig
from ehr_tokenize.sources.mapping import CORE, Event, Tally, make
from ehr_tokenize.sources.release import require_directory, require_tables, unmatched
from ehr_tokenize.sources.tables import Piece, column_names, is_table, kind, parts, pieces
from ehr_tokenize.sources.writer import Done, Source, code_rows, write_events
from ehr_tracking.errors import UserError
from ehr_tracking.files import PathLike
from ehr_tracking.tree import entries

EXTRAS = {"visit_id": pl.Int64, "unit": pl.String}
_PERSON = ("gender_concept_id", "race_concept_id", "ethnicity_concept_id")
_BORN = ("month_of_birth", "day_of_birth", "birth_datetime")


def from_omop(
    source: PathLike, out: PathLike, config: OmopConfig, *, overwrite: bool = False
) -> Done:
    """Turn an OMOP CDM into a MEDS data set.

    Codes are `vocabulary/code` of the concept; a concept that CONCEPT lacks stays `OMOP//<id>`, and
    an event without concept is named by its source value, `OMOP_SOURCE//<text>`. Both are counted.

    Args:
        source: A file or a folder of parts for each table, in any letter case.
        out: The MEDS directory.
        config: Settings.
        overwrite: Replace a data set that we wrote.

    Raises:
        UserError: If there is no table, a cell cannot be read, or `out` is taken.
    """
    source, out = Path(source), Path(out)
    reader = _Reader(source, config)
    about = Source(
        name="OMOP",
        extras=EXTRAS,
        describe=lambda codes: code_rows(reader.concepts.describe(codes)),
    )
    written = write_events(
        out, reader.frames(), config=config.write, about=about, read=source, overwrite=overwrite
    )
    return Done(reader.tallies, written, reader.notes())


class _Reader:
    """The files of one CDM, and what is gathered while they are read."""

    def __init__(self, source: Path, config: OmopConfig) -> None:
        require_directory(source)
        self.config = config
        self.used = ("person", "death", *(t.name for t in known.TABLES))
        self.files = _find(source)
        require_tables(
            source, self.files, self.used, config.without,
            kind="OMOP CDM: no person.csv, measurement.parquet or such",
        )  # fmt: skip
        self.tallies: dict[str, Tally] = {}
        self.concepts = Concepts(self.files)

    def notes(self) -> list[str]:
        """What was missing, and what was there but is not read; a line each."""
        lines = unmatched(self.files, (*self.used, *known.VOCABULARY), self.config.without)
        counts = self.concepts.missing
        if counts["unlisted"]:
            lines.append(
                f"kept as OMOP//<id>: {counts['unlisted']:,} events whose concept CONCEPT lacks"
            )
        if counts["person"]:
            lines.append(
                f"kept as OMOP//<id>: {counts['person']:,} static events (sex, race, ethnicity) whose "
                "concept CONCEPT lacks"
            )
        if counts["none"]:
            lines.append(f"kept by source value: {counts['none']:,} events without concept")
        return lines

    def frames(self) -> Iterator[pl.DataFrame]:
        """Events of every table that is there."""
        for cells, tally in self._cells(
            "person", ("person_id", "year_of_birth"), (*_PERSON, *_BORN)
        ):
            yield from self._made(self._person(cells), known.PERSON, tally)
        for cells, tally in self._cells("death", ("person_id",), known.DEATH.time):
            yield from self._made(cells, (known.DEATH,), tally)
        for table in known.TABLES:
            events = table.events
            if table.value and self.config.unit == "code":
                unit = f"//{{{known.UNIT}}}"
                events = tuple(replace(e, code=e.code + unit) for e in events)
            self._refuse_timeless(table)
            for cells, tally in self._cells(table.name, table.required, table.optional):
                yield from self._made(self._computed(cells, table), events, tally)

    def _cells(
        self, name: str, columns: tuple[str, ...], optional: tuple[str, ...]
    ) -> Iterator[tuple[Cells, Tally]]:
        if name in self.config.without:
            return
        for path in self.files.get(name, ()):
            tally = self.tallies.setdefault(name, Tally())
            for piece in pieces(path, columns, optional):
                tally.rows += len(piece.frame)
                config = self.config
                yield (
                    Cells(
                        piece,
                        config.days,
                        midnight_is_day=config.midnight == "day",
                        missing=config.missing,
                        found=tally.missing,
                    ),
                    tally,
                )

    def _made(
        self, cells: Cells, events: tuple[Event, ...], tally: Tally
    ) -> Iterator[pl.DataFrame]:
        subject = cells.integer("person_id")
        for event in events:
            yield make(event, cells, subject, tally, EXTRAS)

    def _refuse_timeless(self, table: known.Table) -> None:
        for path in self.files.get(table.name, ()):
            if kind(path) in {".jsonl", ".ndjson"} or table.name in self.config.without:
                continue
            names = {n.casefold() for n in column_names(path)}
            if not names & set(table.times):
                raise UserError(f"{path}: column {' or '.join(table.times)} is missing")

    def _person(self, cells: Cells) -> Cells:
        """Birth as exact as it is known, and the codes of sex, race and ethnicity."""
        parts = {"y": cells.integer("year_of_birth"), "m": cells.integer("month_of_birth"),
                 "d": cells.integer("day_of_birth")}  # fmt: skip
        date = pl.datetime("y", pl.col("m").fill_null(1), pl.col("d").fill_null(1))
        day = pl.DataFrame(parts).select(date.cast(CORE["time"])).to_series()
        exact = Cells(cells.piece, "start", missing=cells.missing, found=cells.found).time(
            "birth_datetime"
        )
        made = {known.BIRTH: exact.fill_null(day)}
        for column in _PERSON:
            made[column.removesuffix("_concept_id")] = self.concepts.static(cells.integer(column))
        return Cells(
            _with(cells.piece, made), self.config.days, missing=cells.missing, found=cells.found
        )

    def _computed(self, cells: Cells, table: known.Table) -> Cells:
        """Code, unit and text of each row."""
        first, second = f"{table.concept}_concept_id", f"{table.concept}_source_concept_id"
        if self.config.concept == "source":
            first, second = second, first
        source = cells.text(f"{table.concept}_source_value")
        made = {
            known.CODE: self.concepts.codes(cells.integer(first), cells.integer(second), source)
        }
        if table.value:
            made[known.UNIT] = self.concepts.units(
                cells.integer("unit_concept_id"), cells.text("unit_source_value")
            )
            made[known.TEXT] = self._text(cells)
        return cells.on(_with(cells.piece, made))

    def _text(self, cells: Cells) -> pl.Series:
        """The value as text: as written, else the name of its concept, else the source's own."""
        concept = cells.integer("value_as_concept_id").replace(0, None)
        text = cells.text("value_as_string").fill_null(self.concepts.names.get(concept))
        bare = cells.text("value_source_value").set(
            cells.number("value_as_number").is_not_null(), None
        )
        return text.fill_null(bare)


def _find(source: Path) -> dict[str, list[Path]]:
    """Table -> its files: `PERSON.csv.gz`, `person.parquet`, or a folder `person/` of parts."""
    found: dict[str, list[Path]] = {}
    for path in entries(source):
        if not (path.is_dir() or is_table(path)):
            continue
        name = path.name.split(".")[0].lower()
        if name in found:
            raise UserError(f"{path}: table {name} is there twice, also as {found[name][0]}")
        if is_table(path) or any(map(is_table, path.iterdir())):
            found[name] = parts(path)
    return found


def _with(piece: Piece, columns: dict[str, pl.Series]) -> Piece:
    frame = piece.frame.with_columns(series.alias(name) for name, series in columns.items())
    return Piece(piece.path, piece.row, frame)
