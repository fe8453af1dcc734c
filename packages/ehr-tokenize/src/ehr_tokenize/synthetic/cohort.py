"""Writing a synthetic cohort, block of subjects by block: as a MEDS data set or as JSON."""

import json
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from meds import schema as meds

import ehr_tokenize
from ehr_tokenize.meds.output import ETL, new_dataset
from ehr_tokenize.synthetic import codes, novel
from ehr_tokenize.synthetic.block import BLOCK, STATIC, Block, draw_block, with_novel_codes
from ehr_tokenize.synthetic.config import SynthConfig
from ehr_tokenize.synthetic.disease import Ints
from ehr_tokenize.synthetic.patients import patients_json
from ehr_tokenize.synthetic.pool import over, splits_of
from ehr_tokenize.synthetic.records import CODE_ID, VOCABULARY, Rows
from ehr_tokenize.synthetic.risks import write_risks
from ehr_tracking.config import to_dict
from ehr_tracking.contracts import SPLITS
from ehr_tracking.errors import UserError
from ehr_tracking.files import PathLike

NAME = "ehr-tokenize synthetic cohort"
SCHEMA = pa.schema(
    [
        pa.field("subject_id", pa.int64(), nullable=False),
        pa.field("time", pa.timestamp("us")),
        pa.field("code", pa.string(), nullable=False),
        pa.field("numeric_value", pa.float32()),
    ]
)


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


def synthesize(
    out: PathLike,
    config: SynthConfig,
    *,
    overwrite: bool = False,
    workers: int = 1,
    risks: bool = False,
) -> Summary:
    """Draw a cohort and write it as MEDS 0.4: `data/{split}/{block}.parquet` and `metadata/`.

    The generative model is stated in `docs/synthetic.md` and, by part, in `disease`, `course` and
    `records`. Memory is bounded by one block of subjects a worker; the same config gives the same
    bytes, whatever the number of workers.

    Args:
        out: The data set's directory.
        config: Size, seed and effects.
        overwrite: Replace a data set that we wrote; never anything else.
        workers: Processes.
        risks: Write `labels/` and `risks/` as well; see `ehr_tokenize.synthetic.risks`.

    Raises:
        UserError: If `out` exists and may not be replaced.
    """
    out = Path(out)
    with new_dataset(out, overwrite=overwrite) as directory:
        write = partial(_write_block, directory, config)
        counts = list(over(write, [(b,) for b in _blocks(config)], workers, "subjects"))
        _write_metadata(directory, config)
        if risks:
            write_risks(directory, config, workers=workers)
    events, deaths = (sum(x) for x in zip(*counts, strict=True))
    return Summary(out, config.num_patients, events, *_counts(config), deaths)


def synthesize_json(
    out: PathLike, config: SynthConfig, *, overwrite: bool = False, workers: int = 1
) -> Summary:
    """Draw a cohort and write its diagnoses and medication as one JSON file.

    Args:
        out: The file.
        config: Size, seed and effects; the subjects are those of `synthesize`.
        overwrite: Replace a file that is there.
        workers: Processes.

    Raises:
        UserError: If `out` exists and may not be replaced.
    """
    out = Path(out)
    if out.is_dir() or (out.exists() and not overwrite):
        raise UserError(f"{out} exists; choose another path or pass --overwrite")
    out.parent.mkdir(parents=True, exist_ok=True)
    partial_out = out.with_name(f".{out.name}.partial")
    events = 0
    try:
        with partial_out.open("w", encoding="utf-8") as f:
            f.write('{"patients": [')
            blocks = [(b,) for b in _blocks(config)]
            write = partial(_block_json, config)
            for k, text in enumerate(over(write, blocks, workers, "subjects")):
                f.write((",\n" if k else "\n") + text)
                events += text.count('"date"')
            f.write("\n]}\n")
        partial_out.replace(out)
    finally:
        partial_out.unlink(missing_ok=True)
    return Summary(out, config.num_patients, events, *_counts(config), 0)


def _counts(config: SynthConfig) -> tuple[int, int]:
    """Codes that are described, and those that are not."""
    described = [row for row in _code_rows(config) if row[1] is not None]
    return len(described), len(_code_rows(config)) - len(described)


def _blocks(config: SynthConfig) -> range:
    return range(-(-config.num_patients // BLOCK))


def _block_json(config: SynthConfig, number: int) -> str:
    block = draw_block(config, number)
    return patients_json(block, with_novel_codes(block.rows, config, number))


def _write_block(directory: Path, config: SynthConfig, number: int) -> tuple[int, int]:
    """One file for each split that has subjects of this block; the events and deaths in it."""
    block = draw_block(config, number)
    rows = with_novel_codes(block.rows, config, number)
    split = np.array(splits_of(block.ids, config))
    names = pa.array(VOCABULARY + novel.NOVEL)
    for name in SPLITS:
        kept = (split == name)[rows.subject]
        if kept.any():
            path = directory / "data" / name / f"{number}.parquet"
            path.parent.mkdir(parents=True, exist_ok=True)
            pq.write_table(_table(block, rows, kept, names), path, compression="zstd")
    return len(rows.code), int((rows.code == CODE_ID[codes.DEATH]).sum())


def _table(block: Block, rows: Rows, kept: Ints, names: pa.Array) -> pa.Table:
    time = rows.minute[kept]
    known = time != STATIC
    value = rows.value[kept]
    time = pa.array(np.where(known, time, 0) * 60_000_000, mask=~known).cast(pa.timestamp("us"))
    return pa.table(
        [
            pa.array(block.ids[rows.subject[kept]]),
            time,
            pa.DictionaryArray.from_arrays(pa.array(rows.code[kept]), names).cast(pa.string()),
            pa.array(value.astype(np.float32), mask=np.isnan(value)),
        ],
        schema=SCHEMA,
    )


def _code_rows(config: SynthConfig) -> list[tuple[str, str | None, list[str]]]:
    """(code, description, parents); a novel code has no description."""
    rows: list[tuple[str, str | None, list[str]]] = [*codes.code_table()]
    if config.novel_prob > 0:
        rows += [(code, None, parents) for code, parents in novel.PARENTS.items()]
    return sorted(rows, key=lambda row: row[0])


def _write_metadata(directory: Path, config: SynthConfig) -> None:
    (directory / "metadata").mkdir()
    code, description, parents = zip(*_code_rows(config), strict=True)
    table = pa.table(
        {
            "code": pa.array(code, pa.string()),
            "description": pa.array(description, pa.string()),
            "parent_codes": pa.array(parents, pa.list_(pa.string())),
        }
    )
    pq.write_table(table, directory / meds.code_metadata_filepath)
    ids = np.arange(1, config.num_patients + 1)
    splits = pa.table({"subject_id": ids, "split": splits_of(ids, config)})
    pq.write_table(splits, directory / meds.subject_splits_filepath)
    drawn_from = {key: value for key, value in to_dict(config).items() if key != "risks"}
    about = {
        "dataset_name": NAME,
        "dataset_version": json.dumps(drawn_from, sort_keys=True),
        "etl_name": ETL,
        "etl_version": ehr_tokenize.__version__,
        "meds_version": version("meds"),
    }
    (directory / meds.dataset_metadata_filepath).write_text(
        json.dumps(about, indent=1) + "\n", encoding="utf-8"
    )
