"""Predicted classes and numbers, judged: against scikit-learn, SciPy and cases counted by hand."""

import json
from shutil import copy

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from scipy import stats
from sklearn import metrics

from ehr_eval.cli import main
from ehr_eval.judge.bootstrap import patient_draws
from ehr_eval.outcomes.classes import MULTICLASS, confusion
from ehr_eval.outcomes.config import OutcomesConfig
from ehr_eval.outcomes.numbers import REGRESSION
from ehr_eval.outcomes.run import run_outcomes
from ehr_tracking.contracts import OUTCOMES
from ehr_tracking.manifest import verify

NAMES = ["i", "ii", "iii"]


def theirs_of_classes(truth, p, weight):
    said, every = p.argmax(1), np.unique(truth)
    each = [metrics.roc_auc_score(truth == c, p[:, c], sample_weight=weight) for c in every]
    return {
        "macro_auroc": np.mean(each),
        "accuracy": metrics.accuracy_score(truth, said, sample_weight=weight),
        "macro_f1": metrics.f1_score(
            truth, said, labels=every, average="macro", sample_weight=weight
        ),
    }


def theirs_of_numbers(truth, answer, weight):
    again = np.repeat(np.arange(len(truth)), weight)
    told = {"y_true": truth, "y_pred": answer[:, 0], "sample_weight": weight}
    return {
        "mae": metrics.mean_absolute_error(**told),
        "rmse": metrics.root_mean_squared_error(**told),
        "r2": metrics.r2_score(**told),
        "spearman": stats.spearmanr(truth[again], answer[again, 0]).statistic,
    }


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("problem", [MULTICLASS, REGRESSION], ids=lambda p: p.name)
def test_every_metric_is_scikit_learns_in_every_draw(problem, ties):
    rng = np.random.default_rng(0)
    weight = patient_draws(np.arange(80) // 2, 6)
    if problem is MULTICLASS:
        truth, theirs = rng.integers(0, 3, 80), theirs_of_classes
        answer = rng.dirichlet(np.ones(4), 80)  # one class that no row has
        answer[np.arange(80), truth] += 0.2
        answer = answer / answer.sum(1, keepdims=True)
        whole = {
            "average": "macro", "multi_class": "ovr", "labels": [0, 1, 2],
        }  # fmt: skip
        three = answer[:, :3] / answer[:, :3].sum(1, keepdims=True)
        found = problem.metrics["macro_auroc"].score(truth, three, np.ones((80, 1)))
        assert found[0] == pytest.approx(metrics.roc_auc_score(truth, three, **whole), abs=1e-12)
    else:
        truth, theirs = rng.normal(50, 10, 80), theirs_of_numbers
        answer = (truth + rng.normal(0, 8, 80))[:, None]
    if ties:
        truth, answer = np.round(truth, -1 if problem is REGRESSION else 0), np.round(answer, 1)
        answer = np.round(answer / 5) * 5 if problem is REGRESSION else answer
    for name, metric in problem.metrics.items():
        ours = metric.score(truth, answer, weight.astype(float))
        for draw in range(6):
            expected = theirs(truth, answer, weight[:, draw])[name]
            assert ours[draw] == pytest.approx(expected, abs=1e-12), name


def test_what_is_undefined_in_a_draw_is_not_a_number():
    truth, p = np.array([0, 1, 1]), np.array([[0.9, 0.1], [0.2, 0.8], [0.3, 0.7]])
    without = np.array([[0.0], [1.0], [1.0]])  # no row of class 0, nor is any called so
    values = {n: m.score(truth, p, without)[0] for n, m in MULTICLASS.metrics.items()}
    assert np.isnan([values["macro_auroc"], values["macro_f1"]]).all()
    assert values["accuracy"] == 1
    same = np.array([5.0, 5.0, 5.0])
    values = {n: m.score(same, p[:, :1], without)[0] for n, m in REGRESSION.metrics.items()}
    assert np.isnan([values["r2"], values["spearman"]]).all()


@pytest.fixture(scope="module")
def study(tmp_path_factory, toys):
    """Labels of a class and a number, counts that tell both, and predictions that know them."""
    root = tmp_path_factory.mktemp("outcomes")
    rng = np.random.default_rng(3)
    splits = ["train", "train", "tuning", "held_out"]
    rows = [(i, toys.day(d), splits[i % 4]) for i in range(120) for d in (0, 9)]
    stage = rng.choice(3, len(rows), p=[0.5, 0.3, 0.2])
    number = 10.0 * stage + rng.normal(size=len(rows))
    key = {
        "subject_id": pa.array([r[0] for r in rows], pa.int64()),
        "prediction_time": pa.array([r[1] for r in rows], pa.timestamp("us")),
    }
    truth = {"stage": pa.array([NAMES[s] for s in stage]), "number": pa.array(number, pa.float32())}
    for task, column in (("stage", "categorical_value"), ("number", "float_value")):
        (root / task).mkdir()
        table = pa.table({**key, column: truth[task]})
        pq.write_table(table, root / task / "labels.parquet")
    counts = np.eye(3)[stage] * 4 + rng.poisson(1.0, (len(rows), 3))
    toys.features(root / "counts", rows, counts)
    held_out = np.array([r[2] == "held_out" for r in rows])
    p = np.where(np.arange(3) == stage[held_out][:, None], 0.8, 0.1)
    write_classes(root / "told", pa.table(key).filter(held_out), p)
    (root / "numbers" / "number").mkdir(parents=True)
    given = pa.table(key).filter(held_out).append_column("predicted_value", [number[held_out] + 2])
    pq.write_table(given.take(np.arange(len(given))[::-1]), root / "numbers/number/0.parquet")
    return root, stage, number, held_out


def write_classes(out, key, p, names=NAMES):
    """[n, C] probabilities in two files, in no order."""
    (out / "stage").mkdir(parents=True)
    table = pa.table(
        {
            "subject_id": np.repeat(key["subject_id"].to_numpy(), len(names)),
            "prediction_time": key["prediction_time"].take(np.repeat(range(len(key)), len(names))),
            "class": pa.array(list(names) * len(key)),
            "predicted_probability": p.reshape(-1),
        }
    )
    order = np.random.default_rng(0).permutation(len(table))
    pq.write_table(table.take(order[:50]), out / "stage" / "a.parquet")
    pq.write_table(table.take(order[50:]), out / "stage" / "b.parquet")


def value(results, model, metric):
    return results.filter(model=model, metric=metric)["value"][0]


def test_classes_are_judged_beside_counts_and_the_majority(study, tmp_path):
    root, stage, _, held_out = study
    args = ["--labels", root / "stage", "--features", f"counts={root / 'counts'}"]
    args += ["--predictions", f"tuned={root / 'told'}", "-s", "bootstraps=20"]
    out = tmp_path / "out"
    done = CliRunner().invoke(
        main, ["outcomes", "--problem", "multiclass", *map(str, args), "--out", str(out)]
    )
    assert done.exit_code == 0, done.output
    assert verify(out) == []
    results = pl.read_parquet(out / "results.parquet")
    OUTCOMES.check({f.name: str(f.type) for f in pq.read_schema(out / "results.parquet")}, where="")
    assert all(value(results, "tuned", metric) == 1 for metric in MULTICLASS.metrics)
    assert value(results, "train", "macro_auroc") == 0.5
    assert value(results, "train", "accuracy") == pytest.approx((stage[held_out] == 0).mean())
    assert 0.8 < value(results, "counts", "macro_auroc") < 1
    assert results.filter(pl.col("lower") > pl.col("value")).is_empty()
    assert json.loads(results.filter(model="counts")["selected"][0])["c"] in OutcomesConfig().c
    counted = pl.read_parquet(out / "confusion.parquet")
    per_class = (
        counted.filter(model="counts").group_by("class", maintain_order=True).agg(pl.sum("rows"))
    )
    assert per_class["rows"].to_list() == np.bincount(stage[held_out]).tolist()
    page = (out / "report.html").read_text()
    assert "train majority" in page
    assert "Macro AUROC minus that of counts lr, paired by patient" in page
    assert "Confusion matrices" in page
    again = run_outcomes("multiclass", root / "stage", {"counts": root / "counts"}, tmp_path / "b")
    first = next(m for m in again.scores if m.name == "counts")
    assert again.scores[first]["macro_auroc"].value == value(results, "counts", "macro_auroc")


def test_numbers_are_judged_in_their_unit_beside_ridge_and_the_mean(study, tmp_path):
    root, _, number, held_out = study
    given = {"tuned": root / "numbers"}
    config = OutcomesConfig(bootstraps=10)
    out = tmp_path / "out"
    run_outcomes(
        "regression", root / "number", {"counts": root / "counts"}, out, config, predictions=given
    )
    results = pl.read_parquet(out / "results.parquet")
    assert value(results, "tuned", "mae") == pytest.approx(2, abs=1e-6)
    assert value(results, "tuned", "rmse") == pytest.approx(2, abs=1e-6)
    assert value(results, "tuned", "spearman") == pytest.approx(1)
    train = np.arange(len(number)) // 2 % 4 < 2
    off = np.abs(number[held_out] - number[train].mean()).mean()
    assert value(results, "train", "mae") == pytest.approx(off, abs=1e-5)
    assert value(results, "counts", "rmse") < value(results, "train", "rmse") / 2
    floor = results.filter(model="train", metric="spearman").row(0, named=True)
    assert floor["value"] is None
    assert floor["reason"] == "all numbers, or all predictions, are the same"
    assert pl.read_parquet(out / "confusion.parquet").is_empty()
    assert "RMSE (lower is better) minus that of counts ridge" in (out / "report.html").read_text()


def test_a_class_that_labels_lack_may_be_predicted_and_is_wrong(study, tmp_path):
    root, _, _, held_out = study
    key = pq.read_table(root / "stage/labels.parquet").filter(held_out)
    p = np.full((held_out.sum(), 4), 0.1)
    p[:, 3] = 0.7
    write_classes(tmp_path / "more", key, p, [*NAMES, "iv"])
    judged = run_outcomes(
        "multiclass",
        root / "stage",
        {"counts": root / "counts"},
        tmp_path / "out",
        OutcomesConfig(bootstraps=0),
        predictions={"more": tmp_path / "more"},
    )
    assert judged.classes == (*NAMES, "iv")
    more = next(m for m in judged.scores if m.name == "more")
    assert [s.value for s in judged.scores[more].values()] == [0.5, 0, 0]
    assert confusion(judged.truth, judged.predicted[more])[:, 3].sum() == held_out.sum()


@pytest.mark.parametrize(
    ("change", "problem", "message"),
    [
        ({}, "regression", "task stage has categorical_value; numbers are in float_value"),
        ({"names": ["i", "ii", "x"]}, "multiclass", "has no probability of class iii"),
        ({"twice": "a.parquet"}, "multiclass", "has a class twice"),
        ({"scale": 0.5}, "multiclass", "has probabilities that are not 1 together"),
        ({"scale": 2.0}, "multiclass", "predicted_probability = 1.6 (expected in [0, 1])"),
        ({"rows": -1}, "multiclass", "lacks 1 of 60 held-out labels of task stage"),
        ({"column": "p"}, "multiclass", "has no column predicted_probability: not classes/1"),
        ({"task": "other"}, "multiclass", "has no classes of task stage"),
        (
            {"given": "nowhere"},
            "multiclass",
            "nowhere has no classes of task stage: expected stage/",
        ),
    ],
)
def test_what_cannot_be_judged_is_one_line(study, tmp_path, change, problem, message):
    root, stage, _, held_out = study
    key = pq.read_table(root / "stage/labels.parquet").filter(held_out)[: change.get("rows")]
    p = np.where(np.arange(3) == stage[held_out][: change.get("rows"), None], 0.8, 0.1)
    write_classes(tmp_path / "p", key, p * change.get("scale", 1), change.get("names", NAMES))
    if "column" in change:
        for path in (tmp_path / "p").rglob("*.parquet"):
            table = pq.read_table(path)
            pq.write_table(table.rename_columns([*table.column_names[:3], change["column"]]), path)
    if "twice" in change:
        copy(tmp_path / "p/stage" / change["twice"], tmp_path / "p/stage/c.parquet")
    (tmp_path / "p" / "stage").rename(tmp_path / "p" / change.get("task", "stage"))
    args = ["--labels", root / "stage", "--features", f"counts={root / 'counts'}"]
    args += ["--predictions", f"p={tmp_path / change.get('given', 'p')}", "--out", tmp_path / "out"]
    done = CliRunner().invoke(main, ["outcomes", "--problem", problem, *map(str, args)])
    assert done.exit_code == 2
    assert message in done.output
    assert len(done.output.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()
