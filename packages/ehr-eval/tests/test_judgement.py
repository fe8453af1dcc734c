"""`ehr-eval judge` on a data set of known make, beside plain loops over scikit-learn."""

import signal
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from scipy.special import expit
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import brier_score_loss, precision_recall_curve, roc_auc_score, roc_curve
from sklearn.utils import resample

from ehr_eval.cli import main
from ehr_eval.judge.bootstrap import rows_and_draws
from ehr_eval.judge.conformal import METHODS
from ehr_eval.judge.curves import RATES, RISKS, curves
from ehr_eval.judge.groups import GroupsConfig, levels, read_groups
from ehr_eval.judge.metrics import ALL_METRICS
from ehr_eval.judge.recalibrate import isotonic, platt
from ehr_eval.judgement import run as run_module
from ehr_eval.judgement.config import JudgeConfig
from ehr_eval.judgement.run import run_judge
from ehr_tracking.contracts import JUDGEMENT, PREDICTIONS, RESULTS
from ehr_tracking.manifest import load_manifest, new_artifact, seal, verify
from ehr_tracking.tree import note

DRAWS = 40
CONFIG = JudgeConfig(bootstraps=DRAWS, groups=GroupsConfig(codes={"flu": "^DIAGNOSIS//FLU"}))


def write_meds(root, toys, subjects):
    """Birth, sex and race; a diagnosis on day 5 of every third."""
    rows = []
    for subject in subjects:
        born = toys.day(-365.25 * (20 + subject % 60))
        rows += [
            (subject, None, f"GENDER//{'FM'[subject % 2]}"),
            (subject, None, f"RACE//{'RARE' if subject % 22 == 2 else 'AB'[subject % 5 == 0]}"),
            (subject, born, "MEDS_BIRTH"),
            (subject, toys.day(5), "DIAGNOSIS//FLU" if subject % 3 == 0 else "DIAGNOSIS//COLD"),
        ]  # fmt: skip
    columns = zip(*rows, strict=True)
    types = (pa.int64(), pa.timestamp("us"), pa.string())
    table = pa.table(
        {n: pa.array(c, t) for n, c, t in zip(("subject_id", "time", "code"), columns, types, strict=True)}
    )  # fmt: skip
    (root / "data").mkdir(parents=True)
    (root / "metadata").mkdir()
    pq.write_table(table, root / "data" / "0.parquet")
    split = ["train", "tuning", "held_out", "held_out"]
    named = {"subject_id": list(subjects), "split": [split[s % 4] for s in subjects]}
    pq.write_table(pa.table(named), root / "metadata" / "subject_splits.parquet")


def predicted(rows, probability, decided=None):
    return pa.table(
        {
            "subject_id": pa.array(rows["subject_id"], pa.int64()),
            "prediction_time": pa.array(rows["prediction_time"], pa.timestamp("us")),
            "boolean_value": rows["boolean_value"].to_numpy(),
            "predicted_boolean_value": pa.nulls(len(rows), pa.bool_()) if decided is None else decided,
            "predicted_boolean_probability": pa.array(probability, pa.float32()),
        }
    )  # fmt: skip


def put(path, table):
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path)


