import json
from collections import Counter
from datetime import datetime, timedelta

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file
from scipy import sparse

from ehr_eval.cli import main
from ehr_eval.counts.config import CountsConfig
from ehr_eval.counts.count import column_names, count_rows
from ehr_eval.counts.measures import fit_measures
from ehr_eval.counts.parts import Part, count_parts
from ehr_eval.counts.past import _chunks
from ehr_eval.counts.things import ancestors, fit_things
from ehr_eval.counts.write import count_features
from ehr_eval.features.read import read_features
from ehr_eval.tasks.make import make_labels
from ehr_tracking.arrow.delays import Delays
from ehr_tracking.config import ConfigError
from ehr_tracking.contracts import ContractError
from ehr_tracking.errors import UserError
from ehr_tracking.manifest import load_manifest, source, verify

START = datetime(2020, 1, 1)  # noqa: DTZ001 -- MEDS times have no zone
SCHEMA = pa.schema(
    {
        "subject_id": pa.int64(),
        "time": pa.timestamp("us"),
        "code": pa.string(),
        "numeric_value": pa.float32(),
    }
)
PLAIN = {"recency": False, "trends": (), "units": False}
"""Counts alone."""
CODES = {"A.1": ["A"], "A.2": ["A"], "A": ["ROOT"], "ROOT": None, "LAB": None}


def day(n):
    return START + timedelta(days=n)


def write_meds(directory, events, splits, files=1):
    """`events`: (subject, day or None, code, value); sorted by us."""
    order = sorted(events, key=lambda e: (e[0], e[1] is not None, e[1] or 0))
    subjects = sorted({e[0] for e in events})
    (directory / "data").mkdir(parents=True)
    (directory / "metadata").mkdir()
    for n in range(files):
        rows = [e for e in order if e[0] in subjects[n::files]]
        columns = list(zip(*rows, strict=True))
        columns[1] = [None if d is None else day(d) for d in columns[1]]
        table = pa.table(
            [pa.array(c, f.type) for c, f in zip(columns, SCHEMA, strict=True)], schema=SCHEMA
        )
        pq.write_table(table, directory / "data" / f"{n}.parquet")
    pq.write_table(
        pa.table({"subject_id": list(splits), "split": list(splits.values())}),
        directory / "metadata" / "subject_splits.parquet",
    )
    codes = {
        "code": list(CODES),
        "description": [None] * len(CODES),
        "parent_codes": pa.array(list(CODES.values()), pa.list_(pa.string())),
    }
    pq.write_table(pa.table(codes), directory / "metadata" / "codes.parquet")
    return directory


def write_labels(directory, rows):
    path = directory / "task" / "0.parquet"
    path.parent.mkdir(parents=True)
    pl.DataFrame(
        [(s, day(d), True) for s, d in rows],
        schema={
            "subject_id": pl.Int64,
            "prediction_time": pl.Datetime("us"),
            "boolean_value": pl.Boolean,
        },
        orient="row",
    ).write_parquet(path)
    return directory


def table(out):
    """(subject, day) -> {column: value}, zeros left out."""
    found = read_features(out)
    names = json.loads((out / "columns.json").read_text())["columns"]
    dense = found.matrix.toarray()
    assert dense.shape[1] == len(names)
    keys = [
        (s, (t - START) / timedelta(days=1))
        for s, t in found.index.select("subject_id", "prediction_time").rows()
    ]
    return {
        key: {n: v for n, v in zip(names, row.tolist(), strict=True) if v}
        for key, row in zip(keys, dense, strict=True)
    }


def random_events(seed, subjects=range(1, 13), per_subject=60):
    rng = np.random.default_rng(seed)
    events = []
    for s in subjects:
        events.append((s, -int(rng.integers(10_000, 20_000)), "MEDS_BIRTH", None))
        events.append((s, None, f"GENDER//{'FM'[int(rng.integers(2))]}", None))
        for _ in range(per_subject):
            code = str(rng.choice(["A.1", "A.2", "LAB", "B"]))
            value = float(rng.normal(s, 3)) if code == "LAB" else None
            events.append((s, float(np.round(rng.uniform(0, 500), 2)), code, value))
    return events


