"""Repetition, irregularity, length and Brier by quartile, beside loops and scikit-learn."""

import statistics
from collections import Counter
from datetime import timedelta
from itertools import pairwise

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from sklearn.metrics import brier_score_loss
from sklearn.utils import resample

from ehr_eval.cli import main
from ehr_eval.heads.lr import LogisticRegressionConfig
from ehr_eval.protocol.config import EhrshotConfig
from ehr_eval.protocol.ehrshot import run_ehrshot
from ehr_eval.strata.config import StrataConfig
from ehr_eval.strata.measures import measure_rows, quartiles
from ehr_eval.strata.run import run_strata
from ehr_tracking.contracts import ContractError
from ehr_tracking.errors import UserError
from ehr_tracking.manifest import verify

GRAMS = (1, 2, 3, 4)


def expected(codes, seconds):
    """By counting, of one record's known events."""
    found = {"events": float(len(codes))}
    for n in GRAMS:
        grams = Counter(tuple(codes[i : i + n]) for i in range(len(codes) - n + 1))
        found[f"rr_{n}"] = sum(c > 1 for c in grams.values()) / len(grams) if grams else np.nan
    found["rr"] = float(np.prod([found[f"rr_{n}"] for n in GRAMS]) ** 0.25)
    gaps = [b - a for a, b in pairwise(seconds)]
    low, _, high = statistics.quantiles(gaps, method="inclusive") if len(gaps) > 1 else [0.0] * 3
    found["irregularity_std"] = statistics.pstdev(gaps) if gaps else np.nan
    found["irregularity_mean"] = statistics.fmean(gaps) if gaps else np.nan
    found["irregularity_iqr"] = high - low if gaps else np.nan
    return found


@pytest.fixture(scope="module")
def world(tmp_path_factory, toys):
    """60 subjects of three splits, two rows each, with one static code; a model and a worse one."""
    root, rng = tmp_path_factory.mktemp("strata"), np.random.default_rng(3)
    records, events, rows = {}, [], []
    for i in range(60):
        n = int(rng.integers(1, 40))
        days = np.sort(rng.integers(0, 25, n)) + rng.integers(0, 2, n) / 4
        days = np.sort(days)
        codes = [f"C{c}" for c in rng.integers(0, 4 + i % 9, n)]
        records[i] = (codes, days)
        split = ("train", "tuning", "held_out")[i % 3]
        events.append((i, None, "SEX//F", split))
        events += [(i, toys.day(d), c, split) for d, c in zip(days.tolist(), codes, strict=True)]
        rows += [(i, toys.day(at), bool(rng.random() < 0.4)) for at in (10, 26)]
    for split in ("train", "tuning", "held_out"):
        mine = [e for e in events if e[3] == split]
        (root / "meds" / "data" / split).mkdir(parents=True)
        table = pa.table(
            {
                "subject_id": pa.array([e[0] for e in mine], pa.int64()),
                "time": pa.array([e[1] for e in mine], pa.timestamp("us")),
                "code": pa.array([e[2] for e in mine], pa.string()),
                "numeric_value": pa.array([None] * len(mine), pa.float32()),
            }
        )
        pq.write_table(table, root / "meds" / "data" / split / "0.parquet")
    (root / "meds" / "metadata").mkdir()
    ids = [(i, ("train", "tuning", "held_out")[i % 3]) for i in range(60)]
    pl.DataFrame(ids, schema=["subject_id", "split"], orient="row").write_parquet(
        root / "meds" / "metadata" / "subject_splits.parquet"
    )
    labels = toys.labels(root / "labels", {"a": rows, "b": rows[1::3]})
    for name, noise in (("good", 0.1), ("bad", 0.5)):
        for task, of_task in (("a", rows), ("b", rows[1::3])):
            mine = [r for r in of_task if r[0] % 3 == 2]
            (root / name / task).mkdir(parents=True)
            p = [np.clip(r[2] + rng.normal(0, noise), 0, 1) for r in mine]
            table = pa.table(
                {
                    "subject_id": [r[0] for r in mine],
                    "prediction_time": pa.array([r[1] for r in mine], pa.timestamp("us")),
                    "boolean_value": [r[2] for r in mine],
                    "predicted_boolean_value": pa.array([None] * len(mine), pa.bool_()),
                    "predicted_boolean_probability": pa.array(p, pa.float32()),
                }
            )
            pq.write_table(table, root / name / task / "p.parquet")
    return root, records, labels


