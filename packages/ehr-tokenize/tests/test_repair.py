# ruff: noqa: DTZ001 -- MEDS times have no zone
"""`check --repair`: what is mended, what is refused, and that nothing else changes."""

import hashlib
import json
from datetime import date, datetime

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from meds.schema import CodeMetadataSchema, DataSchema, SubjectSplitSchema

from ehr_tokenize.build.build import tokenize
from ehr_tokenize.cli import main
from ehr_tokenize.meds.check import check
from ehr_tokenize.meds.repair import repair
from ehr_tracking.arrow.splits import read_splits
from ehr_tracking.errors import UserError

T = [datetime(2020, 1, d) for d in range(1, 10)]
GOOD = [(1, None, "GENDER//F", None), (1, T[0], "MEDS_BIRTH", None), (1, T[1], "B", 1.0)]


def digest(root):
    files = sorted(p for p in root.rglob("*") if p.is_file())
    return {p.relative_to(root): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def read(root):
    return pl.concat(
        (pl.read_parquet(p) for p in sorted(root.glob("data/**/*.parquet"))), how="diagonal"
    )


def mended(path, out):
    """Mend, and hold the copy to what is promised of every copy."""
    before = digest(path)
    done = repair(path, out)
    assert digest(path) == before
    assert not check(out).refused
    for file in out.glob("data/**/*.parquet"):
        DataSchema.validate(pq.read_table(file))
    CodeMetadataSchema.validate(pq.read_table(out / "metadata/codes.parquet"))
    SubjectSplitSchema.validate(pq.read_table(out / "metadata/subject_splits.parquet"))
    # polars writes code as large_string, which the schemas of meds refuse: always mended
    assert any("large_string" in what for what in done.mended)
    alike = ("was large_string, is string", "is list<element: string>", "is list<item: string>")
    return {what: n for what, n in done.mended.items() if not what.endswith(alike)}


def test_rows_out_of_order_are_put_in_order_and_ties_stay_as_they_were(write_meds, tmp_path):
    rows = [
        (2, T[1], "B", None),
        (2, T[1], "A", None),  # of the same time: stays behind B
        (1, T[3], "LATE", None),
        (2, T[0], "FIRST", None),
        (1, None, "STATIC", None),
        (1, T[2], "EARLY", 0.0),
    ]
    meds = write_meds(rows)
    assert check(meds).refused
    assert mended(meds, tmp_path / "out") == {"rows were put in order": 6}
    assert read(tmp_path / "out").select("subject_id", "time", "code", "numeric_value").rows() == [
        (2, T[0], "FIRST", None), (2, T[1], "B", None), (2, T[1], "A", None),
        (1, None, "STATIC", None), (1, T[2], "EARLY", 0.0), (1, T[3], "LATE", None),
    ]  # fmt: skip


def test_a_subject_in_several_files_comes_together_in_the_first(write_meds, tmp_path):
    meds = write_meds(
        [(1, T[1], "A", None), (2, T[0], "A", None)],
        [(3, T[0], "A", None), (1, T[0], "B", None)],
        [(1, T[2], "C", None)],
    )
    done = mended(meds, tmp_path / "out")
    assert done == {"rows were moved to the file of their subject": 2, "rows were put in order": 4}
    files = sorted((tmp_path / "out/data").iterdir())
    assert [p.name for p in files] == ["0.parquet", "1.parquet"]  # nothing is left for the third
    assert pl.read_parquet(files[0])["code"].to_list() == ["B", "A", "C", "A"]
    assert pl.read_parquet(files[1])["subject_id"].to_list() == [3]


def test_ids_as_text_and_other_types_become_those_of_meds(write_meds, tmp_path):
    meds = write_meds(GOOD)
    path = meds / "data/0.parquet"
    frame = pl.read_parquet(path).with_columns(
        pl.col("subject_id").cast(pl.String),
        pl.col("time").cast(pl.Datetime("ns")).dt.replace_time_zone("Europe/Berlin"),
        pl.col("code").cast(pl.Categorical),
        pl.col("numeric_value").cast(pl.Float64),
        hadm_id=pl.lit(7, pl.Int16),  # further columns stay as they are
    )
    frame.write_parquet(path)
    done = mended(meds, tmp_path / "out")
    assert {k.split(" was")[0] for k in done} == {
        f"column {c}" for c in ("subject_id", "time", "code", "numeric_value")
    }
    made = read(tmp_path / "out")
    assert made["subject_id"].to_list() == [1, 1, 1]
    assert made["time"].to_list() == [None, datetime(2019, 12, 31, 23), datetime(2020, 1, 1, 23)]
    assert made.schema["hadm_id"] == pl.Int16


def test_numbers_that_are_none_or_too_large_become_null_and_are_counted(write_meds, tmp_path):
    meds = write_meds(GOOD)
    path = meds / "data/0.parquet"
    values = pl.Series([float("nan"), 1e300, float("inf")], dtype=pl.Float64)
    pl.read_parquet(path).with_columns(numeric_value=values).write_parquet(path)
    done = mended(meds, tmp_path / "out")
    assert done["values that are NaN are null now"] == 1
    assert done["values that float32 cannot hold were left out"] == 1
    assert read(tmp_path / "out")["numeric_value"].to_list() == [None, None, float("inf")]


def test_rows_without_code_or_subject_are_left_out_and_counted(write_meds, tmp_path):
    rows = [*GOOD, (1, T[2], None, 3.0), (1, T[3], None, None), (None, T[3], "A", None)]
    meds = write_meds(rows)
    assert check(meds).refused
    assert mended(meds, tmp_path / "out") == {
        "rows without code were left out": 2,
        "rows without subject_id were left out": 1,
    }
    assert len(read(tmp_path / "out")) == 3


def test_missing_metadata_is_made_as_tokenising_makes_it(write_meds, cohort, tmp_path):
    meds = write_meds([r for s in cohort(40) for r in s], hashed=True)
    (meds / "metadata/codes.parquet").unlink()
    (meds / "metadata/dataset.json").write_text('{"dataset_name": "x"}')
    assert set(mended(meds, tmp_path / "out")) == {
        "codes of the data were added to codes.parquet, without description",
        "subjects got a split by hash, 80/10/10, as tokenize makes it",
    }
    assert json.loads((tmp_path / "out/metadata/dataset.json").read_text()) == {"dataset_name": "x"}
    for name, path in (("raw", meds), ("mended", tmp_path / "out")):
        tokenize(path, tmp_path / f"tokens-{name}")
    raw, ours = (digest(tmp_path / f"tokens-{n}") for n in ("raw", "mended"))
    assert {p: h for p, h in raw.items() if p.suffix == ".parquet"} == {
        p: h for p, h in ours.items() if p.suffix == ".parquet"
    }


def test_codes_that_are_not_listed_are_added_and_an_empty_table_is_filled(write_meds, tmp_path):
    meds = write_meds(GOOD, descriptions={"B": "a measurement"})
    path = meds / "metadata/codes.parquet"
    listed = pl.read_parquet(path)
    again = listed.filter(code="B").with_columns(description=pl.lit("another"))
    pl.concat([listed.filter(pl.col("code") != "GENDER//F"), again]).write_parquet(path)
    assert mended(meds, tmp_path / "one") == {
        "codes of the data were added to codes.parquet, without description": 1,
        "rows of codes.parquet without a code, or with one that is above, were left out": 1,
    }
    made = pl.read_parquet(tmp_path / "one/metadata/codes.parquet")
    assert dict(made.select("code", "description").rows()) == {
        "B": "a measurement",
        "GENDER//F": None,
        "MEDS_BIRTH": None,
    }
    pq.write_table(
        pa.table({"code": pa.array([], pa.null())}), path
    )  # as some extractions leave it
    mended(meds, tmp_path / "two")
    assert len(pl.read_parquet(tmp_path / "two/metadata/codes.parquet")) == 3


def test_splits_with_text_ids_are_mended(write_meds, tmp_path):
    meds = write_meds(GOOD)
    path = meds / "metadata/subject_splits.parquet"
    pl.DataFrame({"subject_id": ["1", "1"], "split": ["train", "train"], "site": ["x", "x"]}).write_parquet(path)  # fmt: skip
    done = mended(meds, tmp_path / "out")
    assert len(done) == 3
    assert read_splits(tmp_path / "out").of(np.array([1])).tolist() == [0]


def test_what_is_in_order_is_not_written_again(write_meds, tmp_path):
    mended(write_meds(GOOD), tmp_path / "once")
    done = repair(tmp_path / "once", tmp_path / "twice")
    assert done.lines() == ["nothing to mend; nothing was written"]
    assert {p.name for p in tmp_path.iterdir()} == {"meds", "once"}


def test_real_data_need_no_mending(mimic_demo, tmp_path):
    assert repair(mimic_demo, tmp_path / "out").mended == {}


def change(name, **columns):
    def do(meds):
        path = meds / name
        pl.read_parquet(path).with_columns(**columns).write_parquet(path)

    return do


EVENTS, SPLITS = "data/0.parquet", "metadata/subject_splits.parquet"


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (change(EVENTS, subject_id=pl.lit("P1")), "0.parquet row 0: subject_id 'P1' is no whole"),
        (change(EVENTS, subject_id=pl.lit("007")), "0.parquet row 0: subject_id '007' is no whole"),
        (change(EVENTS, subject_id=pl.lit(1.5)), "0.parquet row 0: subject_id 1.5 is no whole"),
        (change(EVENTS, subject_id=pl.lit(2**64 - 1, pl.UInt64)), "row 0: subject_id 1844674407"),
        (change(EVENTS, time=pl.lit(date(2020, 1, 1))), "column time is Date, MEDS has timestamp"),
        (change(EVENTS, time=pl.lit("2020-01-01")), "column time is String, MEDS has timestamp"),
        (change(EVENTS, code=pl.lit(42)), "column code is Int32, MEDS has string; a code that is"),
        (change(EVENTS, numeric_value=pl.lit("high")), "column numeric_value is String, MEDS has"),
        (change(SPLITS, split=pl.lit("test")), "guess: {}/metadata/subject_splits.parquet: row 0: "
         "split is 'test', MEDS has train, tuning, held_out"),
        (change(SPLITS, subject_id=pl.lit(9)), "guess: {}/metadata/subject_splits.parquet (first: "
         "subject 1): a subject with events has no split; and 1 more, see ehr-tokenize check"),
        (change("metadata/codes.parquet", parent_codes=pl.lit(3)), "{}/metadata/codes.parquet: column parent_codes is Int32"),
        (lambda m: (m / EVENTS).write_bytes(b"PAR1"), "0.parquet: not a readable Parquet file"),
        (lambda m: (m / "metadata/codes.parquet").write_bytes(b""), "codes.parquet: not a readable"),
        (lambda m: (m / EVENTS).unlink(), "is no MEDS data set: there is no data/**/*.parquet in it"),
    ],
)  # fmt: skip
def test_what_needs_a_guess_is_refused_in_one_line(write_meds, tmp_path, wrong, message):
    meds = write_meds(GOOD)
    wrong(meds)
    with pytest.raises(UserError) as caught:
        repair(meds, tmp_path / "out")
    assert message.format(meds) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert {p.name for p in tmp_path.iterdir()} == {"meds"}


