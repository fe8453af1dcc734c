"""Prolonged stays, learnt beside masked tokens."""

import pytest

from ehr_models.checkpoint import load_checkpoint
from ehr_tracking.contracts import BOS_ID
from ehr_tracking.errors import UserError
from ehr_tracking.runs import read_log
from ehr_train.config import CheckpointConfig, OptimConfig, ValidationConfig
from ehr_train.objectives import MLM, PLOS
from ehr_train.objectives.total import Part, Sum
from ehr_train.run import train

from .conftest import tiny_config, write_tokens
from .test_resume import outcome, turn_back


@pytest.fixture(scope="module")
def stays(tmp_path_factory):
    """Visits of 30 days (as `write_tokens` has them): who has a code late in one stayed long."""
    splits = {}
    for split, n, first in (("train", 60, 0), ("tuning", 24, 900)):
        splits[split] = []
        for i in range(n):
            last = 20 if i % 3 == 0 else 2
            days = [0, 1, last, 31, 32]
            codes = [10, 11, 12 + i % 3, 30, 31]
            splits[split].append(
                {"subject_id": first + i, "token": [BOS_ID, *codes], "time": [None, *days]}
            )
    return write_tokens(tmp_path_factory.mktemp("stays") / "t", splits)


def mlm_and_plos(**plos):
    parts = (Part(objective=MLM()), Part(objective=PLOS(pooling="max", **plos), weight=0.5))
    return tiny_config(
        objective=Sum(parts=parts),
        optim=OptimConfig(lr=1e-2, steps=24),
        checkpoint=CheckpointConfig(every=12),
        validation=ValidationConfig(every=24, best="plos_auroc"),
    )


def test_masked_tokens_and_prolonged_stays_are_learnt_together_and_resumed(stays, tmp_path):
    config = mlm_and_plos(days=7)
    run = train(stays, tmp_path / "run", config)
    records = read_log(run / "metrics.jsonl")
    for r in records:
        assert r["loss"] == pytest.approx(r["loss_mlm"] + 0.5 * r["loss_plos"])
    assert records[-1]["val_plos_auroc"] > 0.9
    assert records[-1]["val_mlm_loss"] < records[0]["loss_mlm"]
    assert load_checkpoint(run).head == "both"
    before = outcome(run)
    (run / "manifest.json").unlink()
    assert turn_back(run).name == "step-00000012"
    train(stays, run, config, resume=True)
    assert outcome(run) == before
    # the head over tokens goes on alone, that over subjects does not
    more = tiny_config(optim=OptimConfig(steps=1))
    first = read_log(train(stays, tmp_path / "more", more, init=run) / "metrics.jsonl")[0]
    assert first["loss"] < records[0]["loss_mlm"]


def test_a_threshold_without_stays_is_refused_in_one_line(stays, tokens, tmp_path):
    flat = [{"subject_id": i, "token": [BOS_ID, 9], "time": [None, 3]} for i in range(4)]
    none = [{"subject_id": i, "token": [BOS_ID, 9], "time": [None, None]} for i in range(4)]
    for splits, days, message in [
        (
            {"train": none},
            7,
            "a threshold of 7 days needs stays, but the train records have no visits",
        ),
        ({"train": flat}, 7, "needs stays, but the train records have visits without a length"),
        (None, 25, "plos beyond 25 days: all 60 train rows are negative"),
    ]:
        data = stays if splits is None else write_tokens(tmp_path / f"t{len(message)}", splits)
        with pytest.raises(UserError, match=message) as error:
            train(data, tmp_path / "run", mlm_and_plos(days=days))
        assert "\n" not in str(error.value)
        assert not (tmp_path / "run").exists()
