import base64
import json
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest
from meds_evaluation.evaluate import evaluate_binary_classification
from meds_evaluation.schema import PredictionSchema
from sklearn.metrics import roc_auc_score
from sklearn.utils import resample

from ehr_eval.heads.gbm import LightGBMConfig
from ehr_eval.heads.lr import LogisticRegressionConfig
from ehr_eval.judge.metrics import METRICS
from ehr_eval.judge.metrics.f1 import best_threshold
from ehr_eval.protocol.config import EhrshotConfig
from ehr_eval.protocol.ehrshot import run_ehrshot
from ehr_eval.protocol.inputs import open_inputs
from ehr_eval.protocol.results import summary
from ehr_eval.protocol.tables import arrow_schema, write_rows
from ehr_tracking.arrow.features import write_features
from ehr_tracking.arrow.label_csv import LabelColumns
from ehr_tracking.config import ConfigError, load_config
from ehr_tracking.contracts import (
    COMPARISON_COLUMNS,
    FEATURES,
    RESULTS,
    SUMMARY_COLUMNS,
    TIMING_COLUMNS,
    Column,
    ContractError,
)
from ehr_tracking.errors import UserError
from ehr_tracking.manifest import load_manifest, new_artifact, seal, source, verify
from ehr_tracking.runs import read_log

SMALL = EhrshotConfig(
    ks=(1, 4, -1),
    replicates=2,
    replicates_all=1,
    bootstraps=50,
    heads={
        "lr": LogisticRegressionConfig(c=(0.1, 1.0)),
        "gbm": LightGBMConfig(learning_rate=(0.1,), max_depth=(3,), num_leaves=(10,), rounds=30),
    },
)


@pytest.fixture(scope="module")
def results(tmp_path_factory, toys):
    root = tmp_path_factory.mktemp("ehrshot")
    labels, features = toys.tasks(root)
    return run_ehrshot(labels, features, root / "results", SMALL)


def scores(results):
    return pl.read_parquet(results / "results.parquet")


def one(results, **where):
    return scores(results).row(by_predicate=pl.all_horizontal(*where_is(where)), named=True)


def where_is(where):
    return [pl.col(name) == value for name, value in where.items()]


def test_the_artifact_is_sealed_keeps_its_contract_and_names_its_inputs(results, tmp_path):
    assert verify(results) == []
    table = pq.read_schema(results / "results.parquet")
    RESULTS.check({f.name: str(f.type) for f in table}, where="results")
    inputs = source(results).inputs
    assert set(inputs) == {"labels", "features.model", "features.noise", "features.counts"}
    features = results.parent / "features" / "model"
    assert inputs["features.model"] == source(features)


def test_every_cell_has_its_rows(results):
    table = scores(results)
    cells = 2 * 3 * 2  # tasks, models, heads
    assert table.filter(pl.col("replicate") >= 0).height == cells * (2 + 2 + 1) * len(METRICS)
    assert table.filter(replicate=-1).height == cells * 3 * len(METRICS)
    assert table["value"].null_count() == 0
    bounds = table.filter(replicate=-1).select(
        pl.col("lower") <= pl.col("value"), pl.col("value") <= pl.col("upper")
    )
    assert bounds.to_numpy().mean() > 0.9


def test_separable_features_end_with_auroc_1_and_noise_near_one_half(results):
    for head in ("lr", "gbm"):
        at = {"head": head, "k": -1, "replicate": -1, "metric": "auroc"}
        assert one(results, task="told", model="model", **at)["value"] == 1.0
        assert abs(one(results, task="untold", model="model", **at)["value"] - 0.5) < 0.2
        assert abs(one(results, task="told", model="noise", **at)["value"] - 0.5) < 0.2


def test_mean_over_replicates_and_its_paired_interval(results):
    at = {"task": "told", "model": "counts", "head": "lr", "k": 4, "metric": "brier"}
    values = [one(results, **at, replicate=r)["value"] for r in (0, 1)]
    mean = one(results, **at, replicate=-1)
    assert mean["value"] == pytest.approx(np.mean(values), abs=1e-15)


