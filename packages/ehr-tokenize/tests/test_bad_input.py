"""What a user can get wrong: one line that says where, exit code 2, nothing left behind."""

import json
import os
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import polars as pl
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from ehr_tokenize.cli import main

T = [datetime.fromisoformat(f"2020-01-0{d}") for d in range(1, 10)]
GOOD = [(1, None, "GENDER//F", None), (1, T[0], "A", 1.0), (1, T[1], "B", None)]


@pytest.fixture
def run(tmp_path):
    def invoke(meds, *args):
        out = tmp_path / "out"
        result = CliRunner().invoke(main, ["--meds", str(meds), "--out", str(out), *args])
        before = {meds.name, *(p.name for p in tmp_path.iterdir() if p.is_dir())}
        assert result.exit_code == 2, result.output
        assert not out.exists()
        assert not [n for n in before if n.startswith(".")], "a partial output is left"
        lines = result.output.strip().splitlines()
        assert len(lines) == 1, result.output
        assert lines[0].startswith("Error: ")
        return lines[0]

    return invoke


@pytest.fixture
def good(write_meds):
    return write_meds(GOOD)


def test_missing_directory(run, tmp_path):
    assert run(tmp_path / "none").endswith("none: no such directory")


def test_not_meds(run, tmp_path):
    (tmp_path / "dir/data").mkdir(parents=True)
    assert "dir is no MEDS data set: there is no data/**/*.parquet in it" in run(tmp_path / "dir")
    pl.DataFrame({"patient": [1]}).write_parquet(tmp_path / "dir/data/a.parquet")
    assert "data/a.parquet: not MEDS, column subject_id is missing" in run(tmp_path / "dir")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([(1, T[1], "A", None), (1, T[0], "B", None)],
         "data/0.parquet row 1: time is before that of the row above, in subject 1"),
        ([(1, T[1], "A", None), (1, None, "B", None), (1, T[0], "B", None), (1, None, "B", None)],
         "data/0.parquet row 1: a row without time comes after a row with one, in subject 1 "
         "(2 such rows)"),
        ([(1, T[1], "A", None), (2, None, "B", None), (1, T[2], "B", None)],
         "data/0.parquet row 2: subject 1 begins again after other subjects"),
        ([(1, T[0], "A", None), (1, T[0], None, None), (1, T[1], None, None)],
         "data/0.parquet row 1: code is null (2 such rows)"),
        ([(1, T[0], "A", None), (None, T[0], "A", None)],
         "data/0.parquet row 1: subject_id is null"),
        ([(1, T[0], "A", None), (1, T[0], "", None)],
         "data/0.parquet row 1: code is empty"),
        ([(1, T[0], "A\x1f\x1fpositive", None)],
         "data/0.parquet row 0: code holds the character U+001F"),
    ],
)  # fmt: skip
def test_rows_that_break_meds(run, write_meds, rows, message):
    assert message in run(write_meds(rows))


@pytest.mark.parametrize("days", [-719_163, 2_932_897])
def test_times_out_of_the_calendar(run, good, days):
    path = good / "data/0.parquet"
    time = pl.lit(days * 86_400_000_000).cast(pl.Datetime("us"))
    rows = pl.read_parquet(path).filter(pl.col("code") != "B")
    rows.with_columns(pl.when(pl.col("time").is_not_null()).then(time).alias("time")).write_parquet(
        path
    )
    assert "data/0.parquet row 1: time is not in the years 1 to 9999" in run(good)


def test_rows_are_found_across_batches(run, write_meds, monkeypatch):
    monkeypatch.setattr("ehr_tokenize.meds.dataset._BATCH_ROWS", 2)
    rows = [(1, T[i], "A", None) for i in (0, 1, 2, 3, 1)]
    assert "row 4: time is before" in run(write_meds(rows, name="a"))
    rows = [(1, T[0], "A", None)] * 4 + [(2, T[0], "A", None), (1, T[1], "A", None)]
    assert "row 5: subject 1 begins again" in run(write_meds(rows, name="b"))


def test_a_subject_in_two_files(run, write_meds):
    message = run(write_meds(GOOD, GOOD))
    assert "subject 1 is in two files: " in message
    assert "data/0.parquet and " in message
    assert "data/1.parquet; each needs one file" in message