def known(records, toys, subject, time):
    codes, days = records[subject]
    kept = [(c, d) for c, d in zip(codes, days.tolist(), strict=True) if toys.day(d) <= time]
    return ["SEX//F", *(c for c, _ in kept)], [d * 86_400.0 for _, d in kept]


def test_measures_are_those_of_counting_over_what_is_known(world, toys, tmp_path):
    root, records, labels = world
    run_strata(
        root / "meds", labels, {"good": root / "good"}, tmp_path / "out", StrataConfig(bootstraps=2)
    )
    found = pl.read_parquet(tmp_path / "out" / "rows.parquet")
    assert verify(tmp_path / "out") == []
    rows = found.select("subject_id", "prediction_time").unique()
    assert rows.height == 40
    for subject, time in rows.iter_rows():
        wanted = expected(*known(records, toys, subject, time))
        mine = found.filter(subject_id=subject, prediction_time=time)
        values = dict(mine.select("measure", "value").iter_rows())
        assert values.keys() == wanted.keys()
        for name, value in wanted.items():
            if np.isnan(value):
                assert values[name] is None
            else:
                assert values[name] == pytest.approx(value, abs=1e-9, rel=1e-9), name


def test_repetition_by_hand(toys):
    """ABABC: A and B of three recur, AB of AB, BA, BC, and no longer run."""
    events = pl.DataFrame(
        {
            "subject_id": [1] * 5,
            "time": [toys.day(d) for d in (0, 0, 1, 3, 3)],
            "code": list("ABABC"),
        }
    )
    rows = pl.DataFrame({"subject_id": [1], "prediction_time": [toys.day(3) + timedelta(hours=1)]})
    found = measure_rows(events, rows).row(0, named=True)
    assert (found["rr_1"], found["rr_2"], found["rr_3"]) == pytest.approx((2 / 3, 1 / 3, 0))
    assert found["rr"] == 0
    gaps = np.array([0, 1, 2, 0]) * 86_400
    assert found["irregularity_mean"] == 0.75 * 86_400
    assert found["irregularity_std"] == pytest.approx(np.std(gaps))
    assert found["irregularity_iqr"] == 1.25 * 86_400  # 0 and 1.25 days


@pytest.mark.parametrize("n", [4, 5, 6, 7, 9, 101])
def test_quartiles_are_cut_at_quantiles_of_ranks(n):
    value = np.random.default_rng(n).permutation(n) * 1.0
    bounds = np.quantile(np.arange(n), [0.25, 0.5, 0.75])
    assert quartiles(value).tolist() == (1 + np.searchsorted(bounds, value)).tolist()
    assert quartiles([3.0] * n).tolist() == sorted(quartiles(value).tolist())