def test_predictions_are_meds_evaluations_and_give_the_reported_scores(results):
    paths = sorted((results / "predictions").rglob("*.parquet"))
    assert len(paths) == 2 * 3 * 2
    for path in paths:
        table = pq.read_table(path)
        PredictionSchema.validate(table)
        task, model, head = path.with_suffix("").parts[-3:]
        found = evaluate_binary_classification(pl.DataFrame(pl.from_arrow(table)))
        theirs = found["samples_equally_weighted"]
        for metric, name in (
            ("auroc", "roc_auc_score"),
            ("auprc", "average_precision_score"),
            ("brier", "brier_score"),
            ("calibration_error", "calibration_error"),
        ):
            ours = one(
                results, task=task, model=model, head=head, k=-1, replicate=-1, metric=metric
            )
            assert ours["value"] == pytest.approx(theirs[name], abs=1e-6)


def test_predictions_of_tuning_rows_are_those_that_the_threshold_was_chosen_on(results):
    for path in sorted((results / "predictions" / "told").rglob("*.parquet")):
        held_out = pl.read_parquet(path)
        beside = pl.read_parquet(
            results / "tuning" / path.relative_to(results / "predictions")
        ).drop_nulls("predicted_boolean_probability")
        assert not set(beside["subject_id"]) & set(held_out["subject_id"])
        p = beside["predicted_boolean_probability"].to_numpy()
        threshold = best_threshold(beside["boolean_value"].to_numpy(), p)
        called = held_out["predicted_boolean_probability"] >= threshold
        assert (called == held_out["predicted_boolean_value"]).mean() > 0.97  # float32 of equals


def test_comparison_is_the_paired_bootstrap_of_the_difference(results):
    table = pl.read_parquet(results / "comparisons.parquet")
    assert table.height == 2 * 3 * 2 * 3  # tasks, pairs of models, heads, ks
    row = table.row(
        by_predicate=pl.all_horizontal(
            *where_is(
                {"task": "told", "model": "noise", "baseline": "counts", "head": "lr", "k": -1}
            )
        ),
        named=True,
    )
    files = results / "predictions" / "told"
    ours, theirs = (pl.read_parquet(files / m / "lr.parquet") for m in ("noise", "counts"))
    subject, label = ours["subject_id"].to_numpy(), ours["boolean_value"].to_numpy()
    differences = []
    for i in range(SMALL.bootstraps):
        drawn = resample(sorted(set(subject.tolist())), random_state=i)
        weight = np.array([drawn.count(s) for s in subject])
        a, b = (
            roc_auc_score(
                label, t["predicted_boolean_probability"].to_numpy(), sample_weight=weight
            )
            for t in (ours, theirs)
        )
        differences.append(a - b)
    lower, upper = np.percentile(differences, [2.5, 97.5])
    assert row["difference"] < 0
    assert (row["lower"], row["upper"]) == pytest.approx((lower, upper), abs=1e-6)


class Page(HTMLParser):
    def __init__(self):
        super().__init__()
        self.stack, self.images, self.links, self.text = [], [], [], []

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        if tag == "img":
            self.images.append(attrs["src"])
        if tag not in ("img", "meta"):
            self.stack.append(tag)
        self.links += [attrs[a] for a in ("href", "src") if a in attrs and tag != "img"]

    def handle_endtag(self, tag):
        assert self.stack.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def read(page):
    parsed = Page()
    parsed.feed(page.read_text(encoding="utf-8"))
    assert parsed.stack == []
    return parsed


def test_report_is_one_file_with_every_plot_inlined(results):
    page = read(results / "report.html")
    plots = sorted((results / "plots").rglob("*.png"))
    assert [p.name for p in plots] == ["overview.png", "told.png", "untold.png"]
    inlined = {base64.b64decode(src.removeprefix("data:image/png;base64,")) for src in page.images}
    assert inlined == {p.read_bytes() for p in plots}
    assert page.links == []


