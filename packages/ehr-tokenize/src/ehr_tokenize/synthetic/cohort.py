"""Writing a synthetic cohort as a MEDS data set, block of subjects by block."""

import json
import shutil
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from meds import schema as meds
from tqdm import tqdm

import ehr_tokenize
from ehr_tokenize.meds import SPLITS, assign_splits
from ehr_tokenize.synthetic import codes, records
from ehr_tokenize.synthetic.conditions import RACES
from ehr_tokenize.synthetic.config import SynthConfig
from ehr_tokenize.synthetic.course import DAYS, simulate
from ehr_tokenize.synthetic.disease import Floats, Ints, sample_latent
from ehr_tokenize.synthetic.records import CODE_ID, DAY, INSIDE, LAST, VOCABULARY, Rows
from ehr_tracking.config import to_dict
from ehr_tracking.errors import UserError

BLOCK = 2048
"""Subjects that are drawn together, each block from its own random stream."""
NAME = "ehr-tokenize synthetic cohort"
FIRST_ENTRY = int(np.datetime64("2008-01-01", "m").astype(np.int64))
LAST_DAY = int(np.datetime64("2022-01-01", "m").astype(np.int64))
STATIC = np.iinfo(np.int64).min
"""Minute of a static event: before all others, and written as null."""

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
    codes: int
    deaths: int


