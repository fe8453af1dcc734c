"""Small MEDS data sets, written file by file as a test spreads them."""

import json
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta
from pathlib import Path

import polars as pl
import pyarrow.parquet as pq
import pytest

SCHEMA = {
    "subject_id": pl.Int64,
    "time": pl.Datetime("us"),
    "code": pl.String,
    "numeric_value": pl.Float32,
    "text_value": pl.String,
}
Row = tuple[int, datetime | None, str | None, float | None]
Write = Callable[..., Path]


def day(n: float) -> datetime:
    return datetime(2020, 1, 1) + timedelta(days=n)  # noqa: DTZ001 -- MEDS times have no zone


def frame(rows: Iterable[Row]) -> pl.DataFrame:
    return pl.DataFrame([(*r, None) for r in rows], schema=SCHEMA, orient="row")


@pytest.fixture
def write_meds(tmp_path: Path) -> Write:
    """Write files of rows (or frames) and the metadata; splits default to all in train."""

    def write(
        *files: Sequence[Row] | pl.DataFrame,
        splits: dict[int, str] | None = None,
        hashed: bool = False,
        descriptions: dict[str, str] | None = None,
        name: str = "meds",
    ) -> Path:
        root = tmp_path / name
        (root / "data").mkdir(parents=True)
        (root / "metadata").mkdir()
        frames = [f if isinstance(f, pl.DataFrame) else frame(f) for f in files]
        for i, f in enumerate(frames):
            f.write_parquet(root / "data" / f"{i}.parquet")
        subjects = sorted({s for f in frames for s in f["subject_id"].drop_nulls()})
        named = splits if splits is not None else dict.fromkeys(subjects, "train")
        if not hashed:
            pl.DataFrame(
                {"subject_id": list(named), "split": list(named.values())},
                schema={"subject_id": pl.Int64, "split": pl.String},
            ).write_parquet(root / "metadata" / "subject_splits.parquet")
        codes = sorted({c for f in frames for c in f["code"].drop_nulls()})
        pl.DataFrame(
            {
                "code": codes,
                "description": [(descriptions or {}).get(c) for c in codes],
                "parent_codes": [None] * len(codes),
            },
            schema={
                "code": pl.String,
                "description": pl.String,
                "parent_codes": pl.List(pl.String),
            },
        ).write_parquet(root / "metadata" / "codes.parquet")
        return root

    return write


@pytest.fixture
def cohort() -> Callable[[int], list[list[Row]]]:
    """Rows of n subjects: static, birth, visits with labs (ties included), some with death."""

    def make(n: int, seed: int = 0) -> list[list[Row]]:
        import numpy as np

        rng = np.random.default_rng(seed)
        subjects = []
        for s in range(n):
            rows: list[Row] = [(s, None, f"GENDER//{'FM'[s % 2]}", None)]
            at = -20_000.0 + s
            rows.append((s, day(at), "MEDS_BIRTH", None))
            for _ in range(int(rng.integers(1, 5))):
                at += float(rng.integers(300, 3000))
                rows.append((s, day(at), "HOSPITAL_ADMISSION//EMERGENCY", None))
                for _ in range(int(rng.integers(1, 12))):
                    value = round(float(rng.normal(5, 2)), 1)
                    lab = f"LAB//{rng.integers(0, 3)}"
                    rows.append((s, day(at + 0.1), lab, None if rng.random() < 0.1 else value))
                rows.append((s, day(at + 0.2), f"ICD//{rng.integers(0, 40)}", None))
            if rng.random() < 0.2:
                rows.append((s, day(at + 30), "MEDS_DEATH", None))
            subjects.append(rows)
        return subjects

    return make


@pytest.fixture
def is_valid_meds() -> Callable[[Path], None]:
    """Hold a data set to the schemas of the library meds, and to our own `check`."""
    from meds.schema import (
        CodeMetadataSchema,
        DataSchema,
        DatasetMetadataSchema,
        SubjectSplitSchema,
    )

    from ehr_tokenize.meds.check import check

    def hold(root: Path) -> None:
        files = sorted(root.glob("data/**/*.parquet"))
        assert files
        for path in files:
            DataSchema.validate(pq.read_table(path, partitioning=None))
        metadata = root / "metadata"
        CodeMetadataSchema.validate(pq.read_table(metadata / "codes.parquet"))
        SubjectSplitSchema.validate(pq.read_table(metadata / "subject_splits.parquet"))
        DatasetMetadataSchema.validate(json.loads((metadata / "dataset.json").read_text()))
        refused = [f for f in check(root).findings if f.refused]
        # a handful of subjects may all be hashed out of train
        assert [f for f in refused if "no subject with events is in train" not in str(f)] == []

    return hold
