"""Studies of scaling, against laws that are known and another fitter."""

import csv
import json

import numpy as np
import polars as pl
import pytest
from click.testing import CliRunner
from safetensors.numpy import save_file
from scipy.optimize import curve_fit

from ehr_eval.cli import main
from ehr_eval.scaling.config import ScalingConfig
from ehr_eval.scaling.law import Law, bootstrap, fit_law, told
from ehr_eval.scaling.run import run_scaling
from ehr_tracking.checkpoints import CheckpointStore
from ehr_tracking.contracts import (
    CHECKPOINT,
    FEATURES,
    LABELS,
    RESULTS,
    RUN,
    SCALING,
    ContractError,
)
from ehr_tracking.manifest import new_artifact, seal, source, verify

SIZES, BUDGETS = (30_000, 200_000, 1_500_000), (250_000, 1_000_000, 4_000_000)
N, D = (v.ravel().astype(np.float64) for v in np.meshgrid(SIZES, BUDGETS))
LOSS, SHORT = Law(1.2, 40.0, 0.4, 400.0, 0.45), Law(0.05, 9.0, 0.3, 300.0, 0.5)
BEST = {"a": 0.9, "b": 0.8}
HUBER = ScalingConfig().huber


def test_a_law_without_noise_is_found_as_by_another_fitter() -> None:
    figure = LOSS.at(N, D)
    found = fit_law(N, D, figure, huber=HUBER)
    assert found == pytest.approx(LOSS, rel=1e-3)
    theirs, _ = curve_fit(
        lambda x, e, a, alpha, b, beta: e + a * x[0] ** -alpha + b * x[1] ** -beta,
        *(np.stack([N, D]), figure),
        p0=(1, 30, 0.3, 300, 0.4),
        maxfev=20_000,
    )
    assert found == pytest.approx(theirs, rel=1e-2)


def test_intervals_hold_the_law_that_runs_were_made_by_and_grow_with_their_noise() -> None:
    true, widths = dict(told(LOSS, N, D)), []
    for noise in (0.003, 0.03):
        rng = np.random.default_rng(3)
        figure = LOSS.at(N, D) * np.exp(noise * rng.standard_normal(len(N)))
        law = fit_law(N, D, figure, huber=HUBER)
        drawn = bootstrap(law, N, D, figure, huber=HUBER, draws=100, seed=0)
        of = [dict(told(each, N, D)) for each in drawn]
        bounds = {name: np.percentile([o[name] for o in of], [2.5, 97.5]) for name in true}
        assert {
            name for name, (low, high) in bounds.items() if not low <= true[name] <= high
        } == set()
        widths.append(np.diff(bounds["twice_tokens"])[0])
    assert widths[1] > 3 * widths[0]


def test_one_run_that_failed_moves_a_law_little() -> None:
    figure, others = LOSS.at(N, D), np.arange(len(N)) != 4
    figure[4] *= 1.5
    off = [
        np.abs(fit_law(N, D, figure, huber=huber).at(N, D) / LOSS.at(N, D) - 1)[others].max()
        for huber in (0.001, 100.0)
    ]
    assert 30 * off[0] < 0.06 < off[1]


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """Nine runs whose losses and shares are those of two laws, and their results on two tasks."""
    root = tmp_path_factory.mktemp("scaling")
    scores, inputs = [], {}
    with new_artifact(root / "labels", LABELS) as partial:
        seal(partial, LABELS, producer="test 0", config={})
    for i, (n, d) in enumerate(zip(N, D, strict=True)):
        name, run = f"m{i}@0", root / f"run-{i}"
        write_run(run, int(n), int(d), float(LOSS.at(n, d)))
        features = root / f"features-{i}"
        with new_artifact(features, FEATURES) as partial:
            checkpoint = {"checkpoint": source(CheckpointStore(run / "checkpoints").best())}
            seal(partial, FEATURES, producer="test 0", config={}, inputs=checkpoint)
        inputs[f"features.{name}"] = source(features)
        share = 1 - float(SHORT.at(n, d))
        scores += [
            {"task": task, "model": name, "head": "lr", "k": -1, "replicate": -1}
            | {"metric": "auroc", "value": 0.5 + of * (BEST[task] - 0.5)}
            for task, of in (("a", share - 0.1), ("b", share + 0.1))
        ]
    for name, best in (("results", BEST), ("without", {})):
        with new_artifact(root / name, RESULTS) as partial:
            pl.DataFrame(scores).write_parquet(partial / "results.parquet")
            known = {"task": list(best), "value": list(best.values())}
            pl.DataFrame(known).write_parquet(partial / "best.parquet")
            sources = {"labels": source(root / "labels"), **inputs}
            seal(partial, RESULTS, producer="test 0", config={}, inputs=sources)
    run_scaling({"toy": root / "results"}, runs(root), root / "out", ScalingConfig(draws=20))
    return root


