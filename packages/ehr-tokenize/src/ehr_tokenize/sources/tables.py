"""Read a source's table piece by piece: CSV, TSV, JSON or Parquet, compressed or not.

Cells of CSV and JSON arrive as text, so that no leading zero is lost; those of Parquet keep their
types. Memory is bounded by the piece, whatever the size of the file, also under gzip; only a JSON
array is held whole.
"""

import csv
import io
import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from ehr_tracking.errors import UserError
from ehr_tracking.tree import entries

COMPRESSED = (".gz", ".bz2", ".zst", ".lz4")
DELIMITED = (".csv", ".tsv", ".txt")
JSON_LINES = (".jsonl", ".ndjson")
JSON = ".json"
"""Lines of objects or one array of them, which the first character tells. In a folder of tables such
a file is no table but says something of them, unless there is nothing else."""
_BLOCK = 4 << 20
_ROWS = 1 << 16
_HEADER = 1 << 20


@dataclass(frozen=True, slots=True)
class Piece:
    """Consecutive rows of a table."""

    path: Path
    row: int
    """Of the first; the first row after the header is 1."""
    frame: pl.DataFrame
    """Its columns have the names that were asked for, whatever their case in the file."""


@dataclass(frozen=True, slots=True)
class Dialect:
    """How a text file is written."""

    delimiter: str | None = None
    """None: a tab in .tsv files, and in others whose header has tabs but no comma; else a comma."""
    encoding: str = "utf-8"
    quotes: bool = True
    """Whether a cell may stand in double quotes."""


def kind(path: Path) -> str:
    """The suffix that says how a file is written, without that of its compression.

    Examples:
        >>> kind(Path("labevents.CSV.gz")), kind(Path("person.parquet"))
        ('.csv', '.parquet')
    """
    name = path.name.lower()
    for suffix in COMPRESSED:
        name = name.removesuffix(suffix)
    return Path(name).suffix


def is_table(path: Path) -> bool:
    """Whether a file among others is one that `pieces` can read, by its name."""
    return path.is_file() and kind(path) in (*DELIMITED, *JSON_LINES, ".parquet")


def by_name(files: Iterable[Path]) -> dict[str, Path]:
    """The tables among some files by their names: lower case, to the first dot.

    Raises:
        UserError: If one is there twice, as `labs.csv` and `labs.csv.gz` are.
    """
    found: dict[str, Path] = {}
    for path in filter(is_table, files):
        name = path.name.split(".")[0].lower()
        if name in found:
            raise UserError(f"{path}: table {name} is there twice, also as {found[name]}; keep one")
        found[name] = path
    return found


def _refuse_twins(files: Sequence[Path]) -> None:
    """Raise where a part is there in two forms, as `1.csv` and `1.csv.gz` are."""
    found: dict[str, Path] = {}
    for path in files:
        name = path.name.lower()
        for suffix in COMPRESSED:
            name = name.removesuffix(suffix)
        other = found.setdefault(Path(name).stem, path)
        if other != path:
            raise UserError(f"{path}: this part is there twice, also as {other}; keep one")


def parts(path: Path) -> list[Path]:
    """A file as it is, or the files of a folder in the order of their names.

    Raises:
        UserError: If there is nothing to read, a part is there in two forms, or it is no kind of table
            that we know.
    """
    if path.is_dir():
        files = entries(path)
        found = [p for p in files if is_table(p)] or [p for p in files if kind(p) == JSON]
        if not found:
            raise UserError(f"{path}: no CSV, TSV, JSON or Parquet file in it")
        _refuse_twins(found)
        return found
    if not path.is_file():
        raise UserError(f"{path}: no such file or directory")
    if not (is_table(path) or kind(path) == JSON):
        raise UserError(f"{path}: not a CSV, TSV, JSON or Parquet file by its name")
    return [path]


def pieces(
    path: Path, columns: Sequence[str], optional: Sequence[str] = (), dialect: Dialect | None = None
) -> Iterator[Piece]:
    """The rows of one file, with the named columns.

    Args:
        path: `.csv`, `.tsv`, `.json`, `.jsonl` (each also compressed) or `.parquet`.
        columns: Must be there; a name matches exactly, else in any letter case.
        optional: Are filled with nulls where missing.
        dialect: Of a text file.

    Raises:
        UserError: If the file is damaged, or a column is missing or there twice.
    """
    dialect = dialect or Dialect()
    form = kind(path)
    try:
        if form == ".parquet":
            yield from _parquet(path, columns, optional)
        elif form in (*JSON_LINES, JSON):
            yield from _json(path, columns, optional)
        else:
            yield from _delimited(path, columns, optional, dialect)
    except (pa.ArrowException, OSError, UnicodeDecodeError, EOFError) as e:
        if isinstance(e, PermissionError):
            raise
        raise UserError(f"{path}: {_reason(e)}") from None


def match_columns(
    path: Path, names: Sequence[str], columns: Sequence[str], optional: Sequence[str]
) -> dict[str, str]:
    """Wanted name -> name in the file.

    Raises:
        UserError: If a column is missing, or there twice.
    """
    folded: dict[str, list[str]] = {}
    for name in names:
        folded.setdefault(name.casefold().strip(), []).append(name)
    found = {}
    for wanted in dict.fromkeys((*columns, *optional)):
        exact = [n for n in names if n == wanted]
        hits = exact or folded.get(wanted.casefold(), [])
        if len(hits) > 1:
            raise UserError(f"{path}: column {wanted} is there {len(hits)} times")
        if hits:
            found[wanted] = hits[0]
        elif wanted in columns:
            raise UserError(f"{path}: column {wanted} is missing; it has {', '.join(names)}")
    return found


