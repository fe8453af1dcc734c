import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy import sparse

from ehr_eval.features.mapped import map_matrix, map_tensors
from ehr_eval.heads.gbm import LightGBMConfig
from ehr_eval.heads.lr import LogisticRegressionConfig
from ehr_eval.protocol.cell import Outcome, read_outcome, write_outcome
from ehr_eval.protocol.config import EhrshotConfig
from ehr_eval.protocol.ehrshot import run_ehrshot
from ehr_tracking.arrow.features import write_features
from ehr_tracking.contracts import ContractError
from ehr_tracking.errors import UnfinishedError
from ehr_tracking.manifest import load_manifest, verify
from ehr_tracking.runs import read_log

SMALL = EhrshotConfig(
    ks=(2, 8, -1),
    replicates=1,
    replicates_all=1,
    bootstraps=20,
    heads={"lr": LogisticRegressionConfig(c=(0.1, 1.0))},
)
SLOW = replace(SMALL, heads={**SMALL.heads, "gbm": LightGBMConfig(max_depth=(3,), rounds=400)})
"""Slow enough to be killed in between; each setting has one cell."""

COMMAND = """
import sys
from pathlib import Path
from ehr_eval.protocol.config import EhrshotConfig
from ehr_eval.protocol.ehrshot import run_ehrshot
from ehr_tracking.config import load_config

if __name__ == "__main__":
    root = Path(sys.argv[1])
    features = {name: root / "features" / name for name in ("model", "noise", "counts")}
    config = load_config(EhrshotConfig, root / "config.yaml", [])
    run_ehrshot(root / "labels", features, root / "results", config, workers=int(sys.argv[2]))
"""


def same(found, expected):
    """All but the wall times have the same bytes."""
    ours, theirs = load_manifest(found), load_manifest(expected)
    assert ours.inputs == theirs.inputs
    differing = {n for n in ours.files | theirs.files if ours.files.get(n) != theirs.files.get(n)}
    return differing <= {"timings.jsonl"}


def outcomes(root):
    return {
        p.relative_to(root): p for p in root.glob(".results.*.partial/.work/cells/**/*.safetensors")
    }


@pytest.fixture(scope="module")
def whole(tmp_path_factory, toys):
    root = tmp_path_factory.mktemp("whole")
    labels, features = toys.tasks(root, subjects=60)
    return run_ehrshot(labels, features, root / "results", SLOW)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_a_run_that_was_killed_goes_on_and_gives_the_same(workers, whole, toys, tmp_path):
    labels, features = toys.tasks(tmp_path, subjects=60)
    script, config = tmp_path / "run.py", tmp_path / "config.yaml"
    script.write_text(COMMAND)
    config.write_text(json.dumps(load_manifest(whole).config))  # JSON is YAML
    run = subprocess.Popen([sys.executable, script, tmp_path, str(workers)], start_new_session=True)
    while len(outcomes(tmp_path)) < 5:
        assert run.poll() is None, "ended before it could be killed"
        time.sleep(0.002)
    run.kill()
    run.wait()
    if workers > 1:
        gone_within(run.pid, seconds=30)
    done = {str(path): read_outcome(p) for path, p in outcomes(tmp_path).items()}
    assert 5 <= len(done) < 36
    out = run_ehrshot(labels, features, tmp_path / "results", SLOW, workers=workers)
    assert same(out, whole)
    assert verify(out) == []
    assert outcomes(tmp_path) == {}
    # the wall time of a cell is measured when it is computed: it was not computed again
    told = {
        (t["task"], t["model"], t["head"], t["k"]): t["seconds"]
        for t in read_log(out / "timings.jsonl")
    }
    for path, outcome in done.items():
        task, model, head, name = path.split("/")[-4:]
        k = int(name.split(",")[0].removeprefix("k="))
        assert told[task, model, head, k] == round(outcome.seconds, 4)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="finds workers in /proc")
