"""Groups of tasks and models in pairs, against their definitions worked out beside them."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from click.testing import CliRunner
from sklearn.metrics import roc_auc_score
from sklearn.utils import resample

from ehr_eval.cli import main
from ehr_eval.heads.lr import LogisticRegressionConfig
from ehr_eval.judge.multiple import benjamini_hochberg, bootstrap_p, holm
from ehr_eval.protocol.config import EhrshotConfig
from ehr_eval.protocol.ehrshot import run_ehrshot
from ehr_tracking.config import ConfigError

SMALL = EhrshotConfig(
    ks=(4, -1),
    replicates=2,
    replicates_all=1,
    bootstraps=40,
    heads={"lr": LogisticRegressionConfig(c=(0.1,)), "wide": LogisticRegressionConfig(c=(10.0,))},
    groups={"both": ("told", "unt*"), "one": ("t?ld",), "none": ("x*",)},
    compare=(("model/lr", "noise/wide"),),
)


@pytest.fixture(scope="module")
def out(tmp_path_factory, toys):
    root = tmp_path_factory.mktemp("pairs")
    labels, features = toys.tasks(root)
    return run_ehrshot(labels, features, root / "results", SMALL)


def drawn(out, task, model, head):
    """AUROC in each draw of the patients, by scikit-learn."""
    table = pl.read_parquet(out / "predictions" / task / model / f"{head}.parquet")
    subject, label = table["subject_id"].to_numpy(), table["boolean_value"].to_numpy()
    found = []
    for i in range(SMALL.bootstraps):
        sample = resample(sorted(set(subject.tolist())), random_state=i)
        weight = np.array([sample.count(s) for s in subject])
        p = table["predicted_boolean_probability"].to_numpy()
        found.append(roc_auc_score(label, p, sample_weight=weight))
    return np.array(found)


def test_a_group_has_the_mean_of_its_tasks_and_the_interval_of_ehrshot(out):
    table = pl.read_parquet(out / "groups.parquet")
    assert set(table["group"]) == {"both", "one", "all tasks", "mean of groups"}
    at = {"model": "counts", "head": "lr", "k": -1, "metric": "auroc"}
    row = table.row(by_predicate=pl.all_horizontal(*(pl.col(n) == v for n, v in at.items()), pl.col("group") == "both"), named=True)  # fmt: skip
    scores = pl.read_parquet(out / "results.parquet").filter(**at, replicate=-1)["value"]
    deviations = [np.std(drawn(out, task, "counts", "lr"), ddof=1) for task in ("told", "untold")]
    half = 1.96 * np.sqrt(np.sum(np.square(deviations))) / 2
    assert row["value"] == pytest.approx(scores.mean(), abs=1e-12)
    assert (row["lower"], row["upper"]) == pytest.approx(
        (row["value"] - half, row["value"] + half), abs=1e-6
    )
    assert row["tasks"] == 2
    of = table.filter(**at)
    mean = of.filter(pl.col("group").is_in(["both", "one"]))["value"].mean()
    assert of.filter(group="mean of groups")["value"][0] == pytest.approx(mean, abs=1e-12)


def test_pairs_say_who_wins_and_what_is_left_behind_a_correction(out):
    tasks = pl.read_parquet(out / "comparisons.parquet").filter(k=-1)
    pairs = pl.read_parquet(out / "pairs.parquet").filter(k=-1)
    assert pairs.height == 3 * 2 + 1  # pairs of models at each head, and the one that is named
    named = {"model": "model", "baseline": "noise", "head": "lr", "baseline_head": "wide"}
    mine = tasks.filter(**named)
    for row in mine.iter_rows(named=True):
        d = drawn(out, row["task"], "model", "lr") - drawn(out, row["task"], "noise", "wide")
        rarer = min((d <= 0).sum(), (d >= 0).sum())
        assert row["p"] == pytest.approx(min(1, 2 * (rarer + 1) / (SMALL.bootstraps + 1)))
    p = mine["p"].sort()
    assert mine["p_holm"].sort().to_list() == pytest.approx([min(1, 2 * p[0]), max(2 * p[0], p[1])])
    (pair,) = pairs.filter(**named).to_dicts()
    assert pair["wins"] == (mine["difference"] > 0).sum()
    assert pair["win_rate"] == pytest.approx(((mine["difference"] > 0).sum() + (mine["difference"] == 0).sum() / 2) / 2)  # fmt: skip
    assert pair["clear_wins"] == (mine.filter(pl.col("difference") > 0)["p_holm"] < 0.05).sum()
    assert pair["difference"] == pytest.approx(mine["difference"].mean(), abs=1e-12)


def test_corrections_keep_their_definitions_on_random_cases():
    rng = np.random.default_rng(0)
    for n in (1, 2, 15):
        p = rng.random(n) ** 3
        order = np.argsort(p)
        by_holm, by_rate = np.array(holm(p)), np.array(benjamini_hochberg(p))
        for place, i in enumerate(order):
            assert by_holm[i] == pytest.approx(
                min(1, max(p[j] * (n - rank) for rank, j in enumerate(order[: place + 1])))
            )
            assert by_rate[i] == pytest.approx(
                min(1, *(p[order[rank]] * n / (rank + 1) for rank in range(place, n)))
            )
    assert bootstrap_p(np.array([np.nan])) is None


def test_published_numbers_stand_beside_groups_of_the_same_name_alone(toys, tmp_path):
    labels, features = toys.tasks(tmp_path, subjects=60)
    groups = {"Labs": ("told",), "Others": ("untold",)}
    config = replace(SMALL, groups=groups, reference="ehrshot", ks=(-1,), compare=())
    out = run_ehrshot(labels, features, tmp_path / "results", config)
    text, page = (out / "report.md").read_text(), (out / "report.html").read_text()
    assert "| MOTOR-T lr | 0.788 |" in text
    assert "Published" in page
    assert "0.8360" not in page  # of a group that these results do not have
    for name in ("results", "groups", "comparisons", "pairs"):
        models = pl.read_parquet(out / f"{name}.parquet")["model"].unique().to_list()
        assert set(models) <= {"model", "noise", "counts"}


def test_a_pair_of_unknown_models_is_refused_before_anything_is_fitted(toys, tmp_path):
    labels, features = toys.tasks(tmp_path, subjects=12)
    for pair, said in (
        (("model", "behrt"), "there is no behrt"),
        (("model/rf", "noise"), "no model/rf"),
    ):
        with pytest.raises(ConfigError, match=said):
            run_ehrshot(labels, features, tmp_path / "r", replace(SMALL, compare=(pair,)))
    assert not (tmp_path / "r").exists()
    with pytest.raises(ConfigError, match="neither `ehrshot` nor a YAML file"):
        run_ehrshot(
            labels, features, tmp_path / "r", replace(SMALL, compare=(), reference="x.yaml")
        )


def test_the_command_shows_groups_and_takes_pairs(toys, tmp_path):
    labels, features = toys.tasks(tmp_path, subjects=60)
    named = [f"--features={name}={features[name]}" for name in ("model", "counts")]
    settings = ["ks=[-1]", "replicates_all=1", "bootstraps=5", "heads={lr: {kind: lr, c: [0.1]}}"]
    given = [x for setting in (*settings, "groups={both: ['*told']}") for x in ("-s", setting)]
    command = ["ehrshot", "--labels", str(labels), "--out", str(tmp_path / "r"), *named, *given]
    done = CliRunner().invoke(main, [*command, "--compare", "model", "counts/lr", "--workers", "1"])
    assert done.exit_code == 0, done.output
    assert "both" in done.output
    assert (tmp_path / "r" / "report.md").read_text().count("## ") > 3