def column_names(path: Path, dialect: Dialect | None = None) -> list[str]:
    """The columns of a delimited or Parquet file.

    Raises:
        UserError: If the file is damaged.
    """
    try:
        if kind(path) == ".parquet":
            return list(pq.read_schema(path).names)
        return _header(path, dialect or Dialect())[0]
    except (pa.ArrowException, OSError, EOFError) as e:
        raise UserError(f"{path}: {_reason(e)}") from None


def _delimited(
    path: Path, columns: Sequence[str], optional: Sequence[str], dialect: Dialect
) -> Iterator[Piece]:
    names, delimiter = _header(path, dialect)
    found = match_columns(path, names, columns, optional)
    with pa.input_stream(str(path), compression="detect") as stream:
        reader = pyarrow.csv.open_csv(
            stream,
            # one thread, so that a broken row is told by its number
            read_options=pyarrow.csv.ReadOptions(
                block_size=_BLOCK, encoding=dialect.encoding, use_threads=False
            ),
            parse_options=pyarrow.csv.ParseOptions(
                delimiter=delimiter,
                quote_char='"' if dialect.quotes else False,
                newlines_in_values=dialect.quotes,
            ),
            convert_options=pyarrow.csv.ConvertOptions(
                include_columns=list(found.values()),
                column_types=dict.fromkeys(found.values(), pa.large_string()),
                null_values=[""],
                strings_can_be_null=True,
            ),
        )
        row = 1
        for batch in reader:
            yield Piece(path, row, _select(pl.DataFrame(batch), found, optional))
            row += len(batch)


def _header(path: Path, dialect: Dialect) -> tuple[list[str], str]:
    """Names of the columns, and what stands between them."""
    with pa.input_stream(str(path), compression="detect") as stream:
        head = stream.read(_HEADER)
    try:
        # a wrong byte further down is left to the reader, which will name its column
        text = head.decode(dialect.encoding, errors="replace").removeprefix("\ufeff")
    except LookupError:
        raise UserError(f"{path}: {dialect.encoding} is no encoding that Python knows") from None
    line = text.partition("\n")[0]
    tabs = kind(path) == ".tsv" or ("\t" in line and "," not in line)
    delimiter = dialect.delimiter or ("\t" if tabs else ",")
    first = next(csv.reader(io.StringIO(text), delimiter=delimiter), None)
    if not first:
        raise UserError(f"{path} is empty: a header is needed")
    return first, delimiter


def _json(path: Path, columns: Sequence[str], optional: Sequence[str]) -> Iterator[Piece]:
    row = 1
    for objects in _objects(path):
        found: dict[str, str] = {}
        for wanted in dict.fromkeys((*columns, *optional)):
            if wanted in optional or any(wanted in o for o in objects):
                found[wanted] = wanted
            else:
                raise UserError(
                    f"{path}: key {wanted} is in none of rows {row} to {row + len(objects) - 1}"
                )
        data = {
            name: [_cell(path, row + i, name, o) for i, o in enumerate(objects)] for name in found
        }
        yield Piece(path, row, pl.DataFrame(data, schema=dict.fromkeys(found, pl.String)))
        row += len(objects)


def _objects(path: Path) -> Iterator[list[dict[str, Any]]]:
    """The objects of a file, some at a time."""
    with pa.input_stream(str(path), compression="detect") as stream:
        text = io.TextIOWrapper(stream, encoding="utf-8")
        first = text.readline()
        whole = first.lstrip().startswith("[")
        lines = itertools.chain([first] if first else [], text)
        values = iter(_array(path, first + text.read())) if whole else _values(path, lines)
        row = 1
        while block := list(islice(values, _ROWS)):
            yield [_object(path, row + i, v) for i, v in enumerate(block)]
            row += len(block)


def _array(path: Path, text: str) -> list[object]:
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as e:
        raise UserError(f"{path}: not JSON: {e}") from None
    return list(values)


def _values(path: Path, lines: Iterable[str]) -> Iterator[object]:
    for row, line in enumerate(lines, 1):
        try:
            yield json.loads(line)
        except (ValueError, RecursionError):
            raise UserError(f"{path} row {row}: not JSON") from None


def _object(path: Path, row: int, value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise UserError(f"{path} row {row}: not a JSON object")
    return value


def _cell(path: Path, row: int, name: str, record: dict[str, Any]) -> str | None:
    value = record.get(name)
    if isinstance(value, list | dict):
        raise UserError(f"{path} row {row}, column {name}: a nested value, expected text or number")
    if isinstance(value, bool):
        return str(value).lower()
    return None if value is None or value == "" else str(value)


def _parquet(path: Path, columns: Sequence[str], optional: Sequence[str]) -> Iterator[Piece]:
    with pq.ParquetFile(path) as file:
        found = match_columns(path, file.schema_arrow.names, columns, optional)
        row = 1
        for batch in file.iter_batches(_ROWS, columns=list(found.values())):
            yield Piece(path, row, _select(pl.DataFrame(batch), found, optional))
            row += len(batch)


def _select(frame: pl.DataFrame, found: dict[str, str], optional: Sequence[str]) -> pl.DataFrame:
    missing = [n for n in optional if n not in found]
    return frame.select(
        *(pl.col(there).alias(wanted) for wanted, there in found.items()),
        *(pl.lit(None, pl.String).alias(n) for n in missing),
    )


def _reason(error: Exception) -> str:
    """What a reader says, in one line, without the cells that it quotes."""
    text = " ".join(str(error).split())
    if "Expected" in text and "columns, got" in text:
        head, _, tail = text.partition("columns, got ")
        text = f"{head}columns, got {tail.split(':')[0]}"
    return text[:200]
