"""Records of which an objective can ask nothing: static tokens alone, or names left out."""

from dataclasses import replace

import pytest

from ehr_models.kinds.gpt2 import Gpt2ModelConfig
from ehr_tracking.checkpoints import CheckpointStore
from ehr_tracking.contracts import BOS_ID, UNK_ID
from ehr_tracking.errors import UserError
from ehr_tracking.manifest import verify
from ehr_tracking.runs import read_log
from ehr_train.config import OptimConfig, ValidationConfig
from ehr_train.objectives import CLM
from ehr_train.objectives.total import Part, Sum
from ehr_train.plan import plan
from ehr_train.run import train

from .conftest import TINY, random_subjects, tiny_config, write_tokens


def static_only(first, n):
    return [
        {"subject_id": first + i, "token": [BOS_ID, 7 + i % 9, 20], "time": [None] * 3}
        for i in range(n)
    ]


def unnamed(first, n):
    return [
        {"subject_id": first + i, "token": [BOS_ID, 7, UNK_ID, UNK_ID], "time": [None, None, 1, 2]}
        for i in range(n)
    ]


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """Few train subjects with events, tuning subjects without one."""
    train_split = [*static_only(0, 40), *random_subjects(500, 2, 0)]
    return write_tokens(
        tmp_path_factory.mktemp("mixed") / "t",
        {"train": train_split, "tuning": static_only(2000, 5)},
    )


@pytest.mark.parametrize("records", [static_only, unnamed])
@pytest.mark.parametrize("parts", [1, 2])
def test_a_train_split_without_a_target_is_refused_in_one_line(tmp_path, records, parts):
    tokens = write_tokens(tmp_path / "t", {"train": records(0, 6), "tuning": records(50, 2)})
    objective = CLM() if parts == 1 else Sum(parts=(Part(objective=CLM()),) * 2)
    config = tiny_config("clm", objective=objective)
    message = r"nothing in the train split that objective clm.* could predict"
    with pytest.raises(UserError, match=message) as refused:
        train(tokens, tmp_path / "run", config)
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "run").exists()
    with pytest.raises(UserError, match=message):
        plan(tokens, config)


@pytest.fixture(scope="module")
def run(mixed, tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "run"
    config = tiny_config(
        "clm",
        data=replace(tiny_config().data, context=16, batch_tokens=16, micro_tokens=16),
        optim=OptimConfig(steps=20),
        validation=ValidationConfig(every=4),
        model=Gpt2ModelConfig(**TINY),
    )
    return train(mixed, out, config)


def test_patience_that_can_stop_nothing_is_said_at_the_start(mixed, tmp_path, capsys):
    config = tiny_config(
        "clm", optim=OptimConfig(steps=1), validation=ValidationConfig(every=9, patience=2)
    )
    train(mixed, tmp_path / "run", config)
    message = (
        "validation.patience = 2 stops nothing: the tuning split has nothing that objective clm"
    )
    assert message in capsys.readouterr().err


def test_a_step_without_a_target_has_no_loss(run):
    records = read_log(run / "metrics.jsonl")
    assert any(r["targets"] == 0 for r in records)
    for record in records:
        assert ("loss" in record) == (record["targets"] > 0)


def test_a_validation_without_a_target_has_no_figure_and_no_best(run):
    assert not any(k.startswith("val_") for r in read_log(run / "metrics.jsonl") for k in r)
    store = CheckpointStore(run / "checkpoints")
    assert store.latest() is not None
    assert store.best() is None
    summary = (run / "SUMMARY.txt").read_text()
    assert "nothing to predict of any" in summary
    assert "of 20 steps had no target" in summary
    assert "perplexity" not in summary
    assert verify(run) == []