@pytest.fixture(scope="module")
def world(tmp_path_factory, toys):
    """Two tasks, three models: one with a tuning part, one without that is broken on a task, results/1."""
    root = tmp_path_factory.mktemp("judged")
    subjects = range(1, 241)
    write_meds(root / "meds", toys, subjects)
    rng = np.random.default_rng(0)
    rows = [(s, toys.day(d), bool(rng.random() < 0.35)) for s in subjects for d in (4, 9)]
    one = [(s, t, s % 4 < 2 and v) for s, t, v in rows]  # nobody of held_out
    toys.labels(root / "labels", {"died": rows, "none": one})
    with new_artifact(root / "results", RESULTS) as partial:
        for task, told in (("died", rows), ("none", one)):
            frame = pl.DataFrame(told, schema=["subject_id", "prediction_time", "boolean_value"], orient="row")  # fmt: skip
            p = expit(
                rng.normal(size=frame.height) * 1.2 + 2 * frame["boolean_value"].to_numpy() - 1.5
            )
            frame = frame.with_columns(p=pl.Series(p.astype(np.float32)))
            for name, at in (("tuning", 1), ("held_out", (2, 3))):
                mine = frame.filter(pl.col("subject_id") % 4 == at if name == "tuning" else (pl.col("subject_id") % 4).is_in(at))  # fmt: skip
                p = mine["p"].to_numpy()
                if name == "held_out":
                    put(root / "a" / task / "held_out.parquet", predicted(mine, p, p >= 0.5))
                    put(partial / "predictions" / task / "m" / "lr.parquet", predicted(mine, p**2))
                    wrong = (
                        np.where(np.arange(len(p)) == 3, np.nan, p) if task == "none" else 0.5 * p
                    )
                    put(root / "b" / task / "held_out.parquet", predicted(mine, wrong))
                else:
                    put(root / "a" / "tuning" / task / "tuning.parquet", predicted(mine, p))
                    put(partial / "tuning" / task / "m" / "lr.parquet", predicted(mine, p**2))
        pq.write_table(pa.table({"task": ["died"]}), partial / "results.parquet")
        seal(partial, RESULTS, producer="test 0", config={})
    seal(root / "a", PREDICTIONS, producer="test 0", config={})
    given = {"a": root / "a", "b": root / "b", "r": root / "results"}
    run_judge(root / "labels", given, root / "meds", root / "out", CONFIG)
    held_out = pl.read_parquet(root / "a" / "died" / "held_out.parquet").sort("subject_id", "prediction_time")  # fmt: skip
    return SimpleNamespace(root=root, given=given, out=root / "out", held_out=held_out)


def columns(table):
    return (
        table["subject_id"].to_numpy(),
        table["boolean_value"].to_numpy(),
        table["predicted_boolean_probability"].to_numpy().astype(float),
    )


def loop(subject, score):
    """EHRSHOT's bootstrap: value of a score of weights in each draw of the sorted patients."""
    patients, found = sorted(set(subject.tolist())), []
    for i in range(DRAWS):
        drawn = resample(patients, random_state=i)
        found.append(score(np.array([drawn.count(s) for s in subject])))
    return np.nanpercentile(found, [2.5, 97.5])


def row(out, name, **where):
    found = pl.read_parquet(out / f"{name}.parquet").filter(
        *(pl.col(k).is_null() if v is None else pl.col(k) == v for k, v in where.items())
    )
    assert found.height == 1, found
    return found.row(0, named=True)


def test_an_artifact_with_a_row_for_every_metric_and_a_reason_where_there_is_no_value(world):
    assert verify(world.out) == []
    assert load_manifest(world.out).contract == JUDGEMENT.tag
    for name, expected in {"results.parquet": JUDGEMENT.columns, **JUDGEMENT.beside}.items():
        table = pq.read_table(world.out / name)
        assert table.column_names == [c.name for c in expected]
        assert pl.read_csv(world.out / name.replace("parquet", "csv")).height == len(table)
    results = pl.read_parquet(world.out / "results.parquet")
    sizes = results.group_by("task", "model", "recalibration", "group", "level").len()
    assert sizes["len"].unique().to_list() == [len(ALL_METRICS)]
    assert (results["value"].is_null() == results["reason"].is_not_null()).all()
    assert set(results["model"]) == {"a", "b", "r m lr"}


def test_a_metric_and_its_interval_are_those_of_a_loop_over_patients(world):
    subject, label, p = columns(world.held_out)
    for metric, oracle in (("auroc", roc_auc_score), ("brier", brier_score_loss)):
        at = {"task": "died", "model": "a", "recalibration": "none", "group": None}
        found = row(world.out, "results", **at, metric=metric)
        assert found["value"] == pytest.approx(oracle(label, p), abs=1e-9)
        bounds = loop(subject, lambda w, f=oracle: f(label, p, sample_weight=w))
        assert (found["lower"], found["upper"]) == pytest.approx(tuple(bounds), abs=1e-9)
        assert (found["n"], found["patients"]) == (240, 120)


