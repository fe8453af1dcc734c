"""Writing a world as a MEDS data set, block of subjects by block."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from meds import schema as meds

import ehr_tokenize
from ehr_tokenize.meds.output import ETL, new_dataset
from ehr_tokenize.synthetic.pool import over, splits_of
from ehr_tokenize.synthetic.rows import STATIC, Bools, Ints, Rows
from ehr_tracking.contracts import SPLITS

DEATH = "MEDS_DEATH"
SCHEMA = pa.schema(
    [
        pa.field("subject_id", pa.int64(), nullable=False),
        pa.field("time", pa.timestamp("us")),
        pa.field("code", pa.string(), nullable=False),
        pa.field("numeric_value", pa.float32()),
    ]
)
CodeRow = tuple[str, str | None, list[str]]
"""Code, description, parents; a novel code has no description."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """All that is needed to write one data set."""

    name: str
    """`dataset_name`."""
    num_patients: int
    seed: int
    """Of the splits."""
    settings: Mapping[str, Any]
    """What the subjects are drawn from; becomes `dataset_version`."""
    codes: Sequence[CodeRow]
    """Of `codes.parquet`, by code."""
    names: Sequence[str]
    """What `Rows.code` counts."""
    block: int
    """Subjects a block."""
    draw: Callable[[int], tuple[Ints, Rows]]
    """Number of a block -> `subject_id`, [N], and every event in order; picklable."""
    risks: Callable[[Path, int], None]
    """Directory, workers: writes labels and risks."""

    @property
    def blocks(self) -> range:
        """The numbers of its blocks."""
        return range(-(-self.num_patients // self.block))

    def count_codes(self) -> tuple[int, int]:
        """Codes that are described, and those that are not."""
        described = sum(row[1] is not None for row in self.codes)
        return described, len(self.codes) - described


@dataclass(frozen=True, slots=True)
class Summary:
    """What was written."""

    path: Path
    subjects: int
    events: int
    described: int
    """Codes with a description."""
    novel: int
    """Codes with parents alone."""
    deaths: int


def write_dataset(
    out: Path, recipe: Recipe, *, overwrite: bool, workers: int, risks: bool
) -> Summary:
    """Write MEDS 0.4: `data/{split}/{block}.parquet` and `metadata/`.

    Memory is bounded by one block of subjects a worker; the same recipe gives the same bytes,
    whatever the number of workers.

    Args:
        out: The data set's directory.
        recipe: What goes into it.
        overwrite: Replace a data set that we wrote; never anything else.
        workers: Processes.
        risks: Write `labels/` and `risks/` as well.

    Raises:
        UserError: If `out` exists and may not be replaced.
    """
    with new_dataset(out, overwrite=overwrite) as directory:
        write = partial(_write_block, directory, recipe.draw, tuple(recipe.names), recipe.seed)
        counts = list(over(write, [(b,) for b in recipe.blocks], workers, "subjects"))
        _write_metadata(directory, recipe)
        if risks:
            recipe.risks(directory, workers)
    events, deaths = (sum(x) for x in zip(*counts, strict=True))
    return Summary(out, recipe.num_patients, events, *recipe.count_codes(), deaths)


def _write_block(
    directory: Path,
    draw: Callable[[int], tuple[Ints, Rows]],
    names: Sequence[str],
    seed: int,
    number: int,
) -> tuple[int, int]:
    """One file for each split that has subjects of this block; the events and deaths in it."""
    ids, rows = draw(number)
    split = np.array(splits_of(ids, seed))
    vocabulary = pa.array(names)
    for name in SPLITS:
        kept = (split == name)[rows.subject]
        if kept.any():
            path = directory / "data" / name / f"{number}.parquet"
            path.parent.mkdir(parents=True, exist_ok=True)
            pq.write_table(_table(ids, rows, kept, vocabulary), path, compression="zstd")
    return len(rows.code), int((rows.code == names.index(DEATH)).sum())


def _table(ids: Ints, rows: Rows, kept: Bools, names: pa.Array) -> pa.Table:
    time = rows.minute[kept]
    known = time != STATIC
    value = rows.value[kept]
    time = pa.array(np.where(known, time, 0) * 60_000_000, mask=~known).cast(pa.timestamp("us"))
    return pa.table(
        [
            pa.array(ids[rows.subject[kept]]),
            time,
            pa.DictionaryArray.from_arrays(pa.array(rows.code[kept]), names).cast(pa.string()),
            pa.array(value.astype(np.float32), mask=np.isnan(value)),
        ],
        schema=SCHEMA,
    )


def _write_metadata(directory: Path, recipe: Recipe) -> None:
    (directory / "metadata").mkdir()
    code, description, parents = zip(*recipe.codes, strict=True)
    table = pa.table(
        {
            "code": pa.array(code, pa.string()),
            "description": pa.array(description, pa.string()),
            "parent_codes": pa.array(parents, pa.list_(pa.string())),
        }
    )
    pq.write_table(table, directory / meds.code_metadata_filepath)
    ids = np.arange(1, recipe.num_patients + 1)
    splits = pa.table({"subject_id": ids, "split": splits_of(ids, recipe.seed)})
    pq.write_table(splits, directory / meds.subject_splits_filepath)
    about = {
        "dataset_name": recipe.name,
        "dataset_version": json.dumps(recipe.settings, sort_keys=True),
        "etl_name": ETL,
        "etl_version": ehr_tokenize.__version__,
        "meds_version": version("meds"),
    }
    (directory / meds.dataset_metadata_filepath).write_text(
        json.dumps(about, indent=1) + "\n", encoding="utf-8"
    )