@pytest.fixture
def cohort(tmp_path):
    events = random_events(0)
    names = ["train"] * 8 + ["tuning"] * 2 + ["held_out"] * 2
    splits = dict(zip(range(1, 13), names, strict=True))
    data = write_meds(tmp_path / "meds", events, splits)
    rows = [(s, d) for s in range(1, 13) for d in (5, 99.5, 300, 450)]
    return data, write_labels(tmp_path / "labels", rows), events, splits


def test_counts_by_hand(tmp_path) -> None:
    events = [
        (1, -3652.5, "MEDS_BIRTH", None),
        (1, None, "GENDER//F", None),
        (1, 0, "A.1", None),
        (1, 9, "A.1", None),
        (1, 9, "A.2", None),
        (1, 10, "A.1", None),  # at the prediction time: visible
        (1, 10.001, "A.1", None),  # after it: not
    ]
    data = write_meds(tmp_path / "meds", events, {1: "train"})
    labels = write_labels(tmp_path / "labels", [(1, 10)])
    config = CountsConfig(windows_days=(1, 30), min_rows=1, **PLAIN)
    count_features(data, labels, tmp_path / "out", config)
    assert table(tmp_path / "out") == {
        (1, 10): {
            "age": pytest.approx(10.0 + 10 / 365.25),
            "A.1|1d": 1,  # (9, 10]: the event at day 9 is a day old, and out
            "A.1|30d": 3,
            "A.1|any": 3,
            "A.2|30d": 1,
            "A.2|any": 1,
            "A|1d": 1,
            "A|30d": 4,
            "A|any": 4,
            "ROOT|1d": 1,
            "ROOT|30d": 4,
            "ROOT|any": 4,
            "GENDER//F|any": 1,
            "MEDS_BIRTH|any": 1,
        }
    }
    plain = CountsConfig(windows_days=(30,), min_rows=1, ontology=False, **PLAIN)
    count_features(data, labels, tmp_path / "plain", plain)
    found = table(tmp_path / "plain")[1, 10]
    assert found.keys() == {"age", "A.1|30d", "A.1|any", "A.2|30d", "A.2|any", "GENDER//F|any", "MEDS_BIRTH|any"}  # fmt: skip