def test_a_worker_that_is_killed_is_told_of_and_its_cells_are_not_lost(whole, toys, tmp_path):
    labels, features = toys.tasks(tmp_path, subjects=60)
    script, config = tmp_path / "run.py", tmp_path / "config.yaml"
    script.write_text(COMMAND)
    config.write_text(json.dumps(load_manifest(whole).config))
    command = [sys.executable, script, tmp_path, "2"]
    run = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    while len(outcomes(tmp_path)) < 3:
        assert run.poll() is None, "ended before its worker could be killed"
        time.sleep(0.002)
    children = (Path("/proc") / str(run.pid) / "task" / str(run.pid) / "children").read_text()
    workers = [pid for pid in children.split() if "spawn_main" in command_line(pid)]
    os.kill(int(workers[0]), signal.SIGKILL)
    _, error = run.communicate(timeout=120)
    assert "UnfinishedError: a worker was killed (is memory short?) at one of: task " in error
    assert outcomes(tmp_path)
    assert same(run_ehrshot(labels, features, tmp_path / "results", SLOW), whole)


def command_line(pid):
    return (Path("/proc") / pid / "cmdline").read_bytes().decode()


def gone_within(group, *, seconds):
    """No process of a killed run is left."""
    for _ in range(seconds * 20):
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return
        time.sleep(0.05)
    os.killpg(group, signal.SIGKILL)
    pytest.fail("workers outlive their run")


@pytest.mark.slow
def test_number_of_workers_does_not_matter(toys, tmp_path):
    labels, features = toys.tasks(tmp_path, subjects=60)
    one, two = (
        run_ehrshot(labels, features, tmp_path / f"by {n}", SMALL, workers=n) for n in (1, 2)
    )
    assert same(two, one)


def break_one(monkeypatch, error):
    """Fail in one cell, as a bug or a lack of memory would."""
    from ehr_eval.protocol import cell as module

    fit = module._fit

    def failing(cell, *rest):
        if (cell.task, cell.model, cell.k) == ("untold", "noise", 8):
            raise error
        return fit(cell, *rest)

    monkeypatch.setattr(module, "_fit", failing)


def test_a_cell_that_fails_is_named_and_the_others_are_kept(toys, tmp_path, monkeypatch):
    labels, features = toys.tasks(tmp_path, subjects=60)
    out = tmp_path / "results"
    with monkeypatch.context() as patch:
        break_one(patch, MemoryError("512 GiB"))
        with pytest.raises(UnfinishedError) as e:
            run_ehrshot(labels, features, out, SMALL)
    named = "task untold, model noise, head lr, k 8, replicate 0: MemoryError: 512 GiB"
    assert str(e.value).startswith(named)
    assert not out.exists()
    kept = len(outcomes(tmp_path))
    assert kept > 0
    seen = []
    from ehr_eval.protocol import cells

    run_cell = cells.evaluate_cell
    monkeypatch.setattr(cells, "evaluate_cell", lambda *a, **k: (seen.append(a), run_cell(*a, **k)))
    run_ehrshot(labels, features, out, SMALL)
    assert len(seen) + kept == 2 * 3 * 3  # tasks, models, ks


def test_a_damaged_outcome_is_computed_again(toys, tmp_path, monkeypatch):
    labels, features = toys.tasks(tmp_path, subjects=60)
    expected = run_ehrshot(labels, features, tmp_path / "expected", SMALL)
    with monkeypatch.context() as patch:
        break_one(patch, RuntimeError("x"))
        with pytest.raises(UnfinishedError):
            run_ehrshot(labels, features, tmp_path / "results", SMALL)
    first, second, *_ = outcomes(tmp_path).values()
    first.write_bytes(first.read_bytes()[:-9])
    second.write_bytes(b"")
    assert same(run_ehrshot(labels, features, tmp_path / "results", SMALL), expected)


def test_an_outcome_is_read_as_it_was_however_its_arrays_lie_in_memory(tmp_path):
    rng = np.random.default_rng(0)
    outcome = Outcome(
        point={"auroc": 0.5, "brier": 0.25},
        draws={"auroc": rng.random((9, 2))[:, 1], "brier": rng.random(18)[::-2]},
        probability=rng.random((7, 2))[:, 1],
        decided=(rng.random((7, 2)) < 0.5)[:, 1],
        selected='{"c": 1.0}',
        seconds=0.125,
    )
    write_outcome(tmp_path / "cells" / "a.safetensors", outcome)
    found = read_outcome(tmp_path / "cells" / "a.safetensors")
    assert (found.point, found.selected, found.seconds) == (outcome.point, outcome.selected, 0.125)
    np.testing.assert_array_equal(found.probability, outcome.probability)
    np.testing.assert_array_equal(found.decided, outcome.decided)
    for metric, draws in outcome.draws.items():
        np.testing.assert_array_equal(found.draws[metric], draws)