def synthesize(out: Path, config: SynthConfig, *, overwrite: bool = False) -> Summary:
    """Draw a cohort and write it as MEDS 0.4: `data/{split}/{block}.parquet` and `metadata/`.

    The generative model is stated in `docs/synthetic.md` and, by part, in `disease`, `course` and
    `records`. Memory is bounded by one block of subjects; the same config gives the same bytes.

    Args:
        out: The data set's directory.
        config: Size, seed and effects.
        overwrite: Replace a synthetic cohort that is there; never anything else.

    Raises:
        UserError: If `out` exists and may not be replaced.
    """
    _refuse_existing(out, overwrite=overwrite)
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        events = deaths = 0
        starts = range(0, config.num_patients, BLOCK)
        for block, first in enumerate(tqdm(starts, desc="subjects", unit="block", disable=None)):
            rows = draw_block(config, block)
            ids = np.arange(first, min(first + BLOCK, config.num_patients)) + 1
            _write_block(partial, block, ids, rows, config)
            events += len(rows.code)
            deaths += int((rows.code == CODE_ID[codes.DEATH]).sum())
        _write_metadata(partial, config)
        _move(partial, out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return Summary(out, config.num_patients, events, len(VOCABULARY), deaths)


def draw_block(config: SynthConfig, block: int) -> Rows:
    """All events of one block of subjects, by subject and time, static ones first.

    Args:
        config: Of the cohort.
        block: Number of the block; it has subjects `block * BLOCK` to `(block + 1) * BLOCK`.
    """
    n = min(BLOCK, config.num_patients - block * BLOCK)
    rng = np.random.default_rng(np.random.SeedSequence(config.seed, spawn_key=(block,)))
    male = rng.random(n) < 0.5
    race = rng.choice(len(RACES), size=n, p=list(RACES.values()))
    entry_age = np.clip(52 + 17 * rng.standard_normal(n), 18, 90)
    entry = FIRST_ENTRY + rng.integers(0, 5 * 365 * DAY, size=n)
    birth = (entry - np.rint(entry_age * DAYS * DAY).astype(np.int64)) // DAY * DAY
    entry_age = (entry - birth) / (DAYS * DAY)
    lost = np.full(n, np.inf)
    if config.dropout_rate > 0:
        lost = rng.exponential(1 / config.dropout_rate, size=n)
    end_age = np.minimum((LAST_DAY - birth) / (DAYS * DAY), entry_age + lost)

    latent = sample_latent(rng, male, config)
    course = simulate(rng, latent, entry_age, end_age, config)
    start = _minutes(birth[course.encounters.subject], course.encounters.age)
    everyone = np.arange(n)
    outside = np.setdiff1d(  # a death in hospital is written with its stay
        np.flatnonzero(~np.isnan(course.death)),
        course.encounters.subject[course.encounters.died],
    )
    dying = np.full(len(outside), CODE_ID[codes.DEATH])
    gender = np.where(male, CODE_ID["GENDER//M"], CODE_ID["GENDER//F"])
    races = np.array([CODE_ID[f"RACE//{x}"] for x in RACES])
    static = np.full(n, STATIC)
    rows = records.concatenate(
        [
            _plain(everyone, static, INSIDE, gender),
            _plain(everyone, static, INSIDE, races[race]),
            _plain(everyone, birth, INSIDE, np.full(n, CODE_ID[codes.BIRTH])),
            records.write_record(rng, latent, course.encounters, start, config),
            _plain(outside, _minutes(birth[outside], course.death[outside]), LAST, dying),
        ]
    )
    order = np.lexsort((rows.code, rows.rank, rows.minute, rows.subject))
    return Rows(*(getattr(rows, name)[order] for name in Rows.__dataclass_fields__))


def _plain(subject: Ints, minute: Ints, rank: int, code: Ints) -> Rows:
    return Rows(subject, minute, np.full(len(subject), rank), code, np.full(len(subject), np.nan))


def _minutes(birth: Ints, age: Floats) -> Ints:
    """Minutes since 1970 at an age in years, rounded down so that order is kept."""
    return birth + np.floor(age * (DAYS * DAY)).astype(np.int64)


def _splits(ids: Ints, config: SynthConfig) -> list[str]:
    return [SPLITS[i] for i in assign_splits(ids, None, config.seed).tolist()]


def _write_block(directory: Path, block: int, ids: Ints, rows: Rows, config: SynthConfig) -> None:
    """One file for each split that has subjects of this block."""
    split = np.array(_splits(ids, config))
    for name in SPLITS:
        kept = (split == name)[rows.subject]
        if not kept.any():
            continue
        time = rows.minute[kept]
        known = time != STATIC
        value = rows.value[kept]
        code = pa.DictionaryArray.from_arrays(pa.array(rows.code[kept]), pa.array(VOCABULARY))
        table = pa.table(
            [
                pa.array(ids[rows.subject[kept]]),
                pa.array(np.where(known, time, 0) * 60_000_000, mask=~known).cast(
                    pa.timestamp("us")
                ),
                code.cast(pa.string()),
                pa.array(value.astype(np.float32), mask=np.isnan(value)),
            ],
            schema=SCHEMA,
        )
        (directory / "data" / name).mkdir(parents=True, exist_ok=True)
        pq.write_table(table, directory / "data" / name / f"{block}.parquet", compression="zstd")


def _write_metadata(directory: Path, config: SynthConfig) -> None:
    (directory / "metadata").mkdir()
    code, description, parents = zip(*codes.code_table(), strict=True)
    table = pa.table(
        {
            "code": pa.array(code, pa.string()),
            "description": pa.array(description, pa.string()),
            "parent_codes": pa.array(parents, pa.list_(pa.string())),
        }
    )
    pq.write_table(table, directory / meds.code_metadata_filepath)
    ids = np.arange(1, config.num_patients + 1)
    splits = pa.table({"subject_id": ids, "split": _splits(ids, config)})
    pq.write_table(splits, directory / meds.subject_splits_filepath)
    about = {
        "dataset_name": NAME,
        "dataset_version": json.dumps(to_dict(config), sort_keys=True),
        "etl_name": "ehr-tokenize",
        "etl_version": ehr_tokenize.__version__,
        "meds_version": version("meds"),
    }
    (directory / meds.dataset_metadata_filepath).write_text(
        json.dumps(about, indent=1) + "\n", encoding="utf-8"
    )


def _refuse_existing(out: Path, *, overwrite: bool) -> None:
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    try:
        found = json.loads((out / meds.dataset_metadata_filepath).read_bytes())
        ours = found["dataset_name"] == NAME
    except (OSError, ValueError, KeyError, TypeError):
        ours = False
    if not ours:
        raise UserError(f"{out} exists and is not a synthetic cohort; choose another path")
    if not overwrite:
        raise UserError(f"{out} exists; choose another path or pass --overwrite")


def _move(new: Path, out: Path) -> None:
    old = out.with_name(f".{out.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if out.exists():
        out.rename(old)
    new.rename(out)
    shutil.rmtree(old, ignore_errors=True)