def test_a_group_is_beside_all_other_rows_in_the_same_draws(world):
    subject, label, p = columns(world.held_out)
    inside = subject % 2 == 0
    for group, level, mask in (("sex", "F", inside), ("sex", "M", ~inside)):
        at = {"task": "died", "model": "a", "recalibration": "none", "group": group, "level": level}
        found = row(world.out, "results", **at, metric="auroc")
        assert found["value"] == pytest.approx(roc_auc_score(label[mask], p[mask]), abs=1e-9)
        assert found["n"] == mask.sum()

        def gap(weight, mask=mask):
            ours, rest = (
                roc_auc_score(label[rows], p[rows], sample_weight=weight[rows]) for rows in (mask, ~mask)
            )  # fmt: skip
            return ours - rest

        apart = row(world.out, "differences", **at, kind="group", metric="auroc")
        assert apart["difference"] == pytest.approx(gap(np.ones(len(p))), abs=1e-9)
        bounds = tuple(loop(subject, gap))
        assert (apart["lower"], apart["upper"]) == pytest.approx(bounds, abs=1e-9)
    family = pl.read_parquet(world.out / "differences.parquet").filter(kind="group", metric="auroc")
    p = np.sort(family["p"].drop_nulls().to_numpy())
    least = min(1.0, p[0] * len(p))
    assert len(p) > 8
    assert family["p_holm"].min() == pytest.approx(least)
    assert (family["p_holm"] >= family["p"]).all()


def test_a_model_is_compared_with_the_first_in_the_same_draws(world):
    found = row(world.out, "differences", task="died", kind="model", model="r m lr", metric="auroc")
    assert found["baseline"] == "a"
    # squares keep the order
    assert (found["difference"], found["lower"], found["upper"]) == pytest.approx((0, 0, 0), abs=1e-12)  # fmt: skip


def test_recalibration_is_fitted_on_tuning_and_told_before_and_after(world):
    tuning = pl.read_parquet(world.root / "a" / "tuning" / "died" / "tuning.parquet")
    _, tuned, pt = columns(tuning)
    _, label, p = columns(world.held_out)
    model = IsotonicRegression(out_of_bounds="clip").fit(pt, tuned)
    at = {"task": "died", "model": "a", "group": None, "metric": "brier"}
    found = row(world.out, "results", **at, recalibration="isotonic")
    assert found["value"] == pytest.approx(brier_score_loss(label, model.predict(p)), abs=1e-9)
    before = row(world.out, "results", **at, recalibration="none")["value"]
    moved = row(world.out, "differences", **at, recalibration="isotonic", kind="recalibration")
    assert moved["difference"] == pytest.approx(found["value"] - before, abs=1e-12)


def test_platts_fit_is_logistic_regression_on_his_smoothed_outcomes():
    rng = np.random.default_rng(3)
    p, new = rng.uniform(0.01, 0.99, 120), rng.uniform(0.01, 0.99, 30)
    label = rng.random(120) < p**2
    z = np.log(p / (1 - p))[:, None]
    n = label.sum()
    share = np.where(label, (n + 1) / (n + 2), 1 / (120 - n + 2))
    model = LogisticRegression(C=np.inf, solver="newton-cholesky", tol=1e-13)
    model.fit(np.r_[z, z], np.repeat([1, 0], 120), sample_weight=np.r_[share, 1 - share])
    expected = model.predict_proba(np.log(new / (1 - new))[:, None])[:, 1]
    np.testing.assert_allclose(platt(label, p)(new), expected, atol=1e-9)
    for parted in (np.sort(p) > 0.5, np.zeros(120, bool)):
        assert np.isfinite(platt(parted, np.sort(p))(new)).all()
    assert isotonic(np.sort(p) > 0.5, np.sort(p))(np.array([0.0, 1.0])).tolist() == [0, 1]