def test_another_config_begins_anew(toys, tmp_path, monkeypatch):
    labels, features = toys.tasks(tmp_path, subjects=60)
    with monkeypatch.context() as patch:
        break_one(patch, RuntimeError("x"))
        with pytest.raises(UnfinishedError):
            run_ehrshot(labels, features, tmp_path / "results", SMALL)
    other = replace(SMALL, bootstraps=3)
    found = run_ehrshot(labels, features, tmp_path / "results", other)
    assert same(found, run_ehrshot(labels, features, tmp_path / "expected", other))
    assert list(tmp_path.glob(".*partial")) == []


@pytest.mark.parametrize("kind", ["dense", "sparse"])
def test_rows_of_a_mapped_matrix_are_those_that_were_written(kind, tmp_path):
    rng = np.random.default_rng(0)
    dense = rng.poisson(0.4, (30, 7)).astype(np.float32)
    dense[[3, 11]] = 0  # rows without a count
    keys = {
        "subject_id": pa.array(range(30), pa.int64()),
        "prediction_time": pa.array([0] * 30, pa.timestamp("us")),
        "split": ["train"] * 30,
    }
    write_features(tmp_path, dense if kind == "dense" else sparse.csr_matrix(dense), pa.table(keys))
    matrix = map_matrix(tmp_path / "features.safetensors")
    assert matrix.shape == (30, 7)
    for rows in (np.arange(30), np.array([29, 3, 3, 0, 11]), np.zeros(0, np.int64)):
        found = matrix.take(rows)
        np.testing.assert_array_equal(found if kind == "dense" else found.toarray(), dense[rows])


def test_mapped_tensors_are_views_of_the_file_and_cannot_be_written(tmp_path):
    from safetensors.numpy import save_file

    tensors = {
        "a": np.arange(6, dtype=np.int64).reshape(2, 3),
        "b": np.array([True, False]),
        "c": np.zeros((0, 4), np.float32),
        "d": np.array([1.5, -2], np.float64),
        "e": np.array([[7], [9]], np.uint16),
    }
    save_file(tensors, tmp_path / "t", metadata={"note": "x"})
    found = map_tensors(tmp_path / "t")
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert found[name].dtype == tensor.dtype
        np.testing.assert_array_equal(found[name], tensor)
        assert not found[name].flags.owndata
        assert not found[name].flags.writeable


def test_workers_are_told_of_files_and_not_of_features(toys, tmp_path, monkeypatch):
    import pickle

    from ehr_eval.protocol import cells

    labels, features = toys.tasks(tmp_path, subjects=60)
    sizes = []
    run_cell = cells.evaluate_cell
    monkeypatch.setattr(
        cells,
        "evaluate_cell",
        lambda cell, plan: (sizes.append(len(pickle.dumps((cell, plan)))), run_cell(cell, plan)),
    )
    run_ehrshot(labels, features, tmp_path / "results", SMALL)
    assert max(sizes) < 4000


def given(toys, root, labels, **files):
    """Held-out predictions that are as good as the labels, written as files below tasks."""
    for task in ("told", "untold"):
        rows = pl.read_parquet(labels / task / "labels.parquet").filter(
            pl.col("subject_id") % 3 == 0
        )
        for folder, p in files.items():
            path = root / task / folder.replace("__", "/") / "0.parquet"
            path.parent.mkdir(parents=True, exist_ok=True)
            truth = rows["boolean_value"].to_numpy()
            table = pa.table(
                {
                    **{
                        c: rows[c].to_arrow()
                        for c in ("subject_id", "prediction_time", "boolean_value")
                    },
                    "predicted_boolean_probability": pa.array(
                        np.where(truth, p, 1 - p), pa.float32()
                    ),
                }
            )
            pq.write_table(table, path)
    return root


