"""The objective that docs/extend.md adds: added as it says, it trains, alone and as a part of a sum."""

import numpy as np
import pytest

from ehr_models.data.tokens import STATIC, Tokens
from ehr_models.data.windows import newest
from ehr_tracking.config import load_config
from ehr_tracking.contracts import BOS_ID
from ehr_tracking.runs import read_log
from ehr_train.config import OptimConfig, TrainConfig
from ehr_train.data.examples import whole_records
from ehr_train.objectives.asker import Asker
from ehr_train.run import train

from .conftest import tiny_config


def test_it_asks_for_each_code_of_the_visit_codes_once(visit_codes):
    objective, _ = visit_codes
    n = 12
    tokens = Tokens(
        subject_id=np.array([1, 2]),
        offsets=np.array([0, 8, n]),
        prefix=np.array([1, 1]),
        token=np.array([BOS_ID, 8, 9, 10, 10, 11, 12, 9, BOS_ID, 8, 9, 9], np.uint16),
        time=np.array([STATIC, *range(7), STATIC, *range(3)]),
        age=np.zeros(n, np.float32),
        #               -  1  1  2   2   -   2   3 | -  3  4  4
        visit=np.array([0, 1, 1, 2, 2, 0, 2, 3, 0, 3, 4, 4], np.uint16),
        segment=np.zeros(n, np.uint8),
    )
    asker = Asker(objective(), whole_records(tokens), 20, 0)
    question = asker.ask(newest(tokens, [0, 1], [8, 4], 16), 0)
    asked = list(zip(*(question.targets[n].tolist() for n in ("rows", "answers")), strict=True))
    assert asked == [(2, 10), (2, 12), (6, 9), (9, 9)]
    assert question.counts == {"loss": 4}


def test_the_sum_of_the_page_trains_and_says_how_each_part_does(visit_codes, tokens, tmp_path):
    (tmp_path / "c.yaml").write_text(visit_codes[1])
    given = load_config(TrainConfig, tmp_path / "c.yaml").objective
    config = tiny_config("clm", objective=given, optim=OptimConfig(lr=1e-2, steps=20))
    run = train(tokens, tmp_path / "run", config)
    assert load_config(TrainConfig, run / "config.yaml") == config
    records = read_log(run / "metrics.jsonl")
    for r in records:
        assert r["loss"] == pytest.approx(r["loss_clm"] + 0.5 * r["loss_visit_codes"])
    parts = [r["loss_visit_codes"] for r in records]
    assert np.mean(parts[-3:]) < np.mean(parts[:3]) - 0.1
    last = records[-1]
    both = last["val_clm_loss"] + 0.5 * last["val_visit_codes_loss"]
    assert last["val_loss"] == pytest.approx(both)
    assert 0 <= last["val_visit_codes_accuracy"] <= 1