def test_conformal_sets_hold_the_outcome_as_often_as_promised(world):
    rng = np.random.default_rng(4)
    held = {"marginal": [], "by_class": []}
    for _ in range(300):  # rows that could as well have been tuning rows
        p = rng.beta(1, 3, 140)
        label = rng.random(140) < p
        for name, method in METHODS.items():
            sets = method(label[:60], p[:60], p[60:], 0.2)
            inside = sets[np.arange(80), label[60:].astype(int)]
            held[name].append(
                [inside.mean(), inside[label[60:]].mean(), inside[~label[60:]].mean()]
            )
    marginal, by_class = (np.nanmean(held[name], axis=0) for name in ("marginal", "by_class"))
    assert 0.8 <= marginal[0] < 0.82  # at most 1 / (n + 1) too much
    assert (
        marginal[1] < 0.7 < 0.8 <= min(by_class[1:])
    )  # over all rows is not within the rarer class
    tuning = pl.read_parquet(world.root / "a" / "tuning" / "died" / "tuning.parquet")
    _, tuned, pt = columns(tuning)
    _, label, p = columns(world.held_out)
    score = np.sort(np.where(tuned, 1 - pt, pt))
    limit = score[int(np.ceil(0.9 * (len(score) + 1))) - 1]
    inside = np.where(label, 1 - p, p) <= limit
    at = {"task": "died", "model": "a", "method": "marginal", "miss": 0.1}
    assert row(world.out, "conformal", **at, measure="coverage")["value"] == pytest.approx(inside.mean())  # fmt: skip
    size = ((1 - p <= limit) * 1.0 + (p <= limit)).mean()
    assert row(world.out, "conformal", **at, measure="size")["value"] == pytest.approx(size)


def test_curves_are_scikit_learns_and_net_benefit_the_papers_formula():
    rng = np.random.default_rng(5)
    subject, label = rng.integers(0, 40, 90), rng.random(90) < 0.4
    p = np.round(expit(rng.normal(size=90) + label), 2)
    weight = rows_and_draws(subject, 30)
    found = curves(label, p, weight)
    false, true, _ = roc_curve(label, p)
    np.testing.assert_allclose(found["roc"].y, np.interp(RATES, false, true), atol=1e-9)
    precision, recall, _ = precision_recall_curve(label, p)
    expected = [precision[np.flatnonzero(recall >= r - 1e-12)[-1]] for r in RATES[1:]]
    np.testing.assert_allclose(found["precision_recall"].y, expected, atol=1e-9)
    model = IsotonicRegression(y_min=0, y_max=1).fit(p, label)
    line = found["calibration_isotonic"]
    np.testing.assert_allclose(line.y, model.predict(np.clip(line.x, p.min(), p.max())), atol=1e-9)

    def benefit(t, w, treated):
        return (w[treated & label].sum() - w[treated & ~label].sum() * t / (1 - t)) / w.sum()

    for name, treated in (("decision", lambda t: p >= t), ("treat_all", lambda t: p >= 0)):
        each = np.array([[benefit(t, w, treated(t)) for w in weight.T] for t in RISKS])
        np.testing.assert_allclose(found[name].y, each[:, 0], atol=1e-9)
        bounds = np.percentile(each[:, 1:], [2.5, 97.5], axis=1)
        np.testing.assert_allclose([found[name].lower, found[name].upper], bounds, atol=1e-9)
    bins = found["calibration_binned"]
    assert np.average(bins.y, weights=None) == pytest.approx(label.mean(), abs=0.1)
    assert (np.diff(bins.x) > 0).all()
    assert set(curves(np.zeros(90, bool), p, weight)) == {
        "calibration_binned", "calibration_isotonic", "decision", "treat_all"
    }  # fmt: skip


