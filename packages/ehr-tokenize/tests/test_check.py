from datetime import datetime

import polars as pl
import pytest
from click.testing import CliRunner

from ehr_tokenize.cli import main
from ehr_tokenize.meds.check import check
from ehr_tracking.errors import UserError

T = [datetime.fromisoformat(f"2020-01-0{d}") for d in range(1, 10)]
GOOD = [(1, None, "GENDER//F", None), (1, T[0], "MEDS_BIRTH", None), (1, T[1], "B", 1.0)]


def found(path):
    return {(f.check, f.refused, f.problem.count): f.problem for f in check(path).findings}


def test_a_clean_data_set_has_no_findings(write_meds):
    other = [(2, T[0], "MEDS_BIRTH", None), (2, T[1], "B", None)]
    report = check(write_meds(GOOD, other, splits={1: "train", 2: "held_out"}))
    assert report.findings == []
    assert not report.refused
    assert (report.files, report.subjects, report.events, report.static) == (2, 2, 5, 1)
    assert (report.numeric, report.codes) == (1, 3)
    assert report.splits == {"train": 1, "tuning": 0, "held_out": 1}
    assert report.lines()[-1] == "can be tokenised"


def test_what_is_odd_but_can_be_tokenised(write_meds):
    rows = [
        *GOOD,
        (1, T[1], "B", 1.0),  # row 3 repeats
        (1, T[2], "MEDS_DEATH", None),
        (1, T[3], "B", float("nan")),  # row 5, after death
        (1, T[3], "MEDS_BIRTH", None),
        (2, T[0], "B", float("inf")),  # row 7, no birth
        (3, T[0], "B", 2.0),
        (3, T[1], "MEDS_BIRTH//2", None),
    ]
    meds = write_meds(rows, splits={1: "train", 2: "train", 3: "train", 9: "tuning"})
    codes = meds / "metadata/codes.parquet"
    pl.read_parquet(codes).filter(pl.col("code") != "B").write_parquet(codes)
    report = check(meds)
    assert not report.refused
    lines = "\n".join(report.lines())
    for piece in (
        "birth: {}data/0.parquet row 7: a subject has no MEDS_BIRTH",
        "birth: {}data/0.parquet row 6: a subject has a second MEDS_BIRTH",
        "birth: {}data/0.parquet row 8: an event is before the subject's birth",
        "death: {}data/0.parquet row 5: an event is after the subject's death (2 such rows)",
        "duplicates: {}data/0.parquet row 3: the event repeats one above",
        "values: {}data/0.parquet row 5: numeric_value is NaN",
        "values: {}data/0.parquet row 7: numeric_value is infinite",
        "codes: {}metadata/codes.parquet (first: B): a code of the data is not listed",
        "splits: {}metadata/subject_splits.parquet (first: subject 9): a subject of a split has no",
    ):
        assert "warning " + piece.format(f"{meds}/") in lines
    assert len(report.findings) == 9


def test_every_error_is_counted_not_only_the_first(write_meds):
    one = [(1, T[1], "A", None), (1, T[0], None, None), (2, T[0], "A", None), (1, T[0], "A", None)]
    two = [(2, T[3], "A", None), (2, T[2], "A", None), (2, T[1], "A", None)]
    meds = write_meds(one, two, splits={1: "tuning", 7: "tuning"})
    report = check(meds)
    assert report.refused
    errors = {(f.check, f.problem.what): f.problem for f in report.findings if f.refused}
    assert errors["order", "time is before that of the row above"].count == 3
    assert errors["order", "time is before that of the row above"].where.endswith("0.parquet row 1")
    assert errors["nulls", "code is null"].where.endswith("0.parquet row 1")
    assert errors["subjects", "a subject begins again after other subjects"].count == 1
    again = errors["subjects", "a subject that another file holds too"]
    assert again.where.startswith(f"{meds}/data/1.parquet row 0 (subject 2, ")
    assert errors["splits", "a subject with events has no split"].count == 1
    assert errors["splits", "no subject with events is in train"].count == 1


def test_files_that_cannot_be_read_do_not_hide_the_others(write_meds):
    meds = write_meds(GOOD, GOOD, GOOD)
    (meds / "data/0.parquet").write_bytes(b"PAR1")
    path = meds / "data/1.parquet"
    pl.read_parquet(path).with_columns(pl.col("time").cast(pl.String)).write_parquet(path)
    report = check(meds)
    assert [f.check for f in report.findings] == ["schema", "schema"]
    assert report.events == 3


def test_missing_metadata(write_meds):
    meds = write_meds(GOOD, hashed=True)
    (meds / "metadata/codes.parquet").unlink()
    assert set(found(meds)) == {("codes", False, 1), ("splits", False, 1)}
    with pytest.raises(UserError, match="no such directory"):
        check(meds / "none")
    assert found(meds / "metadata").keys() == {("schema", True, 1)}


def test_the_command(write_meds):
    good, bad = write_meds(GOOD), write_meds(GOOD, splits={1: "tuning"}, name="bad")
    passed = CliRunner().invoke(main, ["check", str(good)])
    assert (passed.exit_code, passed.output.splitlines()[-1]) == (0, "can be tokenised")
    refused = CliRunner().invoke(main, ["check", str(bad)])
    assert refused.exit_code == 2
    assert refused.output.splitlines()[-1] == f"Error: {bad} would be refused"


@pytest.mark.parametrize("seed", range(4))
def test_what_check_passes_is_tokenised_and_what_it_refuses_is_not(
    write_meds, cohort, tmp_path, seed
):
    """Shuffle two rows of a valid data set: both commands must come to the same answer."""
    import numpy as np

    rows = [r for s in cohort(4) for r in s]
    i, j = np.random.default_rng(seed).choice(len(rows), 2, replace=False)
    rows[i], rows[j] = rows[j], rows[i]
    meds = write_meds(rows)
    made = CliRunner().invoke(main, ["--meds", str(meds), "--out", str(tmp_path / "out")])
    assert check(meds).refused == (made.exit_code == 2)


def test_the_mimic_demo_can_be_tokenised(mimic_demo):
    report = check(mimic_demo)
    assert not report.refused
    assert (report.events, report.subjects, report.numeric) == (356_063, 100, 147_855)
    assert {f.check for f in report.findings} == {"death", "duplicates"}


def test_nothing_is_said_of_the_whole_where_a_file_cannot_be_read(write_meds):
    meds = write_meds(GOOD, splits={1: "train"})
    (meds / "data/0.parquet").write_bytes(b"PAR1 torn")
    report = check(meds)
    assert [(f.check, f.refused) for f in report.findings] == [("schema", True)]
    lines = "\n".join(report.lines())
    assert "1 files (1 cannot be read; of the others:)" in lines
    assert "train" not in lines