def test_predictions_made_elsewhere_are_one_more_model(toys, tmp_path):
    labels, features = toys.tasks(tmp_path, subjects=60)
    theirs = given(toys, tmp_path / "theirs", labels, all=0.75)
    for replicate, p in enumerate((1.0, 0.0)):
        few = tmp_path / "few"
        given(toys, few, labels, **{f"k=8__replicate={replicate}": p})
    out = run_ehrshot(
        labels, features, tmp_path / "results", SLOW, predictions={"tuned": theirs, "few": few}
    )
    assert verify(out) == []
    table = pl.read_parquet(out / "results.parquet")
    of = table.filter(model="tuned", task="told")
    assert of.select("head", "k").unique().rows() == [("given", -1)]
    means = dict(of.filter(replicate=-1).select("metric", "value").iter_rows())
    assert means == {
        "auroc": 1.0,
        "auprc": 1.0,
        "brier": 0.0625,
        "calibration_error": 0.25,
        "partial_auroc": 1.0,
        "sensitivity": 1.0,
        "f1": None,  # no threshold came with them
    }
    few_rows = table.filter(model="few", task="told", metric="auroc").sort("replicate")
    assert few_rows.select("k", "replicate", "value").rows() == [
        (8, -1, 0.5),
        (8, 0, 1.0),
        (8, 1, 0.0),
    ]
    compared = pl.read_parquet(out / "comparisons.parquet").filter(task="told")
    ours = compared.filter(model="tuned")
    assert ours.select("head", "baseline_head", "k").rows() == [
        ("given", "lr", -1),
        ("given", "gbm", -1),
    ]
    assert (ours["difference"] >= 0).all()
    assert compared.filter(model="few")["k"].unique().to_list() == [8]
    rest = compared.filter(pl.col("head") != "given", pl.col("baseline_head") != "given")
    assert (rest["head"] == rest["baseline_head"]).all()
    kept = pl.read_parquet(out / "predictions" / "told" / "tuned" / "given.parquet")
    assert kept["predicted_boolean_probability"].unique().sort().to_list() == [0.25, 0.75]
    assert load_manifest(out).inputs["predictions.tuned"].contract == "meds-predictions/0.4"
    page = (out / "report.html").read_text()
    assert "tuned" in page
    assert "predictions made elsewhere with each of its heads" in page


def test_predictions_leave_the_results_of_other_models_as_they_are(toys, tmp_path):
    labels, features = toys.tasks(tmp_path, subjects=60)
    theirs = given(toys, tmp_path / "theirs", labels, all=0.75)
    alone = run_ehrshot(labels, features, tmp_path / "alone", SMALL)
    beside = run_ehrshot(labels, features, tmp_path / "beside", SMALL, predictions={"t": theirs})
    found = pl.read_parquet(beside / "results.parquet").filter(pl.col("model") != "t")
    assert found.equals(pl.read_parquet(alone / "results.parquet"))


def test_predictions_that_leave_out_a_task_or_share_a_name_are_refused(toys, tmp_path):
    from ehr_tracking.errors import UserError

    labels, features = toys.tasks(tmp_path, subjects=60)
    theirs = given(toys, tmp_path / "theirs", labels, all=0.75)
    with pytest.raises(UserError, match="both named model"):
        run_ehrshot(labels, features, tmp_path / "r", SMALL, predictions={"model": theirs})
    (theirs / "untold" / "all" / "0.parquet").unlink()
    with pytest.raises(ContractError, match="no predictions of task untold; it has told: name the"):
        run_ehrshot(labels, features, tmp_path / "r", SMALL, predictions={"t": theirs})
    one = replace(SMALL, tasks=("told",))
    run_ehrshot(labels, features, tmp_path / "r", one, predictions={"t": theirs})


UNGUARDED = """
import sys
from pathlib import Path
from ehr_eval.protocol.config import EhrshotConfig
from ehr_eval.protocol.ehrshot import run_ehrshot

root = Path(sys.argv[1])
config = EhrshotConfig(ks=(1, 2), replicates=1, bootstraps=0)
run_ehrshot(root / "labels", {"m": root / "features" / "model"}, root / "out", config, workers=2)
"""