def test_groups_are_what_was_known_at_the_prediction_time(tmp_path, toys):
    events = [
        (1, None, "GENDER//F"), (1, toys.day(0), "MEDS_BIRTH"), (1, toys.day(10), "RACE//A"),
        (1, toys.day(20), "RACE//B"), (1, toys.day(20), "DX//E11"), (2, toys.day(3), "LAB"),
    ]  # fmt: skip
    columns = zip(*events, strict=True)
    table = dict(zip(("subject_id", "time", "code"), columns, strict=True))
    types = {"subject_id": pa.int64(), "time": pa.timestamp("us"), "code": pa.string()}
    pq.write_table(pa.table({n: pa.array(c, types[n]) for n, c in table.items()}), tmp_path / "0.parquet")  # fmt: skip
    asked = [(1, 5), (1, 10), (1, 19.9), (1, 20), (1, 365.25 * 18), (2, 30)]
    rows = pl.DataFrame(
        {"subject_id": [s for s, _ in asked], "prediction_time": [toys.day(d) for _, d in asked]}
    )
    config = GroupsConfig(codes={"diabetes": "^DX//E11"}, age_bands=(18.0,))
    found = read_groups([tmp_path / "0.parquet"], rows, config)
    assert found["race"].to_list() == ["unknown", "A", "A", "B", "B", "unknown"]
    assert found["diabetes"].to_list() == ["no", "no", "no", "yes", "yes", "no"]
    assert found["sex"].to_list() == ["F"] * 5 + ["unknown"]
    young, old = "below 18", "18 and more"
    assert found["age"].to_list() == [young, young, young, young, old, "unknown"]


