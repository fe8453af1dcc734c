"""Folds of train and tuning: who is on which side, what is fitted to whom, and going on."""

import csv
import shutil
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from click.testing import CliRunner

from ehr_models.checkpoint import load_checkpoint
from ehr_tracking.config import ConfigError, to_dict
from ehr_tracking.contracts import BOS_ID
from ehr_tracking.errors import UserError
from ehr_tracking.manifest import verify
from ehr_tracking.runs import read_log
from ehr_train.cli import main
from ehr_train.config import CheckpointConfig, FoldConfig, OptimConfig, ValidationConfig
from ehr_train.folds import runs_of_folds, train_folds
from ehr_train.job import Job
from ehr_train.objectives import Classification, Regression, Survival
from ehr_train.plan import plan_all
from ehr_train.run import train

from .conftest import DAY_US, tiny_config, write_tokens
from .test_resume import outcome, turn_back

VALUE = {**{s: float(s % 7) for s in range(30)}, **dict.fromkeys(range(90, 95), 1000000.0)}
"""Of the subjects of train and tuning; those of held_out would spoil every mean."""


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    """20 subjects of train, 10 of tuning, 5 of held_out, each with a row of labels."""
    root = tmp_path_factory.mktemp("folds")
    split = {"train": range(20), "tuning": range(20, 30), "held_out": range(90, 95)}
    token, time = [BOS_ID, *range(20, 30)], [None, *range(10)]
    of = {
        name: [{"subject_id": s, "token": token, "time": time} for s in subjects]
        for name, subjects in split.items()
    }
    rows = list(VALUE)
    table = {
        "subject_id": pa.array(rows, pa.int64()),
        "prediction_time": pa.array([5 * DAY_US] * len(rows), pa.timestamp("us")),
    }
    days = pa.array([s + 1.0 for s in rows])
    values = {
        "number": {"float_value": pa.array([VALUE[s] for s in rows])},
        "binary": {"boolean_value": pa.array([VALUE[s] > 4 for s in rows])},
        "survival": {"boolean_value": pa.array([True] * len(rows)), "duration_days": days},
    }
    for name, columns in values.items():
        (root / name).mkdir()
        pq.write_table(pa.table({**table, **columns}), root / name / "0.parquet")
    return write_tokens(root / "t", of), root


def config(objective=None, **changes):
    return tiny_config(
        **{
            "objective": objective or Regression(),
            "optim": OptimConfig(lr=1e-3, steps=4),
            "validation": ValidationConfig(every=2),
            "checkpoint": CheckpointConfig(every=2, keep=3),
            **changes,
        }
    )


def sides(cohort, number, of=5, objective=None, labels="number"):
    """The subjects of both sides of a fold, and the examples that it trains on."""
    tokens, root = cohort
    job = Job(tokens=tokens, out=root / "none", init=None, labels=root / labels, device="cpu")
    one = config(objective, fold=FoldConfig(of=of, number=number))
    train, tuning = (f(one, job.open_tokens()) for f in (job.train_examples, job.tuning_examples))
    return *({*e.tokens.subject_id[e.subject].tolist()} for e in (train, tuning)), train


def test_each_subject_is_validated_on_once_and_never_trained_on_beside(cohort):
    tokens, _ = cohort
    folds = [sides(cohort, number)[:2] for number in range(1, 6)]
    assert sorted(s for _, validated in folds for s in validated) == list(range(30))
    for trained, validated in folds:
        assert trained | validated == set(range(30))
        assert not trained & validated
    stores = tokens.with_name(".t.store").glob("*/*")
    assert {path.name for path in stores} == {"train+tuning"}  # held_out was not opened


def test_the_fold_of_a_subject_is_the_same_whatever_is_asked_of_it(cohort):
    number, binary = (sides(cohort, 2)[1], sides(cohort, 2, 5, Classification(), "binary")[1])
    assert number == binary
    other = Job(tokens=cohort[0], out=cohort[1], init=None, labels=None, device="cpu")
    masked = tiny_config(fold=FoldConfig(of=5, number=2))
    examples = other.tuning_examples(masked, other.open_tokens())
    assert {*examples.tokens.subject_id[examples.subject].tolist()} == number


@pytest.mark.parametrize("number", [1, 2, 3])
def test_weights_and_bounds_are_fitted_to_the_subjects_trained_on_alone(cohort, number):
    trained, _, examples = sides(cohort, number, 3, Classification(), "binary")
    positive = sum(VALUE[s] > 4 for s in trained)
    fitted = Classification(pos_weight="balanced").fitted(examples)
    assert fitted.pos_weight == pytest.approx((len(trained) - positive) / positive)
    *_, examples = sides(cohort, number, 3, Survival(), "survival")
    days = [s + 1 for s in trained]
    assert Survival(bins=2).fitted(examples).edges == (0, np.median(days), max(days))


@pytest.fixture(scope="module")
def whole(cohort, tmp_path_factory):
    """Three folds by the command, and what it printed."""
    tokens, root = cohort
    recipe = root / "c.yaml"
    recipe.write_text(yaml.safe_dump(to_dict(config())))
    out = tmp_path_factory.mktemp("whole") / "out"
    options = ["--tokens", tokens, "--labels", root / "number", "-c", recipe, "--folds", 3]
    done = CliRunner().invoke(main, [str(o) for o in (*options, "--out", out)])
    assert done.exit_code == 0, done.output
    return out, done.stdout


