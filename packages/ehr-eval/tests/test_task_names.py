"""Tasks with whole paths as names, through every command that reads several."""

import shutil

import polars as pl
import pytest
from click.testing import CliRunner

from ehr_eval.cli import main
from ehr_tracking.manifest import verify

TASKS = ["died/in_icu/d1", "died/out"]


@pytest.fixture(scope="module")
def tree(tmp_path_factory, toys):
    """The toy's two tasks as a tree of tasks, in pieces by split as MEDS-DEV lays them."""
    root = tmp_path_factory.mktemp("names")
    labels, features = toys.tasks(root)
    for task, toy in zip(TASKS, ("told", "untold"), strict=True):
        table = pl.read_parquet(labels / toy / "labels.parquet")
        for n, split in enumerate(("held_out", "train", "tuning")):
            path = root / "tree" / task / split / "0.parquet"
            path.parent.mkdir(parents=True)
            table.filter(pl.col("subject_id") % 3 == n).write_parquet(path)
    stray = root / "tree" / "died" / ".ipynb_checkpoints" / "0.parquet"
    stray.parent.mkdir()
    table.write_parquet(stray)
    return root / "tree", features


def run(*arguments):
    result = CliRunner().invoke(main, [str(a) for a in arguments])
    assert result.exit_code == 0, result.output
    return result.output


def test_ehrshot_scores_each_task_of_a_tree_and_judges_predictions_of_it(tree, tmp_path):
    labels, features = tree
    heads = 'heads={"lr": {"kind": "lr", "c": [1.0]}}'
    small = [x for s in ("ks=[4,-1]", "replicates=1", "bootstraps=20", heads) for x in ("-s", s)]
    given = ["--labels", labels, "--features", f"counts={features['counts']}", *small]
    told = run("ehrshot", *given, "--out", tmp_path / "first", "--workers", 1)
    assert ["died/in_icu/d1", "240", "3"] in [line.split() for line in told.splitlines()]
    scores = pl.read_parquet(tmp_path / "first" / "results.parquet")
    assert scores["task"].unique().sort().to_list() == TASKS
    assert verify(tmp_path / "first") == []
    own = tmp_path / "own"
    for task in TASKS:
        made = tmp_path / "first" / "predictions" / task / "counts" / "lr.parquet"
        (own / task / "k=4" / "replicate=0").mkdir(parents=True)
        shutil.copy(made, own / task / "0.parquet")
        shutil.copy(made, own / task / "k=4" / "replicate=0" / "0.parquet")
    run("ehrshot", *given, "--predictions", f"own={own}", "--out", tmp_path / "second")
    both = pl.read_parquet(tmp_path / "second" / "results.parquet").filter(
        k=-1, replicate=-1, metric="auroc"
    )
    for task in TASKS:
        found = both.filter(task=task)
        assert found.filter(model="own")["value"].item() == pytest.approx(
            found.filter(model="counts", head="lr")["value"].item()
        )