def test_report_lists_each_cell_in_which_the_baseline_is_better(results):
    text = " ".join(read(results / "report.html").text)
    assert "Where the count baseline is better" in text
    compared = pl.read_parquet(results / "comparisons.parquet").filter(baseline="counts")
    behind = compared.filter(pl.col("difference") < 0)
    assert behind.height > 0
    assert f"the baseline has the higher AUROC in  {behind.height} " in text
    for row in behind.iter_rows(named=True):
        assert f"{row['difference']:.3f} ({row['lower']:.3f}, {row['upper']:.3f})" in text


def assert_same(found, expected, *differing):
    """All files but those that differ have the same bytes."""
    ours, theirs = (load_manifest(path).files for path in (found, expected))
    assert ours.keys() == theirs.keys()
    assert {"results.parquet", "comparisons.parquet", "plots/tasks/told.png"} < ours.keys()
    assert {name for name in ours if ours[name] != theirs[name]} <= {"timings.jsonl", *differing}


def test_wall_times_are_apart_from_what_is_the_same_from_run_to_run(results):
    timings = read_log(results / "timings.jsonl")
    cells = {(t["task"], t["model"], t["head"], t["k"]) for t in timings}
    assert len(cells) == len(timings)
    assert cells == set(scores(results).select("task", "model", "head", "k").iter_rows())
    assert all(t["seconds"] > 0 for t in timings)


def test_order_of_label_rows_does_not_matter(results, tmp_path, toys):
    labels, features = toys.tasks(tmp_path)
    for path in labels.rglob("*.parquet"):
        pl.read_parquet(path).sample(fraction=1, shuffle=True, seed=1).write_parquet(path)
    # the report names the label files by their hash
    found = run_ehrshot(labels, features, tmp_path / "results", SMALL)
    assert_same(found, results, "report.html")


def evaluate_labels(tmp_path, toys, values, **config):
    """One task with the values given per split, on random features."""
    rows = [
        (i, toys.day(0), split, value)
        for i, (split, value) in enumerate((s, v) for s, vs in values.items() for v in vs)
    ]
    labels = toys.labels(tmp_path / "labels", {"rare": [(i, t, v) for i, t, _, v in rows]})
    matrix = np.random.default_rng(0).normal(size=(len(rows), 3))
    features = {
        name: toys.features(tmp_path / name, [r[:3] for r in rows], matrix)
        for name in ("model", "counts")
    }
    config = replace(SMALL, **{"ks": (2, -1), "bootstraps": 20, **config})
    return run_ehrshot(labels, features, tmp_path / "results", config)


MIXED = [True, False] * 10


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"train": [False] * 9, "tuning": MIXED, "held_out": MIXED}, "no positive in train"),
        ({"train": MIXED, "tuning": [True] * 9, "held_out": MIXED}, "no negative in tuning"),
    ],
)
def test_a_task_that_cannot_be_evaluated_is_a_row_with_a_reason(values, reason, tmp_path, toys):
    out = evaluate_labels(tmp_path, toys, values)
    table = scores(out)
    assert table.height == 2 * 2 * 2 * len(METRICS)
    assert table["value"].null_count() == table.height
    assert set(table["reason"]) == {reason}
    text = " ".join(read(out / "report.html").text)
    assert "What could not be evaluated" in text
    assert reason in text
    assert verify(out) == []
    assert summary(out)[0]["model lr"] is None


def test_held_out_rows_of_one_class_have_a_brier_score_and_a_calibration_error_only(tmp_path, toys):
    values = {"train": MIXED, "tuning": MIXED, "held_out": [False] * 6}
    out = evaluate_labels(tmp_path, toys, values)
    table = scores(out)
    needs_no_class = pl.col("metric").is_in(["brier", "calibration_error"])
    assert table.filter(needs_no_class)["value"].null_count() == 0
    rest = table.filter(~needs_no_class)
    assert rest["value"].null_count() == rest.height
    assert set(rest["reason"]) == {"no positive in held_out"}
    page = read(out / "report.html")
    assert page.images == []
    assert "rare has no curve: no positive in held_out." in page.text
    assert not (out / "plots").exists()