def test_counts_equal_a_loop_over_events(cohort, tmp_path) -> None:
    data, labels, events, splits = cohort
    config = CountsConfig(windows_days=(30,), min_rows=1, bins=4, min_values=5, **PLAIN)
    count_features(data, labels, tmp_path / "out", config)
    train = sorted(v for s, _, c, v in events if c == "LAB" and splits[s] == "train")
    edges = [np.float32(train[len(train) * i // 4]) for i in (1, 2, 3)]
    for (subject, at), found in table(tmp_path / "out").items():
        expected = Counter()
        for s, d, code, value in events:
            if s != subject or (d is not None and d > at):
                continue
            names = list(ancestors(code, CODES))
            if value is not None:
                names.append(f"LAB//Q{1 + sum(np.float32(value) >= e for e in edges)}")
            for name in names:
                expected[f"{name}|any"] += 1
                if d is not None and at - 30 < d:
                    expected[f"{name}|30d"] += 1
        del found["age"]
        assert found == expected


def test_the_future_changes_no_byte(cohort, tmp_path) -> None:
    data, labels, events, splits = cohort
    rng = np.random.default_rng(9)
    # test subjects alone: what is fitted sees all of train
    late = [
        (s, 450.01 + i, str(rng.choice(["A.1", "LAB", "NEW"])), float(rng.normal(0, 90)))
        for s in (11, 12)
        for i in range(40)
    ]
    changed = write_meds(tmp_path / "changed", events + late, splits)
    early = write_meds(
        tmp_path / "early",
        [e for e in events if splits[e[0]] == "train" or e[1] is None or e[1] <= 450],
        splits,
    )
    config = CountsConfig(min_rows=1, min_values=5)
    outs = []
    for name, meds in (("a", data), ("b", changed), ("c", early)):
        count_features(meds, labels, tmp_path / name, config)
        outs.append((tmp_path / name / "features.safetensors").read_bytes())
    assert outs[0] == outs[1] == outs[2]


def test_events_of_the_future_are_not_counted_in_train_either(cohort) -> None:
    _, _, events, _ = cohort
    frame = pl.DataFrame(
        [(s, None if d is None else day(d), c, v) for s, d, c, v in events],
        schema={
            "subject_id": pl.Int64,
            "time": pl.Datetime("us"),
            "code": pl.String,
            "numeric_value": pl.Float32,
        },
        orient="row",
    )
    rows = pl.DataFrame({"subject_id": [1, 1, 4], "prediction_time": [day(50), day(200), day(200)]})
    things = _things(frame)
    past = frame.filter(pl.col("time").is_null() | (pl.col("time") <= day(200)))
    config = CountsConfig()
    assert (
        count_rows(frame, rows, things, config) != count_rows(past, rows, things, config)
    ).nnz == 0
    cut = rows.head(1)
    assert (
        count_rows(frame, rows, things, config)[:1] != count_rows(frame, cut, things, config)
    ).nnz == 0


TIED = st.lists(
    st.tuples(st.integers(0, 3), st.sampled_from(["A.1", "LAB"]), st.sampled_from([1.0, 2.0, 3.0, None])),
    min_size=4,
    max_size=20,
)  # fmt: skip


@given(TIED, st.randoms())
def test_no_order_of_rows_changes_bins_or_counts(rows, random) -> None:
    config = CountsConfig(bins=3, min_values=2)
    asked = pl.DataFrame({"subject_id": [1, 1], "prediction_time": [day(1), day(3)]})
    found = []
    for order in (rows, random.sample(rows, len(rows))):
        frame = pl.DataFrame(
            [(1, day(d), code, value) for d, code, value in order],
            schema={
                "subject_id": pl.Int64,
                "time": pl.Datetime("us"),
                "code": pl.String,
                "numeric_value": pl.Float32,
            },
            orient="row",
        )
        things = fit_things([frame], pl.Series([1]), CODES, config)
        counts = count_rows(frame, asked, things, config).toarray()
        found.append((things.names, things.measures.edges, counts.tolist()))
    assert found[0] == found[1]


def _things(frame):
    subjects = frame["subject_id"].unique()
    return fit_things([frame], subjects, CODES, CountsConfig(min_values=5))


def test_only_train_subjects_choose_bins_and_columns(cohort, tmp_path) -> None:
    data, labels, events, splits = cohort
    others = [
        (
            s,
            d,
            "ONLY_HERE" if splits[s] != "train" and c == "B" else c,
            v * 100 if v is not None and splits[s] != "train" else v,
        )
        for s, d, c, v in events
    ]
    changed = write_meds(tmp_path / "changed", others, splits)
    config = CountsConfig(min_rows=1, min_values=5)
    for name, meds in (("a", data), ("b", changed)):
        count_features(meds, labels, tmp_path / name, config)
    columns = [(tmp_path / n / "columns.json").read_bytes() for n in "ab"]
    assert columns[0] == columns[1]
    a, b = (read_features(tmp_path / n) for n in "ab")
    train = (a.index["split"] == "train").to_numpy()
    assert (a.matrix[train] != b.matrix[train]).nnz == 0
    assert (a.matrix[~train] != b.matrix[~train]).nnz > 0


def test_columns_that_are_rare_in_train_are_left_out(cohort, tmp_path) -> None:
    data, labels, _, _ = cohort
    count_features(data, labels, tmp_path / "all", CountsConfig(min_rows=1))
    count_features(data, labels, tmp_path / "some", CountsConfig(min_rows=20))
    every, some = (
        json.loads((tmp_path / n / "columns.json").read_text())["columns"] for n in ("all", "some")
    )
    full = read_features(tmp_path / "all")
    train = (full.index["split"] == "train").to_numpy()
    frequent = (full.matrix.toarray()[train] != 0).sum(axis=0) >= 20
    assert some == [n for n, keep in zip(every, frequent, strict=True) if keep]
    assert 0 < len(some) < len(every)


def test_where_no_column_is_left_one_line_says_so(cohort, tmp_path) -> None:
    data, labels, _, _ = cohort
    with pytest.raises(ContractError, match=r"no column has a count in 100,000 or more") as e:
        count_features(data, labels, tmp_path / "out", CountsConfig(min_rows=100_000))
    assert len(str(e.value).splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_a_sealed_artifact_with_sorted_rows_the_same_from_any_files(cohort, tmp_path) -> None:
    data, labels, events, splits = cohort
    done = count_features(data, labels, tmp_path / "a")
    count_features(data, labels, tmp_path / "b")
    scattered = write_meds(tmp_path / "scattered", events, splits, files=5)
    count_features(scattered, labels, tmp_path / "c")
    assert (tmp_path / "a" / "manifest.json").read_bytes() == (
        tmp_path / "b" / "manifest.json"
    ).read_bytes()
    assert load_manifest(tmp_path / "a").files == load_manifest(tmp_path / "c").files
    assert verify(tmp_path / "a") == []
    index = read_features(tmp_path / "a").index
    assert index.equals(index.sort("subject_id", "prediction_time"))
    assert index["row"].to_list() == list(range(48)) == list(range(done.rows))
    tensors = load_file(tmp_path / "a" / "features.safetensors")
    assert {k: str(v.dtype) for k, v in tensors.items()} == {
        "data": "float32",
        "indices": "int32",
        "indptr": "int64",
        "shape": "int64",
    }
    matrix = sparse.csr_matrix((tensors["data"], tensors["indices"], tensors["indptr"]))
    assert matrix.has_sorted_indices
    assert done.nonzero == np.count_nonzero(matrix.toarray())


def test_small_chunks_give_the_same_counts(cohort, tmp_path, monkeypatch) -> None:
    data, labels, _, _ = cohort
    count_features(data, labels, tmp_path / "a")
    monkeypatch.setattr("ehr_eval.counts.past.PAIRS", 20)
    monkeypatch.setattr("ehr_eval.counts.count.BLOCK", 150)
    count_features(data, labels, tmp_path / "b")
    assert load_manifest(tmp_path / "a").files == load_manifest(tmp_path / "b").files
    assert _chunks(np.array([50, 1]), 20) == [(0, 1), (1, 2)]


def test_bins_of_values_that_do_not_differ_or_are_few_do_not_exist() -> None:
    def bins(code, values, bins=10):
        table = pl.DataFrame({"code": [code] * len(values), "unit": "", "numeric_value": values})
        return fit_measures(table, CountsConfig(bins=bins, min_values=3)).edges

    assert bins("A", [0.0] * 9) == bins("B", [1.0, 2.0]) == bins("A", [0.0, 1.0, 2.0], bins=0) == {}
    assert bins("A", [0.0] * 8 + [1.0, 2.0]) == {"A": [1.0, 2.0]}


def expected_trends(past, at, windows, center, spread):
    """Of (day, value) up to a time, by what the settings say in words."""
    z = [((v - center) / spread, d) for d, v in past]
    found = {"last": z[-1][0]} if z else {}
    if len(z) > 1:
        found["step"] = z[-1][0] - z[-2][0]
    for name, days in windows.items():
        inside = [(v, d) for v, d in z if d > at - days]
        if not inside:
            continue
        values, when = (np.array(x) for x in zip(*inside, strict=True))
        found |= {f"mean|{name}": values.mean(), f"min|{name}": values.min()}
        found |= {f"max|{name}": values.max(), f"change|{name}": values[-1] - values[0]}
        if when[0] < when[-1]:
            found[f"slope|{name}"] = np.polyfit(when, values, 1)[0]
    return {name: np.arcsinh(value) for name, value in found.items()}


def test_recency_and_trends_equal_what_is_worked_out_event_by_event(cohort, tmp_path) -> None:
    data, labels, events, splits = cohort
    trends = ("last", "step", "mean", "min", "max", "slope", "change")
    config = CountsConfig(windows_days=(30, 200), min_rows=1, bins=0, min_values=5, trends=trends)
    count_features(data, labels, tmp_path / "out", config)
    train = sorted(np.float32(v) for s, _, c, v in events if c == "LAB" and splits[s] == "train")
    center, spread = train[len(train) // 2], train[len(train) * 3 // 4] - train[len(train) // 4]
    windows = {"30d": 30, "200d": 200, "any": np.inf}
    for (subject, at), found in table(tmp_path / "out").items():
        seen = sorted(
            (d, c, v) for s, d, c, v in events if s == subject and d is not None and d <= at
        )
        labs = [(round(d * 1440) / 1440, v) for d, c, v in seen if c == "LAB"]
        expected = expected_trends(labs, at, windows, float(center), float(spread))
        got = {n.removeprefix("LAB|"): v for n, v in found.items() if n.startswith("LAB|")}
        for name, value in expected.items():
            assert got.get(name, 0) == pytest.approx(value, abs=2e-4), name
        since = {name: at - d for d, c, _ in seen for name in ancestors(c, CODES)}
        recent = {n.removesuffix("|recency"): v for n, v in found.items() if n.endswith("|recency")}
        assert recent.keys() == since.keys()
        for name, days in since.items():
            told = 1 - np.log1p(days * 24) / np.log1p(36525 * 24)
            assert recent[name] == pytest.approx(told, abs=1e-6)


def frame(rows):
    schema = {
        "subject_id": pl.Int64,
        "time": pl.Datetime("us"),
        "code": pl.String,
        "numeric_value": pl.Float32,
        "unit": pl.String,
    }
    return pl.DataFrame(rows, schema=schema, orient="row")


def test_a_code_in_two_units_has_bins_and_trends_of_each(tmp_path) -> None:
    values = [(1, day(i), "LAB", float(v), "g") for i, v in enumerate([3, 4, 5, 6])]
    values += [(1, day(i), "LAB", v / 1000, "kg") for i, v in enumerate([3, 4, 5, 6])]
    values += [(1, day(9), "LAB", 1.0, "stone"), (1, day(9), "OTHER", 1.0, "g")]
    events = frame(values)
    config = CountsConfig(windows_days=(), bins=2, min_values=3, trends=("last",), recency=False)
    things = fit_things([events], pl.Series([1]), CODES, config)
    names = column_names(things, config)
    assert names == [
        "age", "LAB|any", "OTHER|any", *(f"LAB//{u}//Q{q}|any" for u in ("g", "kg") for q in (1, 2)),
        "LAB//g|last", "LAB//kg|last",
    ]  # fmt: skip
    rows = pl.DataFrame({"subject_id": [1], "prediction_time": [day(10)]})
    assert count_rows(events, rows, things, config).toarray().tolist() == [
        [0, 9, 1, 2, 2, 2, 2, pytest.approx(np.arcsinh(0.5)), pytest.approx(np.arcsinh(0.5))]
    ]
    one = CountsConfig(bins=2, min_values=3, units=False)
    assert fit_things([events], pl.Series([1]), CODES, one).measures.names == ["LAB"]


VALUES = st.lists(
    st.tuples(
        st.floats(0, 9).map(lambda d: round(d, 3)),
        st.sampled_from(["A.1", "LAB"]),
        st.one_of(st.none(), st.floats(-1e6, 1e6, width=32)),
    ),
    max_size=12,
)


@given(VALUES, VALUES, st.integers(0, 9))
def test_nothing_that_happens_later_changes_a_count_a_recency_or_a_trend(before, after, at) -> None:
    train = [(1, day(d), "LAB", float(d), None) for d in range(9)] + [
        (1, day(0), "A.1", None, None)
    ]
    config = CountsConfig(bins=3, min_values=3, trends=("last", "step", "mean", "min", "max", "slope", "change"))  # fmt: skip
    things = fit_things([frame(train)], pl.Series([1]), CODES, config)
    rows = pl.DataFrame({"subject_id": [2, 3], "prediction_time": [day(at)] * 2})
    known = [(s, day(d), c, v, None) for s in (2, 3) for d, c, v in before if d <= at]
    later = [(s, day(at + 0.001 + d), c, v, None) for s in (2, 3) for d, c, v in after]
    past, whole = (
        count_rows(frame(train + each), rows, things, config) for each in (known, known + later)
    )
    for part in ("data", "indices", "indptr"):
        np.testing.assert_array_equal(getattr(past, part), getattr(whole, part))


def test_workers_change_no_byte_and_what_is_counted_is_not_counted_again(cohort, tmp_path) -> None:
    _, labels, events, splits = cohort
    data = write_meds(tmp_path / "scattered", events, splits, files=3)
    one = count_features(data, labels, tmp_path / "one")
    count_features(data, labels, tmp_path / "two", workers=2)
    for name in ("features.safetensors", "columns.json", "manifest.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    assert one.blind == 0
    config, files = CountsConfig(), sorted((data / "data").iterdir())
    things = _things(pl.concat(pl.read_parquet(file) for file in files))
    rows = read_features(tmp_path / "one").index.with_row_index("number")
    parts = []
    for i, file in enumerate(files):
        mine = rows.filter(pl.col("subject_id").is_in(pl.read_parquet(file)["subject_id"].unique()))
        mine = mine.select("subject_id", "prediction_time", row="number")
        parts.append(Part(file, tmp_path / f"{i}.safetensors", mine))
    count_parts(parts[:1], things, config, Delays(), workers=1)
    made = parts[0].out.stat().st_mtime_ns
    count_parts(parts, things, config, Delays(), workers=1)
    assert all(part.out.is_file() for part in parts)
    assert parts[0].out.stat().st_mtime_ns == made


def test_a_time_at_which_nothing_is_known_is_a_row_of_zeros_and_said(tmp_path) -> None:
    events = [(1, 0, "A.1", None), (1, 5, "LAB", 2.0), (2, 3, "A.1", None)]
    data = write_meds(tmp_path / "meds", events, {1: "train", 2: "held_out"})
    labels = write_labels(tmp_path / "labels", [(1, 1), (1, 9), (2, 1)])
    done = count_features(data, labels, tmp_path / "out", CountsConfig(min_rows=1))
    assert done.blind == load_manifest(tmp_path / "out").config["rows_without_events"] == 1
    assert table(tmp_path / "out")[2, 1] == {}


def test_what_cannot_be_counted_is_refused(cohort, tmp_path) -> None:
    data, labels, events, splits = cohort
    with pytest.raises(ContractError, match=r"name 1 subjects .*the first 77"):
        count_features(data, write_labels(tmp_path / "foreign", [(77, 1)]), tmp_path / "out")
    with pytest.raises(ContractError, match="no labelled subject is in the train split"):
        count_features(data, write_labels(tmp_path / "held", [(12, 1)]), tmp_path / "out")
    bad = write_meds(tmp_path / "bad", events, splits)
    (bad / "data" / "1.parquet").write_bytes((bad / "data" / "0.parquet").read_bytes())
    with pytest.raises(
        ContractError, match=r"subject 1 is in two files: .*0\.parquet and .*1\.parquet"
    ):
        count_features(bad, labels, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    count_features(data, labels, tmp_path / "out")
    with pytest.raises(UserError, match="--overwrite"):
        count_features(data, labels, tmp_path / "out")


def test_delayed_events_count_from_when_they_became_known(cohort, tmp_path) -> None:
    data, labels, events, splits = cohort
    delay = {"^A.1$": 3.5, "^(A|LAB)": 40.0}
    moved = [
        (
            s,
            d if d is None else d + (3.5 if c == "A.1" else 40.0 * c.startswith(("A", "LAB"))),
            c,
            v,
        )
        for s, d, c, v in events
    ]
    by_hand = write_meds(tmp_path / "by_hand", moved, splits)
    count_features(by_hand, labels, tmp_path / "a")
    count_features(data, labels, tmp_path / "b", CountsConfig(delay=delay))
    count_features(data, labels, tmp_path / "c")
    a, b, c = (load_manifest(tmp_path / name).files for name in "abc")
    assert a == b
    assert a["features.safetensors"] != c["features.safetensors"]


def test_delays_come_from_tokens_or_from_the_config_and_may_not_differ(
    cohort, toys, tmp_path
) -> None:
    data, labels, _, _ = cohort
    delay = {"^LAB": 40.0}
    tokens = toys.tokens(tmp_path / "tokens", toys.records(), config={"delay": delay})
    count_features(data, labels, tmp_path / "a", tokens=tokens)
    count_features(data, labels, tmp_path / "b", CountsConfig(delay=delay))
    count_features(data, labels, tmp_path / "c", CountsConfig(delay=delay), tokens=tokens)
    a, b, c = (load_manifest(tmp_path / name) for name in "abc")
    assert a.files == b.files == c.files
    assert a.config == b.config == c.config
    assert a.inputs["tokens"] == source(tokens)
    with pytest.raises(
        ConfigError, match=r"delay is .* in the config, but .* in .*tokens; what is compared"
    ):
        count_features(data, labels, tmp_path / "d", CountsConfig(delay={"A": 1}), tokens=tokens)
    with pytest.raises(ConfigError, match="make it agree"):
        count_features(data, labels, tmp_path / "d", CountsConfig(delay={}), tokens=tokens)
    first, second = {"^LAB": 40.0, "A": 1.0}, {"A": 1.0, "^LAB": 40.0}  # the first that fits counts
    ordered = toys.tokens(tmp_path / "ordered", toys.records(), config={"delay": first})
    with pytest.raises(ConfigError, match="make it agree"):
        count_features(data, labels, tmp_path / "d", CountsConfig(delay=second), tokens=ordered)
    mapped = {"delay": delay, "maps": [{"path": "map.csv"}]}
    tokens = toys.tokens(tmp_path / "mapped", toys.records(), config=mapped)
    with pytest.raises(ContractError, match="delays codes that its maps made"):
        count_features(data, labels, tmp_path / "d", tokens=tokens)
    assert not (tmp_path / "d").exists()


def test_the_command(cohort, tmp_path) -> None:
    data, labels, _, _ = cohort
    arguments = [
        "counts",
        "--meds",
        str(data),
        "--labels",
        str(labels),
        "--out",
        str(tmp_path / "o"),
    ]
    result = CliRunner().invoke(main, [*arguments, "-s", "windows_days=[7]"])
    assert result.exit_code == 0, result.output
    assert "48 rows" in result.output
    wrong = CliRunner().invoke(main, [*arguments, "--overwrite", "-s", "windows_days=[0]"])
    assert wrong.exit_code == 2
    assert "windows_days" in wrong.output


def test_mimic_demo(mimic_demo, tmp_path) -> None:
    make_labels(mimic_demo, tmp_path / "labels")
    done = count_features(mimic_demo, tmp_path / "labels", tmp_path / "out")
    found = read_features(tmp_path / "out")
    names = json.loads((tmp_path / "out" / "columns.json").read_text())["columns"]
    age = found.matrix[:, names.index("age")].toarray()
    assert (age > 15).all()
    assert (age < 105).all()
    column = "HOSPITAL_ADMISSION//EW EMER.//EMERGENCY ROOM|any"
    frames = [
        pl.read_parquet(f, columns=["subject_id", "time", "code"])
        for f in sorted(mimic_demo.glob("data/*/*.parquet"))
    ]
    admissions = pl.concat(frames).filter(pl.col("code") == column.removesuffix("|any"))
    expected = (
        found.index.join(admissions, on="subject_id", how="left")
        .group_by("row")
        .agg((pl.col("time") <= pl.col("prediction_time")).sum().alias("n"))
        .sort("row")["n"]
    )
    counted = found.matrix[:, names.index(column)].toarray()[:, 0]
    assert counted.tolist() == expected.to_list()
    assert done.columns > 1000
