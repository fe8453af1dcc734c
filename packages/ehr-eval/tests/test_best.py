"""Best possible risks in the report, and splits that hold nothing."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from sklearn.metrics import roc_auc_score

from ehr_eval.heads.lr import LogisticRegressionConfig
from ehr_eval.protocol.best import read_risks
from ehr_eval.protocol.config import EhrshotConfig
from ehr_eval.protocol.ehrshot import run_ehrshot
from ehr_tracking.contracts import ContractError
from ehr_tracking.manifest import load_manifest

CONFIG = EhrshotConfig(
    ks=(2, -1),
    replicates=1,
    replicates_all=1,
    bootstraps=0,
    heads={"lr": LogisticRegressionConfig(c=(1.0,))},
)
KEY = ["subject_id", "prediction_time"]


def write_risks(directory, labels, *, seed=0):
    """Risks that rank the outcome well, but not quite; of all rows, not of the held-out ones alone."""
    directory.mkdir()
    rng = np.random.default_rng(seed)
    for path in sorted(labels.rglob("*.parquet")):
        table = pl.read_parquet(path)
        risk = np.clip(0.4 * table["boolean_value"].to_numpy() + 0.5 * rng.random(len(table)), 0, 1)
        table = table.with_columns(best_risk=risk)
        table.sample(fraction=1, shuffle=True, seed=1).write_parquet(
            directory / f"{path.parent.name}.parquet"
        )
    return directory


@pytest.fixture(scope="module")
def run(tmp_path_factory, toys):
    root = tmp_path_factory.mktemp("best")
    labels, features = toys.tasks(root, subjects=90)
    risks = write_risks(root / "risks", labels)
    out = run_ehrshot(labels, features, root / "results", CONFIG, risks=risks)
    return labels, risks, out


def test_the_report_counts_the_mean_over_tasks_in_shares_of_the_way_to_the_best(run):
    _, risks, out = run
    page = (out / "report.html").read_text()
    section = page.split("Share of the way to the best possible</h2>")[1].split("<h2>")[0]
    results = pl.read_parquet(out / "results.parquet").filter(replicate=-1, metric="auroc")
    best = {}
    for task in ("told", "untold"):
        rows = pl.read_parquet(risks / f"{task}.parquet").filter(pl.col("subject_id") % 3 == 0)
        best[task] = roc_auc_score(rows["boolean_value"], rows["best_risk"])
    for model in ("model", "noise", "counts"):
        cells = ""
        for k in (2, -1):
            of = dict(results.filter(model=model, k=k).select("task", "value").iter_rows())
            shares = [(of[task] - 0.5) / (best[task] - 0.5) for task in best]
            cells += f'<td class="number">{np.mean(shares):.2f}</td>'
        plain = cells.replace(' class="number"', "")
        assert f"<td>{model} lr</td>{plain}" in section or f"<td>{model} lr</td>{cells}" in section
    assert (out / "plots" / "share.png").is_file()
    table = (out / "report.md").read_text().split("to the best possible\n\n")[1].split("\n\n")[0]
    header, _, *rows = ([cell.strip() for cell in x.split("|")[1:-1]] for x in table.splitlines())
    assert [row[0] for row in rows] == ["told", "untold"]
    for task, *cells in rows:
        of = dict(results.filter(task=task, k=-1).select("model", "value").iter_rows())
        for name, cell in zip(header[1:], cells, strict=True):
            share = (of[name.removesuffix(" lr")] - 0.5) / (best[task] - 0.5)
            assert cell == f"{share:.2f}"
    assert "risks" in load_manifest(out).inputs


def test_without_risks_the_report_says_nothing_of_a_best(tmp_path, toys):
    labels, features = toys.tasks(tmp_path, subjects=60)
    out = run_ehrshot(labels, features, tmp_path / "results", CONFIG)
    assert "best possible" not in (out / "report.html").read_text()
    assert not (out / "plots" / "share.png").exists()


def test_risks_come_in_the_order_of_the_labels(run):
    labels, risks, _ = run
    held_out = {"told": pl.read_parquet(labels / "told" / "labels.parquet").sort(KEY)[::-3]}
    found = read_risks(risks, held_out)
    assert list(found) == ["told"]
    by_key = {
        (s, t): r for s, t, r in pl.read_parquet(risks / "told.parquet")[[*KEY, "best_risk"]].rows()
    }
    assert found["told"].tolist() == [by_key[key] for key in held_out["told"][KEY].rows()]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t[1:], r"lacks 1 of 180 held-out labels of task told"),
        (lambda t: pl.concat([t, t[:1]]), r"is there twice"),
        (lambda t: t.with_columns(best_risk=pl.col("best_risk") + 1), r"is no probability in"),
        (lambda t: t.drop("best_risk"), r"has no column best_risk"),
        (lambda t: t.with_columns(pl.col("best_risk").cast(str)), r"expected double"),
    ],
)
def test_risks_that_do_not_fit_are_refused_in_one_line(change, message, run, tmp_path):
    labels, risks, _ = run
    change(pl.read_parquet(risks / "told.parquet")).write_parquet(tmp_path / "told.parquet")
    held_out = {"told": pl.read_parquet(labels / "told" / "labels.parquet")}
    with pytest.raises(ContractError, match=message) as e:
        read_risks(tmp_path, held_out)
    assert len(str(e.value).splitlines()) == 1


def test_a_folder_without_risks_of_the_tasks_is_refused(tmp_path):
    with pytest.raises(ContractError, match="holds no risks of told"):
        read_risks(tmp_path, {"told": pl.DataFrame()})


@pytest.mark.parametrize(("missing", "count"), [("held_out", 2), ("tuning", 2), ("train", 2)])
def test_a_split_that_holds_no_label_is_refused_with_the_mapping_to_give(
    missing, count, tmp_path, toys
):
    splits = [s for s in ("train", "tuning", "held_out") if s != missing]
    rows = [(i, toys.day(0), splits[i % 2]) for i in range(2 * count)]
    labels = toys.labels(tmp_path / "labels", {"a": [(i, t, i < 2) for i, t, _ in rows]})
    features = {"counts": toys.features(tmp_path / "f", rows, np.zeros((len(rows), 1)))}
    with pytest.raises(ContractError) as e:
        run_ehrshot(labels, features, tmp_path / "results", replace(CONFIG, ks=(1,)))
    assert f"no label is in {missing}" in str(e.value)
    assert "rename a development or validation split to tuning and a test split to held_out" in str(
        e.value
    )
    assert len(str(e.value).splitlines()) == 1
    assert not (tmp_path / "results").exists()


def test_other_names_of_splits_in_features_are_refused_with_the_mapping_to_give(tmp_path, toys):
    rows = [(i, toys.day(0), split) for i, split in enumerate(("train", "dev", "test"))]
    labels = toys.labels(tmp_path / "labels", {"a": [(i, t, i < 2) for i, t, _ in rows]})
    features = {"counts": toys.features(tmp_path / "f", rows, np.zeros((3, 1)))}
    with pytest.raises(
        ContractError, match=r"index\.parquet row 1: split is 'dev'.*to tuning and a test"
    ):
        run_ehrshot(labels, features, tmp_path / "results", CONFIG)


def test_one_task_without_held_out_rows_has_no_score_rather_than_0(tmp_path, toys):
    splits = ("train", "tuning", "held_out")
    rows = [(i, toys.day(0), splits[i % 3]) for i in range(36)]
    of = {"a": rows, "b": [row for row in rows if row[2] != "held_out"]}
    values = {task: [(i, t, i % 2 == 0) for i, t, _ in part] for task, part in of.items()}
    labels = toys.labels(tmp_path / "labels", values)
    features = {"counts": toys.features(tmp_path / "f", rows, np.arange(36)[:, None])}
    risks = tmp_path / "risks"
    risks.mkdir()
    for task, part in of.items():
        table = pl.DataFrame(part, schema=[*KEY, "split"], orient="row").select(KEY)
        table.with_columns(best_risk=0.5).write_parquet(risks / f"{task}.parquet")
    out = run_ehrshot(labels, features, tmp_path / "results", CONFIG, risks=risks)
    of_b = pl.read_parquet(out / "results.parquet").filter(task="b")
    assert of_b["value"].null_count() == of_b.height > 0
    assert set(of_b["reason"]) == {"no row in held_out"}
    page = (out / "report.html").read_text()
    section = page.split("Share of the way to the best possible</h2>")[1].split("<h2>")[0]
    assert "0.00" not in section  # the best is a coin: there is no way to go