def test_the_mean_is_drawn_over_the_tasks_that_have_a_curve(tmp_path, toys, results):
    labels, features = toys.tasks(tmp_path)
    told = pl.read_parquet(labels / "told" / "labels.parquet")
    for path in labels.rglob("*.parquet"):
        path.unlink()
    held_out = pl.col("subject_id") % 3 == 0
    one_class = told.with_columns(pl.col("boolean_value") | held_out)
    for task, table in {"told": told, "one_class": one_class}.items():
        (labels / task).mkdir(exist_ok=True)
        table.write_parquet(labels / task / "labels.parquet")
    out = run_ehrshot(labels, features, tmp_path / "results", SMALL)
    assert sorted(p.name for p in (out / "plots").rglob("*.png")) == ["overview.png", "told.png"]
    assert (out / "plots/tasks/told.png").read_bytes() == (
        results / "plots/tasks/told.png"
    ).read_bytes()
    page = read(out / "report.html")
    assert len(page.images) == 2
    assert "one_class has no curve: no negative in held_out." in page.text


def test_report_warns_of_little_data(tmp_path, toys, results):
    values = {"train": MIXED, "tuning": MIXED, "held_out": [True] * 3 + [False] * 20}
    out = evaluate_labels(tmp_path, toys, values)
    warning = "Too little data to judge a model"
    assert warning in (out / "report.html").read_text()
    assert "rare (3)" in (out / "report.html").read_text()
    assert warning not in (results / "report.html").read_text()


def test_no_bootstraps_gives_no_intervals(tmp_path, toys):
    values = {"train": MIXED, "tuning": MIXED, "held_out": MIXED}
    table = scores(evaluate_labels(tmp_path, toys, values, bootstraps=0))
    assert table["value"].null_count() == 0
    assert table["lower"].null_count() == table.height


def test_fits_that_did_not_converge_are_told_once_with_their_cell(tmp_path, toys, capsys):
    values = {"train": MIXED, "tuning": MIXED, "held_out": MIXED}
    heads = {"lr": LogisticRegressionConfig(c=(1e2,), max_iter=1)}
    out = evaluate_labels(tmp_path, toys, values, heads=heads, ks=(-1,))
    cell = "task rare, model model, head lr, k -1, replicate 0"
    line = f"2 fits did not converge within the head's max_iter, the first of {cell}"
    assert capsys.readouterr().err.count(line) == 1
    text = " ".join(read(out / "report.html").text)
    assert "Fits that did not converge" in text
    assert '{"c": 100.0}' in text


def test_a_task_without_features_is_left_out_and_told_and_the_others_go_on(tmp_path, toys, capsys):
    labels, features = toys.tasks(tmp_path, subjects=60)
    other = toys.labels(
        tmp_path / "more", {"other": [(1, toys.day(0), True), (77, toys.day(3), False)]}
    )
    (other / "other").rename(labels / "other")
    twice = [(1, toys.day(0), True), (1, toys.day(0), False)]
    toys.labels(labels, {"twice": twice})
    fast = replace(SMALL, ks=(-1,), heads={"lr": SMALL.heads["lr"]}, bootstraps=5)
    out = run_ehrshot(labels, features, tmp_path / "results", fast)
    assert set(scores(out)["task"]) == {"told", "untold"}
    said = capsys.readouterr().err
    lacks = "lacks 1 of 2 labels of task other, the first subject 77"
    contradicts = "task twice has contradicting labels of subject 1 at 2020-01-01 00:00:00"
    page = " ".join(read(out / "report.html").text)
    for line in (lacks, contradicts):
        assert line in said
        assert line in page
    only = replace(fast, tasks=("other",))
    with pytest.raises(ContractError, match=lacks):
        run_ehrshot(labels, features, tmp_path / "only", only)
    assert not (tmp_path / "only").exists()


def test_features_of_other_splits_are_refused(tmp_path, toys):
    labels, features = toys.tasks(tmp_path, subjects=12)
    index = pl.read_parquet(features["model"] / "index.parquet")
    rows = [(i, t, "train") for i, t in index.select("subject_id", "prediction_time").rows()]
    toys.features(tmp_path / "other", rows, np.zeros((len(rows), 2)))
    with pytest.raises(ContractError, match="puts subject 2 in another split"):
        run_ehrshot(labels, {**features, "other": tmp_path / "other"}, tmp_path / "results", SMALL)