@pytest.mark.slow
def test_a_script_without_a_main_guard_is_told_of_it(toys, tmp_path):
    toys.tasks(tmp_path, subjects=12)
    script = tmp_path / "script.py"
    script.write_text(UNGUARDED)
    command = [sys.executable, str(script), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    last = done.stderr.strip().splitlines()[-1]
    assert "no worker could begin" in last
    assert "put the call below `if __name__ == '__main__':`" in last
    assert not (tmp_path / "out").exists()


def test_tasks_may_have_the_names_of_our_own_plots(toys, tmp_path):
    labels, features = toys.tasks(tmp_path, subjects=30)
    for old, new in (("told", "overview"), ("untold", "share")):
        (labels / old).rename(labels / new)
    config = replace(
        SMALL, ks=(-1,), bootstraps=0, heads={"lr": LogisticRegressionConfig(c=(1.0,))}
    )
    out = run_ehrshot(labels, {"m": features["model"]}, tmp_path / "out", config)
    plots = {p.relative_to(out / "plots").as_posix() for p in (out / "plots").rglob("*.png")}
    assert plots == {"overview.png", "tasks/overview.png", "tasks/share.png"}
    assert (out / "plots/overview.png").read_bytes() != (
        out / "plots/tasks/overview.png"
    ).read_bytes()


def test_a_store_keeps_cells_for_runs_that_compare_other_models(toys, tmp_path):
    labels, features = toys.tasks(tmp_path, subjects=60)
    store = tmp_path / "store"

    def kept():
        return len(list(store.rglob("*.safetensors")))

    two = {name: features[name] for name in ("model", "counts")}
    run_ehrshot(labels, two, tmp_path / "two", SMALL, store=store)
    first = kept()
    out = run_ehrshot(labels, features, tmp_path / "three", SMALL, store=store)
    assert kept() - first == first / 2  # those of one model more
    assert same(out, run_ehrshot(labels, features, tmp_path / "alone", SMALL))
    # under other names, with a further k and other settings of the report
    renamed = {"a": features["noise"], "b": features["model"]}
    more = replace(SMALL, ks=(4, *SMALL.ks), few_positives=3)
    run_ehrshot(labels, renamed, tmp_path / "renamed", more, store=store)
    assert kept() - first == first / 2 + first / 3  # two models at a third as many draws
    # what a cell depends on
    before = kept()
    for number, config in enumerate(
        (
            replace(SMALL, bootstraps=21),
            replace(SMALL, heads={"lr": LogisticRegressionConfig(c=(0.1, 2.0))}),
        )
    ):
        run_ehrshot(labels, two, tmp_path / f"other{number}", config, store=store)
        assert kept() - before == first * (number + 1)


STORED = COMMAND.replace(
    '"results", config, workers=int(sys.argv[2])', '"there", config, store=root / "store"'
)


@pytest.mark.slow
def test_two_processes_at_once_share_a_store_and_each_gives_what_it_gives_alone(
    whole, toys, tmp_path
):
    labels, features = toys.tasks(tmp_path, subjects=60)
    store, halves, ended = tmp_path / "store", [], threading.Event()
    (tmp_path / "run.py").write_text(STORED)
    (tmp_path / "config.yaml").write_text(json.dumps(load_manifest(whole).config))

    def watched():  # whatever bears the name of a cell is one at any moment
        while not ended.wait(0.01):
            halves.extend(p for p in store.rglob("*.safetensors") if read_outcome(p) is None)

    other = subprocess.Popen([sys.executable, tmp_path / "run.py", tmp_path])
    while not [*store.rglob("*.safetensors")]:
        assert other.poll() is None, "ended before it wrote a cell"
        time.sleep(0.002)
    watch = threading.Thread(target=watched)
    watch.start()
    begun = len([*store.rglob("*.safetensors")])
    here = run_ehrshot(labels, features, tmp_path / "here", SLOW, store=store)
    assert other.wait() == 0
    ended.set()
    watch.join()
    assert begun < 36 == len([*store.rglob("*.safetensors")])
    assert halves == []
    assert [*store.rglob("*.partial")] == []
    for out in (here, tmp_path / "there"):
        assert same(out, whole)
        assert verify(out) == []