@pytest.mark.parametrize(
    ("column", "dtype", "found"),
    [
        ("time", pl.String, "time is large_string, MEDS has timestamp[us]"),
        ("time", pl.Datetime("ns"), "time is timestamp[ns], MEDS has timestamp[us]"),
        ("subject_id", pl.String, "subject_id is large_string, MEDS has int64"),
        ("numeric_value", pl.Float64, "numeric_value is double, MEDS has float"),
        ("code", pl.Binary, "code is large_binary, MEDS has string"),
    ],
)
def test_wrong_column_types(run, good, column, dtype, found):
    path = good / "data/0.parquet"
    pl.read_parquet(path).with_columns(pl.col(column).cast(dtype)).write_parquet(path)
    assert f"data/0.parquet: column {found}" in run(good)


def test_a_file_whose_name_is_not_utf8(run, good, tmp_path):
    odd = Path(os.fsdecode(os.fsencode(good) + b"/data/\xff.parquet"))
    (good / "data/0.parquet").rename(odd)
    assert "data/\\udcff.parquet': the name is not UTF-8; rename the file" in run(good)
    odd.rename(good / "data/0.parquet")
    Path(os.fsdecode(os.fsencode(good) + b"/\xff.txt")).touch()  # which nothing reads
    assert fitted(good, tmp_path / "made").is_dir()


@pytest.mark.parametrize("kept", [0.0, 0.5, 0.99])
def test_truncated_parquet(run, good, kept):
    path = good / "data/0.parquet"
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * kept)])
    assert "data/0.parquet: not a readable Parquet file, perhaps truncated" in run(good)


def test_damaged_pages(run, good):
    path = good / "data/0.parquet"
    data = bytearray(path.read_bytes())
    data[4:200] = bytes(196)
    path.write_bytes(data)
    assert "data/0.parquet: damaged after row 0" in run(good)


def test_codes_that_are_not_utf8(run, good):
    path = good / "data/0.parquet"
    pl.read_parquet(path).write_parquet(path, compression="uncompressed", statistics=False)
    path.write_bytes(path.read_bytes().replace(b"GENDER//F", b"GENDER//\xff"))
    assert "data/0.parquet row 0: code is not UTF-8" in run(good)


def test_units_and_texts_that_are_not_utf8(run, good):
    path = good / "data/0.parquet"
    odd = pl.read_parquet(path).with_columns(
        unit=pl.Series([None, None, "mg"]), text_value=pl.Series([None, "neg", None])
    )
    for column, value in {"unit": b"mg", "text_value": b"neg"}.items():
        odd.write_parquet(path, compression="uncompressed", statistics=False)
        path.write_bytes(path.read_bytes().replace(value, b"\xff" * len(value)))
        row = 2 if column == "unit" else 1
        assert f"0.parquet row {row}: {column} is not UTF-8" in run(
            good, "-s", "scheme.kind=cookbook"
        )


def test_a_column_that_is_there_twice(run, good):
    path = good / "data/0.parquet"
    table = pq.read_table(path)
    for name in ("code", "text_value"):
        pq.write_table(table.append_column(name, table[name]), path)
        assert f"0.parquet: column {name} is there twice" in run(good, "-s", "scheme.kind=clmbr")


@pytest.mark.parametrize(
    ("splits", "message"),
    [
        ({1: "tuning"}, "none of the 1 subjects is in the train split"),
        ({}, "subject 1 has no split in"),
        ({1: "test"}, "subject_splits.parquet row 0: split is 'test', MEDS has train, tuning,"),
    ],
)
def test_splits(run, write_meds, splits, message):
    assert message in run(write_meds(GOOD, splits=splits))


def test_a_subject_in_two_splits(run, good):
    pl.DataFrame({"subject_id": [1, 1], "split": ["train", "tuning"]}).write_parquet(
        good / "metadata/subject_splits.parquet"
    )
    assert "row 1: subject 1 is in two splits" in run(good)


def test_a_code_that_looks_like_another_token(run, write_meds):
    assert "'[UNK]' cannot be told from another token" in run(
        write_meds([(1, T[0], "[UNK]", None)])
    )


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("scheme.kind=ethos", "'ethos'"),
        ("scheme={kind: joint, time: hourly}", "scheme.joint.time"),
        ("vocabulary.exclude=['[']", "'[' is no regular expression"),
        ("delay={'(': 1}", "'(' is no regular expression"),
        ("delay={LAB: 40000}", "delay.LAB = 40000: Input should be less than or equal to 36525"),
        ("maps=[{from: ICD9//}]", "map from 'ICD9//': name its table, or give its entries"),
        ("scheme={kind: joint, width: 3}", "unknown key scheme.joint.width"),
        ("numeric.bins=3", "unknown key numeric.bins"),
        ("numeric.n_bins=0", "numeric.n_bins = 0"),
        ("visits.start_codes=['(']", "'(' is no regular expression"),
        ("seed", "not of the form key=value"),
    ],
)
def test_wrong_settings(run, good, setting, message):
    assert message in run(good, "-s", setting)


