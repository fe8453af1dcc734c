"""Flat tables of events, with a mapping of their columns, to MEDS."""

from collections.abc import Iterator
from pathlib import Path

import polars as pl

from ehr_tokenize.sources.cells import ISO, Cells
from ehr_tokenize.sources.config import EventsConfig
from ehr_tokenize.sources.mapping import Event, Tally, Types, add_descriptions, columns_of, make
from ehr_tokenize.sources.splits import add_splits
from ehr_tokenize.sources.subjects import Subjects
from ehr_tokenize.sources.tables import Dialect, Piece, parts, pieces
from ehr_tokenize.sources.writer import Done, Source, code_rows, write_events
from ehr_tracking.files import PathLike

_TYPES: dict[str, type[pl.DataType]] = {
    "text": pl.String, "integer": pl.Int64, "number": pl.Float64,
}  # fmt: skip


def from_events(
    source: PathLike, out: PathLike, config: EventsConfig, *, overwrite: bool = False
) -> Done:
    """Turn a flat table of events, or a folder of its parts, into a MEDS data set.

    Args:
        source: CSV, TSV, JSON or Parquet, or a folder of such.
        out: The MEDS directory.
        config: Which column holds what.
        overwrite: Replace a data set that we wrote.

    Raises:
        UserError: If a mapped column is missing, a cell cannot be read, or `out` is taken.
    """
    source, out = Path(source), Path(out)
    reader = _Reader(config)
    about = Source(
        name="events",
        extras=reader.extras,
        describe=lambda _: code_rows((c, d, None) for c, d in reader.descriptions.items()),
        splits=lambda: reader.splits if config.split else None,
        extra_files=reader.subjects.write,
    )
    frames = reader.frames(parts(source))
    written = write_events(
        out, frames, config=config.write, about=about, read=source, overwrite=overwrite
    )
    return Done(reader.tallies, written)


def event_of(config: EventsConfig) -> Event:
    """The one kind of event that a mapping describes.

    Examples:
        >>> event_of(EventsConfig(subject="patient", time="at", code="what")).code
        '{what}'
    """
    bare = "{" not in config.code and "}" not in config.code
    extra = {name: x.column for name, x in config.extras.items()}
    return Event(
        code=f"{{{config.code}}}" if bare else config.code,
        time=(config.time,) if config.time else (),
        static=config.static,
        no_time=config.without_time,
        value=config.value,
        text=config.text,
        lenient=config.value == config.text,
        both=config.value != config.text,
        extra={**extra, "unit": config.unit} if config.unit else extra,
        needs=(config.code,) if bare else (),
        description=f"{{{config.description}}}" if config.description else None,
    )


def _extras(config: EventsConfig) -> Types:
    unit: Types = {"unit": pl.String} if config.unit else {}
    return {**unit, **{name: _TYPES[x.type] for name, x in config.extras.items()}}


class _Reader:
    """What is gathered from piece to piece."""

    def __init__(self, config: EventsConfig) -> None:
        self.config = config
        self.event = event_of(config)
        self.extras = _extras(config)
        self.tallies: dict[str, Tally] = {}
        self.descriptions: dict[str, str] = {}
        self.splits: dict[int, str] = {}
        self.subjects = Subjects()

    def frames(self, files: list[Path]) -> Iterator[pl.DataFrame]:
        config = self.config
        more = [c for c in (config.subject, config.split) if c]
        columns = [*more, *columns_of([self.event])]
        dialect = Dialect(config.delimiter, config.encoding)
        for file in files:
            tally = self.tallies.setdefault(file.name, Tally())
            for piece in pieces(file, columns, dialect=dialect):
                tally.rows += len(piece.frame)
                yield self._events(piece, tally)

    def _events(self, piece: Piece, tally: Tally) -> pl.DataFrame:
        config = self.config
        cells = Cells(
            piece,
            days=config.days,
            formats=config.time_formats or ISO,
            missing=config.missing,
            found=tally.missing,
        )
        subject = self.subjects.number(cells, config.subject)
        if config.split:
            add_splits(self.splits, cells, subject, config.split)
        add_descriptions(self.event, cells, self.descriptions)
        return make(self.event, cells, subject, tally, self.extras)
