"""What every command that reads a kind of input says of it, with one small world for all."""

import re
import shutil
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

import ehr_eval.cli
import ehr_tokenize.cli
import ehr_train.cli
from ehr_tracking.contracts import SPLITS
from ehr_tracking.manifest import load_manifest
from ehr_tracking.tree import note

START = datetime(2020, 1, 1)  # noqa: DTZ001 -- MEDS times have no zone
SUBJECTS = range(1, 25)
CODES = {0: "MEDS_BIRTH", 1: "HOSPITAL_ADMISSION//E", 5: "LAB//K", 9: "HOSPITAL_DISCHARGE//HOME", 800: "MEDS_DEATH"}  # fmt: skip
"""Day -> what happens to every subject."""


def columns() -> dict[str, pa.Array]:
    """Events of a data set: a stay a subject, and a laboratory value in it."""
    rows = []
    for subject in SUBJECTS:
        rows += [(subject, None, "SEX//F", None)]
        for day, code in CODES.items():
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


Command = Callable[..., tuple[int, str]]
OF_LABELS: dict[str, Command] = {
    "counts": lambda w, labels, out, *more: run(
        "ehr-eval", "counts", "--meds", w.meds, "--labels", labels, "--out", out, "-s", "min_rows=1", *more
    ),
    "features": lambda w, labels, out, *more: run(
        "ehr-eval", "features", "--checkpoint", w.run, "--tokens", w.tokens, "--labels", labels,
        "--out", out, *more,
    ),
    "narrate": lambda w, labels, out, *more: run(
        "ehr-tokenize", "narrate", "--meds", w.meds, "--labels", labels, "--out", out, *more
    ),
    "ehr-train": lambda w, labels, out, *more: train(
        w.tokens, out, "--labels", labels, "-s", "objective.kind=classification", *more
    ),
    "ehrshot": lambda w, labels, out, *more: run(
        "ehr-eval", "ehrshot", "--labels", labels, "--features", f"counts={w.features}", "--out", out,
        "-s", "ks=[1]", "-s", "replicates=1", "-s", "bootstraps=2", *more,
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


# MEDS data sets: the same files give the same to every command, or the same refusal

OF_MEDS: dict[str, Command] = {
    "tokenize": lambda _, meds, out, *more: run(
        "ehr-tokenize", "--meds", meds, "--out", out, *more
    ),
    "labels": lambda _, meds, out, *more: run(
        "ehr-eval", "labels", "--meds", meds, "--out", out, "--task", "mortality_1y", *more
    ),
    "counts": lambda w, meds, out, *more: run(
        "ehr-eval",
        "counts",
        "--meds",
        meds,
        "--labels",
        w.labels,
        "--out",
        out,
        "-s",
        "min_rows=1",
        *more,
    ),
    "narrate": lambda w, meds, out, *more: run(
        "ehr-tokenize", "narrate", "--meds", meds, "--labels", w.labels, "--out", out, *more
    ),
}
"""Every command that reads events."""


class Meds(NamedTuple):
    """A world without a model, which no command here needs."""

    meds: Path
    labels: Path


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> tuple[Meds, dict[str, object]]:
    """A data set as we write it, and the files that each command makes of it."""
    root = tmp_path_factory.mktemp("plain")
    world = Meds(write_meds(root / "meds"), write_labels(root / "given"))
    made = {}
    for name, command in OF_MEDS.items():
        code, said = command(world, world.meds, root / name)
        assert code == 0, said
        made[name] = load_manifest(root / name).files
    return world, made


def made_of(plain: tuple[Meds, dict[str, object]], meds: Path, out: Path) -> None:
    """Assert that every command makes of a data set what it makes of the plain one."""
    world, made = plain
    for name, command in OF_MEDS.items():
        code, said = command(world, meds, out / name)
        assert code == 0, said
        assert load_manifest(out / name).files == made[name], name


def refused(plain: tuple[Meds, dict[str, object]], meds: Path, out: Path, message: str) -> None:
    """Assert that every command refuses a data set in one line, and writes nothing."""
    for name, command in OF_MEDS.items():
        code, said = command(plain[0], meds, out / name)
        assert code == 2, (name, said)
        assert re.search(message, said), (name, said)
        assert sum(line.startswith("Error") for line in said.splitlines()) == 1
        assert not (out / name).exists()


def test_a_split_below_a_link_and_what_notebooks_leave_change_nothing(plain, tmp_path) -> None:
    meds = write_meds(tmp_path / "meds")
    (meds / "data" / "held_out").rename(tmp_path / "disk")
    (meds / "data" / "held_out").symlink_to(tmp_path / "disk")
    (meds / "data" / "train" / "again").symlink_to(meds / "data")
    for stray in (".ipynb_checkpoints/0.parquet", "train/._0.parquet", "_temporary/1.parquet"):
        (meds / "data" / stray).parent.mkdir(exist_ok=True)
        (meds / "data" / stray).write_bytes(b"of another tool")
    made_of(plain, meds, tmp_path)


def test_splits_whose_subjects_have_no_events_are_said_by_every_command(plain, tmp_path) -> None:
    meds = write_meds(tmp_path / "meds")
    (meds / "data" / "held_out" / "0.parquet").unlink()
    labels = tmp_path / "given" / "own" / "0.parquet"
    labels.parent.mkdir(parents=True)
    own = pq.read_table(plain[0].labels / "own" / "0.parquet")
    there = [split_of(s) != "held_out" for s in own["subject_id"].to_pylist()]
    pq.write_table(own.filter(pa.array(there)), labels)
    for name, command in OF_MEDS.items():
        note.cache_clear()
        code, said = command(Meds(meds, tmp_path / "given"), meds, tmp_path / name)
        assert code == 0, said
        assert "subjects without any events: 6 of the 6 of held_out" in said, name


def test_a_subject_in_two_files_is_refused_alike_and_mended(plain, tmp_path) -> None:
    table = pa.table(columns())
    late = pc.greater(table["time"], pa.scalar(START + timedelta(days=3))).fill_null(False)
    meds = write_meds(
        tmp_path / "meds",
        {"a.parquet": table.filter(pc.invert(late)), "b.parquet": table.filter(late)},
    )
    refused(plain, meds, tmp_path, r"subject 1 is in two files: .*check DATA --repair OUT mends it")
    assert run("ehr-tokenize", "check", meds, "--repair", tmp_path / "mended")[0] == 0
    made_of(plain, tmp_path / "mended", tmp_path)


TEXTS = (pa.large_string(), pa.string_view(), pa.dictionary(pa.int8(), pa.string()),
         pa.dictionary(pa.int32(), pa.large_string()))  # fmt: skip
TO_MEND = {
    "subject_id": (pa.int32(), pa.uint64(), pa.float64(), pa.string()),
    "time": (pa.timestamp("ns"), pa.timestamp("ms"), pa.timestamp("us", "UTC")),
    "numeric_value": (pa.float64(), pa.int32()),
}


@pytest.mark.parametrize("kind", TEXTS, ids=str)
def test_codes_of_every_physical_type_that_check_calls_fit_are_fit_everywhere(
    plain, tmp_path, kind
) -> None:
    table = pa.table(columns())
    meds = write_meds(tmp_path / "meds", {"0.parquet": table.set_column(2, "code", table["code"].cast(kind))})  # fmt: skip
    assert run("ehr-tokenize", "check", meds)[0] == 0
    made_of(plain, meds, tmp_path)


@pytest.mark.parametrize(("name", "kind"), [(n, k) for n, kinds in TO_MEND.items() for k in kinds], ids=str)  # fmt: skip
def test_types_that_repair_mends_are_refused_with_that_hint_and_mended(
    plain, tmp_path, name, kind
) -> None:
    table = pa.table(columns())
    at = table.column_names.index(name)
    column = pc.cast(table[name], kind, safe=False) if name != "time" else table[name].cast(kind)
    meds = write_meds(tmp_path / "meds", {"0.parquet": table.set_column(at, name, column)})
    assert run("ehr-tokenize", "check", meds)[0] == 2
    message = (
        rf"column {name} is {re.escape(str(kind))}, MEDS has .*check DATA --repair OUT mends it"
    )
    refused(plain, meds, tmp_path, message)
    assert run("ehr-tokenize", "check", meds, "--repair", tmp_path / "mended")[0] == 0
    made_of(plain, tmp_path / "mended", tmp_path)


@pytest.mark.parametrize(
    "empty",
    [pa.table({n: pa.nulls(0) for n in columns()}), pa.table({})],
    ids=["nulls", "no columns"],
)
def test_empty_files_without_types_are_refused_with_a_hint_and_mended(
    plain, tmp_path, empty
) -> None:
    meds = write_meds(tmp_path / "meds", {"0.parquet": pa.table(columns()), "1.parquet": empty})
    refused(
        plain, meds, tmp_path, r"1\.parquet: has no rows, and columns without a type; .* mends it"
    )
    assert run("ehr-tokenize", "check", meds, "--repair", tmp_path / "mended")[0] == 0
    made_of(plain, tmp_path / "mended", tmp_path)


def test_splits_of_other_names_are_refused_with_the_mapping_and_mapped(plain, tmp_path) -> None:
    meds = write_meds(tmp_path / "meds")
    path = meds / "metadata" / "subject_splits.parquet"
    named = pq.read_table(path)
    other = {"tuning": "val", "held_out": "test", "train": "train"}
    split = pa.array([other[s] for s in named["split"].to_pylist()])
    pq.write_table(named.set_column(1, "split", split), path)
    message = (
        r"split is '(val|test)', MEDS has train, tuning, held_out; map it with ehr-tokenize check"
    )
    refused(plain, meds, tmp_path, message)
    mapping = ("--split", "val=tuning", "--split", "test=held_out")
    code, said = run("ehr-tokenize", "check", meds, "--repair", tmp_path / "mended", *mapping)
    assert code == 0, said
    assert "subjects of split val are of split tuning (6)" in said
    made_of(plain, tmp_path / "mended", tmp_path)


# what is there: only an artifact of the same contract goes, never what the command reads


@pytest.mark.parametrize("command", [*OF_LABELS, *OF_MEDS])
def test_no_command_replaces_what_it_reads_nor_another_kind(
    world: World, tmp_path: Path, command: str
) -> None:
    read = world.labels if command in OF_LABELS else world.meds
    written = shutil.copytree(read, tmp_path / "read")
    other = shutil.copytree(world.run, tmp_path / "other")
    if command == "ehr-train":
        other = shutil.copytree(world.tokens, tmp_path / "tokens")
    write = (OF_LABELS | OF_MEDS)[command]
    for out, message in (
        (written, "is an input of this very command; choose another path"),
        (written / "new", "lies inside the input"),
        (other, "shall not replace; choose another path"),
    ):
        before = sorted(tmp_path.rglob("*"))
        code, said = write(world, written, out, "--overwrite")
        assert (code, message in said) == (2, True), said
        assert sorted(tmp_path.rglob("*")) == before