def test_wrong_config_file(run, good, tmp_path):
    (tmp_path / "c.yaml").write_text("vocab: {min_count: 2}\n")
    assert "c.yaml: unknown key vocab" in run(good, "-c", str(tmp_path / "c.yaml"))
    assert "no such config file" in run(good, "-c", str(tmp_path / "d.yaml"))


def fitted(meds, out):
    result = CliRunner().invoke(main, ["--meds", str(meds), "--out", str(out)])
    assert result.exit_code == 0, result.output
    return out


def test_the_vocabulary_of_another_data_set(run, write_meds, tmp_path):
    first = fitted(write_meds(GOOD), tmp_path / "first")
    foreign = write_meds([(1, T[0], c, None) for c in "XYZA"], name="foreign")
    message = run(foreign, "--tokenizer", str(first))
    assert "do not belong together: 75% of the events are not in the vocabulary" in message
    lax = ["--tokenizer", str(first), "-s", "max_unknown=0.8", "--out", str(tmp_path / "lax")]
    assert CliRunner().invoke(main, ["--meds", str(foreign), *lax]).exit_code == 0


def test_tokenizers_that_are_none(run, good, tmp_path):
    (tmp_path / "empty").mkdir()
    none = run(good, "--tokenizer", str(tmp_path / "empty"))
    assert "holds no tokenizer: it has no tokenizer.json" in none
    first = fitted(good, tmp_path / "first")
    message = run(good, "--tokenizer", str(first), "-s", "scheme.kind=visits")
    assert "scheme cannot be changed with --tokenizer" in message
    bare = tmp_path / "bare"
    bare.mkdir()
    for name in ("tokenizer.json", "vocab.parquet"):
        (bare / name).write_bytes((first / name).read_bytes())
    tree = json.loads((bare / "tokenizer.json").read_text())
    (bare / "tokenizer.json").write_text(json.dumps(tree | {"format": 2}))
    assert "has format 2, this version reads format 1" in run(good, "--tokenizer", str(bare))
    (bare / "tokenizer.json").write_text(json.dumps(tree | {"vocab_sha256": "0"}))
    assert "is not the vocabulary that" in run(good, "--tokenizer", str(bare))
    (bare / "tokenizer.json").write_text("{")
    assert "tokenizer.json is damaged" in run(good, "--tokenizer", str(bare))
    (first / "vocab.parquet").write_bytes(b"PAR1")
    assert "vocab.parquet was changed" in run(good, "--tokenizer", str(first))


def test_outputs_that_are_taken(good, tmp_path):
    out = fitted(good, tmp_path / "out")
    sealed = (out / "manifest.json").read_bytes()

    def again(*args):
        return CliRunner().invoke(main, ["--meds", str(good), "--out", *args])

    refused = again(str(out))
    assert refused.exit_code == 2
    assert refused.output.strip().endswith("out exists; choose another path or pass --overwrite")
    assert (out / "manifest.json").read_bytes() == sealed
    assert again(str(out), "--overwrite", "-s", "seed=4").exit_code == 0
    assert (out / "manifest.json").read_bytes() != sealed
    inside = again(str(good / "tokens"))
    assert inside.exit_code == 2
    assert "lies inside the input" in inside.output


LIMITED = """
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), int(sys.argv[1])))
from ehr_tokenize.cli import main
main(sys.argv[2:])
"""


@pytest.mark.parametrize("limit", [0, 1000, 100_000])
def test_a_full_disk(write_meds, cohort, tmp_path, limit):
    """No file may grow beyond the limit: the scratch file, then the vocabulary, cannot be written."""
    meds = write_meds([r for s in cohort(2000) for r in s])
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(limit), "--meds", str(meds), "--out",
         str(tmp_path / "out")],
        capture_output=True, text=True, check=False,
        env={k: v for k, v in os.environ.items() if not k.startswith("COV")},
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert done.stderr.strip() == "Error: the disk is full; nothing was written, free some space"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["meds"]


def test_a_disk_that_fills_after_the_data_was_read(write_meds, tmp_path):
    """Room for the scratch files, not for what is fitted."""
    rows = [(s, T[0], f"{s * 7919 % 9973}-{i}", None) for s in range(200) for i in range(40)]
    meds = write_meds(rows)
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(len(rows) * 8), "--meds", str(meds), "--out",
         str(tmp_path / "out")],
        capture_output=True, text=True, check=False,
        env={k: v for k, v in os.environ.items() if not k.startswith("COV")},
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert "the disk is full" in done.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == ["meds"]