def test_brier_of_a_quartile_is_that_of_scikit_learn_in_each_draw_of_patients(world, tmp_path):
    root, _, labels = world
    models = {"good": root / "good", "bad": root / "bad"}
    found = run_strata(root / "meds", labels, models, tmp_path / "out", StrataConfig(bootstraps=20))
    ours = {(s.measure, s.task, s.model, s.quartile): s.score for s in found}
    values = pl.read_parquet(tmp_path / "out" / "rows.parquet").filter(measure="events")
    patients, each = np.arange(2, 60, 3), {}
    for task in "ab":
        table = pl.read_parquet(root / "bad" / task / "p.parquet")
        table = table.join(values, on=["subject_id", "prediction_time"])
        table = table.sort("subject_id", "prediction_time").with_columns(
            quartile=pl.Series(quartiles(values.join(table, on=["subject_id", "prediction_time"],
            how="semi").sort("subject_id", "prediction_time")["value"].to_numpy()))
        )  # fmt: skip
        for q in (1, 2, 3, 4):
            mine = table.filter(quartile=q)
            y, p = (
                mine["boolean_value"].to_numpy(),
                mine["predicted_boolean_probability"].to_numpy(),
            )
            score = ours["events", task, "bad", q]
            assert score.value == pytest.approx(brier_score_loss(y, p), abs=1e-7)
            for draw in range(20):
                drawn = Counter(resample(patients, random_state=draw).tolist())
                weight = np.array([drawn[s] for s in mine["subject_id"]])
                wanted = brier_score_loss(y, p, sample_weight=weight) if weight.sum() else np.nan
                assert score.draws[draw] == pytest.approx(wanted, abs=1e-7, nan_ok=True)
            each.setdefault(q, []).append(score)
    for q, scores in each.items():
        mean = ours["events", None, "bad", q]
        assert mean.value == pytest.approx(np.mean([s.value for s in scores]))
        np.testing.assert_allclose(mean.draws, np.mean([s.draws for s in scores], axis=0))
        assert ours["events", None, "good", q].value < mean.value


def test_the_command_reads_results_and_predictions_and_measures_tokens(world, toys, tmp_path):
    root, records, labels = world
    rng, rows = np.random.default_rng(0), []
    for i in range(60):
        split = ("train", "tuning", "held_out")[i % 3]
        rows += [(i, toys.day(at), split) for at in (10, 26)]
    features = toys.features(root / "features", rows, rng.normal(size=(len(rows), 3)))
    config = EhrshotConfig(
        ks=(-1,),
        replicates=1,
        bootstraps=2,
        heads={"lr": LogisticRegressionConfig(c=(1.0,))},
        tasks=("a",),
    )
    run_ehrshot(labels, {"x": features}, tmp_path / "results", config)
    tokens = toys.tokens(
        tmp_path / "tokens",
        [
            toys.Record(i, [(d, 9) for d in days.tolist()], ("train", "tuning", "held_out")[i % 3])
            for i, (_, days) in records.items()
        ],
    )
    command = ["strata", "--meds", root / "meds", "--labels", labels, "--tokens", tokens]
    command += [
        "--predictions",
        f"r={tmp_path / 'results'}",
        "--predictions",
        f"good={root / 'good'}",
    ]
    command += ["--out", tmp_path / "out", "-s", "bootstraps=5", "-s", "tasks=[a]"]
    done = CliRunner().invoke(main, [str(c) for c in command])
    assert done.exit_code == 0, done.output
    table = pl.read_parquet(tmp_path / "out" / "strata.parquet")
    assert set(table["model"]) == {"r x lr", "good"}
    assert "tokens" in set(table["measure"])
    lengths = pl.read_parquet(tmp_path / "out" / "rows.parquet").pivot("measure", values="value")
    # [BOS] and a static token for the static event
    assert (lengths["tokens"] == lengths["events"] + 1).all()
    assert (tmp_path / "out" / "plots" / "rr.png").is_file()
    assert "data:image/png" in (tmp_path / "out" / "report.html").read_text()


def test_what_cannot_be_judged_is_told_in_one_line(world, toys, tmp_path):
    root, _, labels = world
    out = tmp_path / "out"
    others = toys.labels(tmp_path / "l", {"c": [(2, toys.day(10), True)]})
    with pytest.raises(UserError, match=r"good predicts no task that is asked for \(c\)"):
        run_strata(root / "meds", others, {"m": root / "good"}, out)
    (tmp_path / "short" / "a").mkdir(parents=True)
    whole = pq.read_table(root / "good" / "a" / "p.parquet")
    pq.write_table(whole.slice(0, 3), tmp_path / "short" / "a" / "p.parquet")
    with pytest.raises(ContractError, match="lacks 37 of 40 held-out labels of task a"):
        run_strata(
            root / "meds", labels, {"m": tmp_path / "short"}, out, StrataConfig(tasks=("a",))
        )
    assert not out.exists()