def test_changed_features_unknown_tasks_bad_names_and_existing_outputs_are_refused(tmp_path, toys):
    labels, features = toys.tasks(tmp_path, subjects=12)
    out = tmp_path / "results"
    with pytest.raises(ConfigError, match="no task nope; it has told, untold"):
        run_ehrshot(labels, features, out, EhrshotConfig(tasks=("nope",)))
    with pytest.raises(UserError, match=r"model .a/b. cannot be the name of a file"):
        run_ehrshot(labels, {"a/b": features["model"]}, out, SMALL)
    path = features["model"] / "features.safetensors"
    path.write_bytes(path.read_bytes()[:-4] + b"\0\0\0\0")
    with pytest.raises(ContractError, match=r"features\.safetensors was changed"):
        run_ehrshot(labels, features, out, SMALL)
    assert not out.exists()
    out.mkdir()
    (out / "mine.txt").write_text("x")
    with pytest.raises(UserError, match="not an artifact of ours"):
        run_ehrshot(labels, features, out, SMALL)


def test_selected_hyperparameters_are_told(results):
    row = one(results, task="told", model="model", head="gbm", k=-1, replicate=0, metric="auroc")
    assert json.loads(row["selected"]) == {
        "learning_rate": 0.1,
        "max_depth": 3,
        "num_leaves": 10,
    }


def test_features_that_are_no_numbers_are_refused(tmp_path, toys):
    labels, features = toys.tasks(tmp_path, subjects=12)
    index = pl.read_parquet(features["model"] / "index.parquet")
    matrix = np.zeros((index.height, 2))
    matrix[3, 1] = np.nan
    rows = index.select("subject_id", "prediction_time", "split").rows()
    features["model"] = toys.features(tmp_path / "diverged", rows, matrix)
    with pytest.raises(ContractError, match="holds NaN"):
        run_ehrshot(labels, features, tmp_path / "results", SMALL)


def delayed(toys, features, out, delay):
    """The same features, made with a delay."""
    index = pl.read_parquet(features / "index.parquet")
    rows = index.select("subject_id", "prediction_time", "split").rows()
    return toys.features(out, rows, np.zeros((len(rows), 2)), config={"delay": delay})


def test_features_of_other_delays_are_refused(tmp_path, toys):
    labels, features = toys.tasks(tmp_path, subjects=12)
    later = delayed(toys, features["model"], tmp_path / "later", {"^DIAGNOSIS": 1.0})
    with pytest.raises(UserError) as e:
        run_ehrshot(labels, {"counts": features["counts"], "m": later}, tmp_path / "r", SMALL)
    assert f"features counts ({features['counts']}) were made with delay {{}}" in str(e.value)
    assert f"features m ({later}) with delay {{^DIAGNOSIS: 1.0}}" in str(e.value)
    assert len(str(e.value).splitlines()) == 1
    assert not (tmp_path / "r").exists()


def test_delays_in_another_order_are_others_since_the_first_that_fits_counts(tmp_path, toys):
    labels, features = toys.tasks(tmp_path, subjects=12)
    orders = ({"^D": 1.0, "^DIAGNOSIS": 7.0}, {"^DIAGNOSIS": 7.0, "^D": 1.0})
    named = {
        f"m{i}": delayed(toys, features["model"], tmp_path / f"m{i}", delay)
        for i, delay in enumerate(orders)
    }
    with pytest.raises(UserError, match="make both with the same"):
        run_ehrshot(labels, named, tmp_path / "r", SMALL)


def test_delays_of_no_days_are_none(tmp_path, toys):
    labels, features = toys.tasks(tmp_path, subjects=12)
    none = delayed(toys, features["model"], tmp_path / "none", {"^DIAGNOSIS": 0.0})
    config = replace(SMALL, ks=(1,), heads={"lr": LogisticRegressionConfig(c=(1.0,))})
    run_ehrshot(labels, {"none": none, "counts": features["counts"]}, tmp_path / "r", config)


