"""What becomes known late is hidden until then from tokens and from counts alike."""

import json
from collections import Counter
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

import ehr_eval.cli
import ehr_tokenize.cli
from ehr_eval.features.read import read_features
from ehr_tracking.manifest import load_manifest

START = datetime(2020, 1, 1)  # noqa: DTZ001 -- MEDS times have no zone
WINDOW = 10.0
CODES = ("DX//A", "DX//B", "LAB//K", "SEX//F", "RX")


class Event(NamedTuple):
    day: float | None
    code: str


def moment(day: float) -> datetime:
    return START + timedelta(days=day)


def write_meds(out: Path, records: dict[int, list[Event]]) -> Path:
    rows = [
        (subject, None if e.day is None else moment(e.day), e.code)
        for subject, events in records.items()
        for e in sorted(events, key=lambda e: (e.day is not None, e.day or 0.0))
    ]
    subject, time, code = zip(*rows, strict=True)
    (out / "data").mkdir(parents=True)
    (out / "metadata").mkdir()
    columns = {"subject_id": pa.array(subject, pa.int64()), "time": pa.array(time, pa.timestamp("us")), "code": code}  # fmt: skip
    pq.write_table(pa.table(columns), out / "data" / "0.parquet")
    splits = {"subject_id": list(records), "split": ["train"] * len(records)}
    pq.write_table(pa.table(splits), out / "metadata" / "subject_splits.parquet")
    return out


def write_labels(out: Path, keys: list[tuple[int, float]]) -> Path:
    out.mkdir()
    table = {
        "subject_id": pa.array([s for s, _ in keys], pa.int64()),
        "prediction_time": pa.array([moment(d) for _, d in keys], pa.timestamp("us")),
        "boolean_value": [True] * len(keys),
    }
    pq.write_table(pa.table(table), out / "0.parquet")
    return out


def run(command: object, *arguments: object) -> None:
    result = CliRunner().invoke(command, [str(a) for a in arguments])  # type: ignore[arg-type]
    assert result.exit_code == 0, result.output


def tokenise(root: Path, meds: Path, delay: dict[str, float]) -> Path:
    """One token an event, and nothing else."""
    config = {"scheme": {"kind": "joint", "values": "none"}, "delay": delay}
    (root / "tokens.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    run(ehr_tokenize.cli.main, "--meds", meds, "--out", root / "tokens", "-c", root / "tokens.yaml")
    return root / "tokens"


def count(root: Path, meds: Path, labels: Path, *arguments: object) -> Path:
    plain = [f"windows_days=[{WINDOW}]", "ontology=false", "bins=0", "min_rows=1", "trends=[]"]
    settings = [part for item in plain for part in ("-s", item)]
    out = root / "counts"
    run(ehr_eval.cli.main, "counts", "--meds", meds, "--labels", labels, "--out", out, *settings, *arguments)  # fmt: skip
    return out


def counted(out: Path) -> Iterator[tuple[int, datetime, Counter[str]]]:
    """Subject, prediction time, column -> count."""
    found = read_features(out)
    names = json.loads((out / "columns.json").read_text())["columns"]
    for subject, time, row, _ in found.index.iter_rows():
        values = found.matrix[row].toarray()[0].tolist()
        there = {n: v for n, v in zip(names, values, strict=True) if v}
        counts = Counter({n: int(v) for n, v in there.items() if not n.endswith("|recency")})
        seen = {f"{n.removesuffix('|recency')}|any" for n in there.keys() - counts.keys()}
        # what has no time is not recent, and a time ago is told of what is known alone
        assert seen <= counts.keys()
        yield subject, time, counts


def told(tokens: Path, subject: int, time: datetime) -> Counter[str]:
    """The same columns, by counting the tokens that are known at the time."""
    code = pq.read_table(tokens / "vocab.parquet")["code"].to_pylist()
    (record,) = (
        row for row in pq.read_table(tokens / "train").to_pylist() if row["subject_id"] == subject
    )
    found: Counter[str] = Counter()
    for token, known in zip(record["token"], record["time"], strict=True):
        if code[token] is None or (known is not None and known > time):
            continue
        found[f"{code[token]}|any"] += 1
        if known is not None and known > time - timedelta(days=WINDOW):
            found[f"{code[token]}|{WINDOW:g}d"] += 1
    return found


DAYS = st.integers(0, 400).map(lambda n: n / 10)
RECORDS = st.lists(
    st.lists(st.builds(Event, st.none() | DAYS, st.sampled_from(CODES)), min_size=1, max_size=12),
    min_size=1,
    max_size=5,
)
DELAYS = st.dictionaries(
    st.sampled_from(["^DX", "DX//A", "^LAB", "SEX", "."]),
    st.sampled_from([0, 0.1, 3, 7, 30.5]),
    max_size=3,
)


@pytest.mark.slow
@settings(max_examples=25)
@given(RECORDS, DELAYS, st.lists(DAYS, min_size=1, max_size=4, unique=True))
def test_tokens_and_counts_tell_the_same_at_any_time(
    tmp_path_factory: pytest.TempPathFactory,
    records: list[list[Event]],
    delay: dict[str, float],
    days: list[float],
) -> None:
    root = tmp_path_factory.mktemp("delays")
    by_subject = dict(enumerate(records, start=1))
    meds = write_meds(root / "meds", by_subject)
    labels = write_labels(root / "labels", [(s, d) for s in by_subject for d in days])
    tokens = tokenise(root, meds, delay)
    out = count(root, meds, labels, "--tokens", tokens)
    assert load_manifest(out).config["delay"] == load_manifest(tokens).config["delay"] == delay
    for subject, time, columns in counted(out):
        assert columns == told(tokens, subject, time)


@pytest.mark.parametrize(("day", "known"), [(3, False), (6.9, False), (7, True), (8, True)])
def test_a_diagnosis_delayed_by_seven_days_is_unknown_on_the_third_and_known_on_the_eighth(
    tmp_path: Path, day: float, known: bool
) -> None:
    meds = write_meds(tmp_path / "meds", {1: [Event(0, "DX//A"), Event(0, "LAB//K")]})
    labels = write_labels(tmp_path / "labels", [(1, day)])
    delay = {"^DX": 7.0}
    tokens = tokenise(tmp_path, meds, delay)
    ((_, time, columns),) = counted(count(tmp_path, meds, labels, "-s", f"delay={json.dumps(delay)}"))  # fmt: skip
    assert columns == told(tokens, 1, time)
    assert ("DX//A|any" in columns) == known
    assert "LAB//K|any" in columns