def write_run(run, parameters, tokens, loss):
    run.mkdir()
    config = {"model": {"kind": "gpt2"}, "objective": {"kind": "clm"}}
    (run / "config.yaml").write_text(json.dumps(config))
    (run / "environment.json").write_text("{}")
    steps = [{"step": 1, "tokens": 9, "val_loss": loss + 1}, {"step": 2, "tokens": tokens, "val_loss": loss}]  # fmt: skip
    (run / "metrics.jsonl").write_text("".join(json.dumps(step) + "\n" for step in steps))
    (run / "timings.jsonl").write_text("")
    with CheckpointStore(run / "checkpoints").save(2, score=loss) as partial:
        save_file({"w": np.zeros(parameters, np.int8)}, partial / "model.safetensors")
        seal(partial, CHECKPOINT, producer="test 0", config={})
    seal(run, RUN, producer="test 0", config=config)


def runs(root, count=9):
    return {f"m{i}@0": root / f"run-{i}" for i in range(count)}


def rows(path):
    with path.open() as f:
        return list(csv.DictReader(f))


def test_points_are_what_runs_and_results_say_and_laws_those_they_were_made_by(work) -> None:
    points = rows(work / "out" / "points.csv")
    loss = {r["model"]: r for r in points if r["figure"] == "loss"}
    share = {r["model"]: r for r in points if (r["figure"], r["k"]) == ("share", "-1")}
    assert len(points) == len(loss) + len(share) == 2 * len(N)
    for i, (n, d) in enumerate(zip(N, D, strict=True)):
        assert (int(loss[f"m{i}@0"]["parameters"]), int(loss[f"m{i}@0"]["tokens"])) == (n, d)
        assert float(loss[f"m{i}@0"]["value"]) == pytest.approx(LOSS.at(n, d))
        assert float(share[f"m{i}@0"]["value"]) == pytest.approx(1 - SHORT.at(n, d))
    fits = {(r["figure"], r["number"]): r for r in rows(work / "out" / "fits.csv")}
    for figure, law in (("loss", LOSS), ("share", SHORT)):
        for number, value in zip(("E", "A", "alpha", "B", "beta"), law, strict=True):
            assert float(fits[figure, number]["value"]) == pytest.approx(value, rel=0.02)


def test_a_study_needs_no_other_file_and_is_the_same_each_time(work) -> None:
    out = work / "out"
    page = (out / "page.html").read_text()
    assert page.count("<img ") == page.count('src="data:image/png;base64,') == 2
    assert "<script" not in page
    assert "gpt2 clm" in page
    run_scaling({"toy": work / "results"}, runs(work), work / "again", ScalingConfig(draws=20))
    assert (work / "again/manifest.json").read_bytes() == (out / "manifest.json").read_bytes()
    assert verify(out) == []
    tables = {"points.csv": SCALING.columns, **SCALING.beside}
    for name, columns in tables.items():
        assert list(rows(out / name)[0]) == [column.name for column in columns]


def test_too_few_runs_and_results_without_a_best_are_refused_in_one_line(work) -> None:
    named = [w for name, path in runs(work, 5).items() for w in ("--run", f"{name}={path}")]
    words = ["scaling", "--results", f"toy={work / 'results'}", *named, "--out", str(work / "no")]
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 2
    assert done.output.splitlines()[-1] == (
        "Error: nothing to fit: gpt2 clm: too few runs: 5 of 3 sizes and 2 budgets of tokens; a fit needs 6 of 3 and 3"
    )
    with pytest.raises(ContractError, match="knows no best possible: evaluate with --risks"):
        run_scaling({"toy": work / "without"}, runs(work), work / "no")
    assert not (work / "no").exists()