def test_features_of_the_same_delays_are_compared(tmp_path, toys):
    labels, features = toys.tasks(tmp_path, subjects=60)
    config = replace(
        SMALL, ks=(-1,), bootstraps=0, heads={"lr": LogisticRegressionConfig(c=(1.0,))}
    )
    named = {
        name: delayed(toys, features[name], tmp_path / name, {"^DIAGNOSIS": 1.0})
        for name in ("model", "counts")
    }
    assert verify(run_ehrshot(labels, named, tmp_path / "r", config)) == []


def test_a_key_twice_in_the_index_of_features_is_one_clear_line(tmp_path, toys):
    labels, features = toys.tasks(tmp_path, subjects=12)
    index = pq.read_table(features["model"] / "index.parquet")
    rows = pl.from_arrow(index).select("subject_id", "prediction_time", "split").rows()
    with new_artifact(tmp_path / "twice", FEATURES) as unfinished:
        write_features(unfinished, np.zeros((len(rows), 2), np.float32), index.drop(["row"]))
        twice = pl.from_arrow(index).with_columns(
            pl.when(pl.col("row") == 5)
            .then(pl.col("subject_id").get(2))
            .otherwise("subject_id")
            .alias("subject_id"),
            pl.when(pl.col("row") == 5)
            .then(pl.col("prediction_time").get(2))
            .otherwise("prediction_time")
            .alias("prediction_time"),
        )
        pq.write_table(twice.to_arrow().cast(index.schema), unfinished / "index.parquet")
        seal(unfinished, FEATURES, producer="theirs 1", config={})
    with pytest.raises(
        ContractError,
        match=r"index\.parquet row \d+: subject 2 at 2020-01-01 00:00:00 is there twice",
    ) as e:
        run_ehrshot(labels, {"model": tmp_path / "twice"}, tmp_path / "r", SMALL)
    assert len(str(e.value).splitlines()) == 1


def test_every_key_of_results_is_in_the_schema(results):
    for name, columns in (("results", RESULTS.columns), ("comparisons", COMPARISON_COLUMNS)):
        found = pq.read_schema(results / f"{name}.parquet")
        assert found == arrow_schema(columns)
    assert set(scores(results)["metric"]) == set(METRICS)
    for line in read_log(results / "timings.jsonl"):
        assert list(line) == [column.name for column in TIMING_COLUMNS]
    keys = [column.name for column in SUMMARY_COLUMNS]
    for row in summary(results):
        assert list(row)[:3] == keys
        assert all(len(key.split()) == 2 for key in list(row)[3:])  # model and head


def test_a_key_that_the_schema_lacks_is_not_written(tmp_path):
    columns = (Column("a", "int64", "."), Column("b", "string", "."))
    for row in ({"a": 1}, {"a": 1, "b": "x", "c": 2}):
        with pytest.raises(AssertionError, match="in a row or in the contract only"):
            write_rows(tmp_path / "t.parquet", [row], columns)
    assert not (tmp_path / "t.parquet").exists()


@pytest.mark.parametrize("name", ["given", "a/b", "..", "../../../../x"])
def test_names_of_heads_that_cannot_be_are_refused(name):
    with pytest.raises(
        ConfigError, match=r"no head may be called given|cannot be the name of a file"
    ):
        load_config(EhrshotConfig, None, [f"heads={{{name}: {{kind: lr}}}}"])


def test_labels_of_a_csv_file_with_other_columns_are_those_of_the_tree(toys, tmp_path):
    labels, features = toys.tasks(tmp_path, subjects=12)
    table = pl.read_parquet(labels / "told" / "labels.parquet")
    table.rename({"subject_id": "patient", "prediction_time": "at"}).select(
        "patient", "at", died=pl.col("boolean_value").cast(pl.Int8)
    ).write_csv(tmp_path / "mine.csv")
    columns = LabelColumns(subject="patient", time="at", value="died")
    (mine,) = open_inputs(
        tmp_path / "mine.csv", features, {}, EhrshotConfig(labels=columns, bootstraps=0)
    ).tasks
    (told,) = open_inputs(labels / "told", features, {}, EhrshotConfig(bootstraps=0)).tasks
    assert mine.name == "died"
    for split, rows in told.splits.items():
        assert rows.time.tolist() == mine.splits[split].time.tolist()
        assert rows.label.tolist() == mine.splits[split].label.tolist()