def test_every_fold_is_a_run_and_the_table_says_what_they_say(cohort, whole, tmp_path):
    out, printed = whole
    assert {p.name for p in out.iterdir()} == {
        *("fold-1", "fold-2", "fold-3", "folds.csv", "report.html")
    }
    rows = list(csv.DictReader((out / "folds.csv").read_text().splitlines()))
    assert [row["fold"] for row in rows] == ["1", "2", "3", "mean", "sd"]
    best = []
    for number, row in enumerate(rows[:3], start=1):
        run = out / f"fold-{number}"
        assert verify(run) == []
        log = [r for r in read_log(run / "metrics.jsonl") if "val_loss" in r]
        best.append(min(r["val_loss"] for r in log))
        assert float(row["loss"]) == best[-1]
        trained, validated, _ = sides(cohort, number, 3)
        assert (int(row["trained"]), int(row["validated"])) == (len(trained), len(validated))
        # standardised by those trained on: one subject more and it would be another number
        found = load_checkpoint(run, head="pooled").model.config
        assert found.regression_mean == pytest.approx(np.mean([VALUE[s] for s in trained]))
    assert float(rows[3]["loss"]) == pytest.approx(np.mean(best))
    assert float(rows[4]["loss"]) == pytest.approx(np.std(best, ddof=1))
    assert f"{np.mean(best):.4g}" in printed
    assert f"{np.mean(best):.4g}" in (out / "report.html").read_text()
    tokens, root = cohort
    planned = plan_all(tokens, runs_of_folds(tmp_path, config(), 3).items(), labels=root / "number")
    steps = [len(read_log(out / f"fold-{n}" / "metrics.jsonl")) for n in (1, 2, 3)]
    assert (planned["runs"], planned["steps_of_all"], planned["steps"]) == (3, sum(steps), steps[0])


def test_folds_that_are_resumed_end_with_the_same_bits(cohort, whole, tmp_path):
    tokens, root = cohort
    out = shutil.copytree(whole[0], tmp_path / "out")
    (out / "folds.csv").unlink()
    (out / "fold-2" / "manifest.json").unlink()
    turn_back(out / "fold-2")
    shutil.rmtree(out / "fold-3")
    left = (out / "fold-1" / "manifest.json").stat().st_mtime_ns
    again = {"folds": 3, "labels": root / "number", "resume": True}
    with pytest.raises(UserError, match=r"fold-1 was begun otherwise.*fold.of: 3 -> 2"):
        train_folds(tokens, out, config(), **{**again, "folds": 2})
    train_folds(tokens, out, config(), **again)
    assert (out / "fold-1" / "manifest.json").stat().st_mtime_ns == left
    assert (out / "folds.csv").read_bytes() == (whole[0] / "folds.csv").read_bytes()
    for number in (2, 3):
        now, then = (outcome(run / f"fold-{number}") for run in (out, whole[0]))
        assert (now["latest"], now["log"]) == (then["latest"], then["log"])


def test_what_is_there_is_replaced_when_told_to_and_put_back_when_nothing_begins(
    cohort, whole, tmp_path
):
    tokens, root = cohort
    out = shutil.copytree(whole[0], tmp_path / "out")
    options = {"folds": 2, "labels": root / "number"}
    with pytest.raises(UserError, match="holds folds; pass --resume to go on or --overwrite"):
        train_folds(tokens, out, config(), **options)
    with pytest.raises(UserError):
        train_folds(tokens, out, config(), **options, overwrite=True, init=tmp_path / "nothing")
    assert (out / "folds.csv").read_bytes() == (whole[0] / "folds.csv").read_bytes()
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
    (out / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match=r"notes.txt is no fold of a run"):
        train_folds(tokens, out, config(), **options, overwrite=True)
    (out / "notes.txt").unlink()
    one = config(optim=OptimConfig(steps=1), checkpoint=CheckpointConfig(every=1))
    train_folds(tokens, out, one, **options, overwrite=True)
    assert sorted(p.name for p in out.glob("fold-*")) == ["fold-1", "fold-2"]
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_folds_without_subjects_are_refused_before_anything_is_written(cohort, tmp_path):
    tokens, root = cohort
    options = {"labels": root / "number"}
    with pytest.raises(UserError, match=r"--folds 500: fold 2 has none of the 30 subjects"):
        train_folds(tokens, tmp_path / "out", config(), folds=500, **options)
    with pytest.raises(UserError, match="--folds 1: take 2 or more"):
        train_folds(tokens, tmp_path / "out", config(), folds=1, **options)
    named = config(fold=FoldConfig(of=3, number=1))
    with pytest.raises(ConfigError, match="leave out fold, which names one of them"):
        train_folds(tokens, tmp_path / "out", named, folds=3, **options)
    with pytest.raises(UserError, match="fold 2 of 500 has no subject of the 30 examples"):
        train(
            tokens, tmp_path / "out", replace(named, fold=FoldConfig(of=500, number=2)), **options
        )
    with pytest.raises(ValueError, match="there is no fold 4 of 3"):
        FoldConfig(of=3, number=4)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.dist
@pytest.mark.slow
def test_two_processes_share_a_fold_as_one_has_it(cohort, whole, tmp_path):
    tokens, root = cohort
    one = config(fold=FoldConfig(of=3, number=1))
    two = train(tokens, tmp_path / "run", one, labels=root / "number", nproc=2)
    logs = (read_log(run / "metrics.jsonl")[-1] for run in (two, whole[0] / "fold-1"))
    mine, theirs = ([r["targets"], r["val_loss"]] for r in logs)
    assert mine == pytest.approx(theirs, abs=1e-5)