def test_groups_of_few_patients_are_not_told_nor_what_would_tell_them(world):
    race = pl.DataFrame({"race": ["A"] * 30 + ["B"] * 20 + ["C"] * 4})
    hidden = {g.level for g in levels(race, np.arange(54), least=10) if not g.told}
    assert hidden == {"C", "B"}  # B is all but A and C: with it C could be told by subtraction
    hidden = {g.level for g in levels(race, np.arange(54) // 3, least=2) if not g.told}
    assert not hidden
    found = pl.read_parquet(world.out / "results.parquet").filter(group="race")
    told = found.filter(pl.col("n").is_not_null())
    assert set(told["level"]) == {"A"}
    small = found.filter(pl.col("level") != "A").select("value", "n", "patients", "positives")
    assert small.null_count().sum_horizontal().item() == small.height * 4
    assert set(found["level"]) == {"A", "B", "RARE"}


def test_what_is_wrong_with_one_task_is_one_line_and_the_others_go_on(world, tmp_path):
    note.cache_clear()  # said once a process, and the fixture has
    run = CliRunner().invoke(main, command(world, tmp_path / "again"))
    assert run.exit_code == 0, run.output
    lines = [line for line in run.output.splitlines() if "was not judged" in line]
    assert len(lines) == 1
    assert "none: b was not judged" in lines[0]
    assert "row 3: predicted_boolean_probability = nan" in lines[0]
    assert "died: b was not recalibrated: its predictions have no tuning part" in run.output
    table = pl.read_parquet(tmp_path / "again" / "results.parquet")
    of = table.filter(task="none", model="a", recalibration="none", metric="auroc")
    assert of.filter(pl.col("group").is_null())["reason"].to_list() == ["no positive in held_out"]
    assert table.filter(task="none", model="b")["reason"].str.contains("nan").all()
    # by one thread a core here, by one in the fixture
    same = (tmp_path / "again" / "manifest.json").read_text()
    assert same == (world.out / "manifest.json").read_text()


def command(world, out, *more, **given):
    named = {"a": world.root / "a", "b": world.root / "b", "r": world.root / "results"} | given
    flags = [f"--predictions={name}={path}" for name, path in named.items()]
    settings = ["-s", f"bootstraps={DRAWS}", "-s", 'groups.codes={flu: "^DIAGNOSIS//FLU"}']
    return [
        "judge", f"--labels={world.root / 'labels'}", f"--meds={world.root / 'meds'}",
        f"--out={out}", *flags, *settings, *more,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (
            ("-s", 'groups.codes={gone: "^NOT//THERE"}'),
            "groups.codes.gone: no code of the labelled",
        ),
        (("-s", "baseline=x"), "baseline: no model is called 'x'; there are a, b, r m lr"),
        (("-s", "tasks=[gone]"), "has no task gone; it has died, none"),
        (("-s", "groups.age_bands=[65,18]"), "age_bands must ascend"),
    ],
)
def test_what_was_asked_for_and_is_not_there_is_one_line_and_nothing_is_written(
    world, tmp_path, more, said
):
    run = CliRunner().invoke(main, command(world, tmp_path / "out", *more))
    assert run.exit_code == 2
    assert said in run.output
    assert not (tmp_path / "out").exists()


def test_where_nothing_can_be_judged_the_command_says_so(world, tmp_path):
    rows = pl.read_parquet(world.root / "a" / "died" / "held_out.parquet")
    put(tmp_path / "c" / "died" / "0.parquet", predicted(rows, np.full(rows.height, 1.5)))
    meds, labels = world.root / "meds", world.root / "labels"
    args = ["judge", f"--labels={labels}", f"--meds={meds}", f"--predictions=c={tmp_path / 'c'}", f"--out={tmp_path / 'o'}"]  # fmt: skip
    run = CliRunner().invoke(main, args)
    assert run.exit_code == 2
    assert "row 0: predicted_boolean_probability = 1.5, which is no probability" in run.output
    assert "nothing could be judged" in run.output
    assert not (tmp_path / "o").exists()


def test_the_page_needs_nothing_else_and_tables_are_markdown_as_well(world):
    page = (world.out / "report.html").read_text()
    assert "http" not in page.replace("http-equiv", "")
    # three and one a model; of the task without a positive neither ROC nor PR, and not the broken model
    assert page.count("data:image/png;base64,") == (3 + 3) + (1 + 2)
    text = (world.out / "tables.md").read_text()
    for shown in ("Recalibration, fitted on the tuning rows", "Conformal sets", "not told"):
        assert shown in page
        assert shown in text


KILLED = """
import os, signal, sys
from pathlib import Path
from ehr_eval.judge.groups import GroupsConfig
from ehr_eval.judgement import run
from ehr_eval.judgement.config import JudgeConfig

judge, done = run.judge, []

def judge_one(task, config):
    if done:
        os.kill(os.getpid(), signal.SIGKILL)
    done.append(task)
    return judge(task, config)

run.judge = judge_one
root, out = map(Path, sys.argv[1:])
given = {"a": root / "a", "b": root / "b", "r": root / "results"}
config = JudgeConfig(bootstraps=40, groups=GroupsConfig(codes={"flu": "^DIAGNOSIS//FLU"}))
run.run_judge(root / "labels", given, root / "meds", out, config)
"""


@pytest.mark.slow
def test_a_killed_run_goes_on_and_gives_the_same_bytes(world, tmp_path, monkeypatch):
    out = tmp_path / "out"
    done = subprocess.run([sys.executable, "-c", KILLED, world.root, out], check=False)
    assert done.returncode == -signal.SIGKILL
    assert not out.exists()
    judge, again = run_module.judge, []

    def judge_one(task, config):
        again.append(task.name)
        return judge(task, config)

    monkeypatch.setattr(run_module, "judge", judge_one)
    run_judge(world.root / "labels", world.given, world.root / "meds", out, CONFIG)
    assert again == ["none"]
    assert verify(out) == []
    assert (out / "manifest.json").read_bytes() == (world.out / "manifest.json").read_bytes()
    assert [p.name for p in tmp_path.iterdir() if "out" in p.name and p.is_dir()] == ["out"]
