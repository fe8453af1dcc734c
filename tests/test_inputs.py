"""What every command that reads a kind of input says of it, with one small world for all."""

from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

import ehr_eval.cli
import ehr_tokenize.cli
import ehr_train.cli
from ehr_tracking.contracts import SPLITS

START = datetime(2020, 1, 1)  # noqa: DTZ001 -- MEDS times have no zone
SUBJECTS = range(1, 25)
DAYS = (0, 1, 5, 40)


def columns() -> dict[str, pa.Array]:
    """Events of a data set: a stay a subject, and a laboratory value in it."""
    rows = []
    for subject in SUBJECTS:
        rows += [(subject, None, "SEX//F", None)]
        for day, code in zip(DAYS, ("MEDS_BIRTH", "LAB//K", "DX//A", "LAB//K"), strict=True):
            value = float(subject) if code.startswith("LAB") else None
            rows.append((subject, START + timedelta(days=day), code, value))
    subject, time, code, value = zip(*rows, strict=True)
    return {
        "subject_id": pa.array(subject, pa.int64()),
        "time": pa.array(time, pa.timestamp("us")),
        "code": pa.array(code, pa.string()),
        "numeric_value": pa.array(value, pa.float32()),
    }


def split_of(subject: int) -> str:
    return SPLITS[0] if subject <= 12 else SPLITS[1 + subject % 2]


def write_meds(root: Path, files: dict[str, pa.Table] | None = None) -> Path:
    """A data set; by default one file a split."""
    table = pa.table(columns())
    splits = [split_of(s) for s in table["subject_id"].to_pylist()]
    files = files or {
        f"{name}/0.parquet": table.filter(pa.array([s == name for s in splits])) for name in SPLITS
    }
    for name, rows in files.items():
        (root / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(rows, root / "data" / name)
    (root / "metadata").mkdir()
    named = {"subject_id": list(SUBJECTS), "split": [split_of(s) for s in SUBJECTS]}
    pq.write_table(pa.table(named), root / "metadata" / "subject_splits.parquet")
    return root


def write_labels(root: Path, zone: str | None = None) -> Path:
    """One task `own`: two prediction times a subject."""
    keys = [(s, START + timedelta(days=d)) for s in SUBJECTS for d in (2, 6)]
    time = pa.array([t for _, t in keys], pa.timestamp("us", zone))
    table = {
        "subject_id": pa.array([s for s, _ in keys], pa.int64()),
        "prediction_time": time,
        "boolean_value": [(s // 2 + t.day) % 2 == 0 for s, t in keys],
    }
    (root / "own").mkdir(parents=True)
    pq.write_table(pa.table(table), root / "own" / "0.parquet")
    return root


def run(*words: object) -> tuple[int, str]:
    """Exit code and output of one of our commands."""
    name, *arguments = map(str, words)
    main = {
        "ehr-tokenize": ehr_tokenize.cli.main,
        "ehr-train": ehr_train.cli.main,
        "ehr-eval": ehr_eval.cli.main,
    }[name]
    done = CliRunner().invoke(main, arguments)
    assert done.exception is None or isinstance(done.exception, SystemExit), repr(done.exception)
    return done.exit_code, done.output


class World(NamedTuple):
    """One artifact of each kind, made from one data set."""

    meds: Path
    labels: Path
    tokens: Path
    run: Path
    features: Path


TINY = ("model.kind=gpt2", "model.size=tiny", "objective.kind=clm", "optim.steps=2",
        "data.batch_tokens=256", "data.micro_tokens=256", "data.context=32", "precision=fp32",
        "validation.every=2")  # fmt: skip


def train(tokens: Path, out: Path, *more: object) -> tuple[int, str]:
    settings = [part for setting in TINY for part in ("-s", setting)]
    return run("ehr-train", "--tokens", tokens, "--out", out, *settings, *more)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    root = tmp_path_factory.mktemp("world")
    meds, labels = write_meds(root / "meds"), write_labels(root / "labels")
    done = [
        run("ehr-tokenize", "--meds", meds, "--out", root / "tokens"),
        train(root / "tokens", root / "run"),
        run("ehr-eval", "counts", "--meds", meds, "--labels", labels, "--out", root / "features",
            "-s", "min_rows=1"),
    ]  # fmt: skip
    assert [code for code, _ in done] == [0, 0, 0], done
    return World(meds, labels, root / "tokens", root / "run", root / "features")


Command = Callable[[World, Path, Path], tuple[int, str]]
OF_LABELS: dict[str, Command] = {
    "counts": lambda w, labels, out: run(
        "ehr-eval", "counts", "--meds", w.meds, "--labels", labels, "--out", out, "-s", "min_rows=1"
    ),
    "features": lambda w, labels, out: run(
        "ehr-eval", "features", "--checkpoint", w.run, "--tokens", w.tokens, "--labels", labels,
        "--out", out,
    ),
    "narrate": lambda w, labels, out: run(
        "ehr-tokenize", "narrate", "--meds", w.meds, "--labels", labels, "--out", out
    ),
    "ehr-train": lambda w, labels, out: train(
        w.tokens, out, "--labels", labels, "-s", "objective.kind=classification"
    ),
    "ehrshot": lambda w, labels, out: run(
        "ehr-eval", "ehrshot", "--labels", labels, "--features", f"counts={w.features}", "--out", out,
        "-s", "ks=[1]", "-s", "replicates=1", "-s", "bootstraps=2",
    ),
}  # fmt: skip
"""Every command that reads labels."""


# times with a zone: turned into UTC they would show a row hours of its future


@pytest.mark.parametrize("command", OF_LABELS)
def test_prediction_times_of_another_zone_are_refused_with_what_to_do(
    world: World, tmp_path: Path, command: str
) -> None:
    labels = write_labels(tmp_path / "labels", "America/New_York")
    code, said = OF_LABELS[command](world, labels, tmp_path / "out")
    assert code == 2
    assert "prediction_time is timestamp[us, tz=America/New_York]" in said
    assert "convert to the data set's own times" in said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", OF_LABELS)
def test_prediction_times_in_utc_are_taken_as_they_are(
    world: World, tmp_path: Path, command: str
) -> None:
    labels = write_labels(tmp_path / "labels", "UTC")
    assert OF_LABELS[command](world, labels, tmp_path / "out")[0] == 0


def test_predictions_of_another_zone_are_refused_with_what_to_do(
    world: World, tmp_path: Path
) -> None:
    labels = pq.read_table(world.labels / "own" / "0.parquet")
    probability = pa.array([0.5] * len(labels))
    predicted = labels.append_column("predicted_boolean_probability", probability).set_column(
        1, "prediction_time", labels["prediction_time"].cast(pa.timestamp("us", "Asia/Tokyo"))
    )
    (tmp_path / "theirs" / "own").mkdir(parents=True)
    pq.write_table(predicted, tmp_path / "theirs" / "own" / "0.parquet")
    code, said = run("ehr-eval", "ehrshot", "--labels", world.labels, "--out", tmp_path / "out",
                     "--features", f"counts={world.features}", "--predictions",
                     f"theirs={tmp_path / 'theirs'}")  # fmt: skip
    assert code == 2
    assert "tz=Asia/Tokyo]; MEDS has no zones: convert to the data set's own times" in said