def test_the_copy_may_not_replace_anything_nor_lie_inside(write_meds, tmp_path):
    meds = write_meds(GOOD)
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken/thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match="exists"):
        repair(meds, tmp_path / "taken")
    with pytest.raises(UserError, match="lies inside"):
        repair(meds, meds / "data/out")


def test_the_command(write_meds, tmp_path):
    meds = write_meds([GOOD[2], GOOD[0], GOOD[1]])
    out = tmp_path / "out"
    done = CliRunner().invoke(main, ["check", str(meds), "--repair", str(out)])
    assert done.exit_code == 0, done.output
    said = done.output.splitlines()
    assert "mended: rows were put in order (3)" in said
    assert "mended: column code was large_string, is string (1)" in said
    assert said[-1] == f"wrote {out}"
    assert CliRunner().invoke(main, ["check", str(out)]).exit_code == 0


@pytest.mark.parametrize("seed", range(3))
def test_a_shuffled_data_set_gives_the_tokens_of_the_one_before(write_meds, cohort, tmp_path, seed):
    """Rows of different times in any order and any file: only order within a time is the file's."""
    rng = np.random.default_rng(seed)
    rows = []
    for subject in cohort(12, seed):
        seen = set()
        for row in subject:
            if row[1] not in seen:
                seen.add(row[1])
                rows.append(row)
    splits = {s: ["train", "held_out"][s % 3 == 0] for s in range(12)}
    meds = write_meds(rows, splits=splits)
    mixed = [rows[i] for i in rng.permutation(len(rows))]
    broken = write_meds(mixed[::2], mixed[1::2], splits=splits, name="broken")
    mended(broken, tmp_path / "out")
    for name, path in (("a", meds), ("b", tmp_path / "out")):
        tokenize(path, tmp_path / f"tokens-{name}")
    a, b = (digest(tmp_path / f"tokens-{n}") for n in "ab")
    assert {p: h for p, h in a.items() if p.name != "manifest.json"} == {
        p: h for p, h in b.items() if p.name != "manifest.json"
    }
