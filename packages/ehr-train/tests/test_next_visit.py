"""The next visit: what is shown of before it, what is asked of it, and that it can be learnt."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score

from ehr_models.data.tokens import STATIC, Tokens
from ehr_models.data.windows import newest
from ehr_tracking.contracts import BOS_ID, SEP_ID, UNK_ID
from ehr_tracking.errors import UserError
from ehr_tracking.runs import read_log
from ehr_train.config import OptimConfig, ValidationConfig
from ehr_train.objectives import NextVisit
from ehr_train.objectives.asker import Asker
from ehr_train.objectives.next_visit import average_precisions
from ehr_train.run import train

from .conftest import DAY_US, tiny_config, write_tokens

#         static  visit 1    [SEP]  gap  visit 2   visit 3 | static, visit 1, 2 (unnamed), 3
TOKEN = [BOS_ID, 8, 9, 10, SEP_ID, 50, 11, 12, 11, 13, BOS_ID, 20, UNK_ID, 21]
VISIT = [0, 0, 1, 1, 1, 0, 2, 2, 2, 3, 0, 1, 2, 3]
DAYS = [None, None, 1, 2, 30, 30, 30, 30, 31, 60, None, 5, 6, 7]


def record(token=TOKEN) -> Tokens:
    n = len(token)
    return Tokens(
        subject_id=np.array([1, 2]),
        offsets=np.array([0, 10, n]),
        prefix=np.array([2, 1]),
        token=np.array(token, np.uint16),
        time=np.array([STATIC if d is None else d * DAY_US for d in DAYS]),
        age=np.zeros(n, np.float32),
        visit=np.array(VISIT, np.uint16),
        segment=np.zeros(n, np.uint8),
    )


def question(tokens, history=1):
    objective = NextVisit(history=history)
    examples = objective.examples(tokens, None)
    windows = newest(tokens, examples.subject, examples.visible, 16, np.arange(len(examples)))
    return examples, Asker(objective, examples, 60, 0).ask(windows, 0)


def test_what_is_known_at_the_moment_a_visit_begins_is_not_shown():
    examples, asked = question(record())
    # before visit 2: neither the [SEP] nor the gap that come with it; before visit 3: all of visit 2
    assert examples.subject.tolist() == [0, 0, 1]
    assert examples.visible.tolist() == [4, 9, 3]
    found = list(zip(*(asked.targets[n].tolist() for n in ("spans", "codes")), strict=True))
    assert found == [(0, 11), (0, 12), (1, 13), (2, 21)]  # each code once; a visit of [UNK] is none
    assert asked.counts == {"loss": 3}
    assert question(record(), history=2)[0].visible.tolist() == [9, 3]


def test_nothing_from_a_visit_on_moves_what_is_shown_before_it():
    examples, before = question(record())
    begins = [4, 9, 13]
    for span, begin in enumerate(begins):
        changed = [*TOKEN[:begin], *(40 + i for i in range(len(TOKEN) - begin))]
        after = question(record(changed))[1]
        one, other = (q.batch.input_ids[q.batch.span == span] for q in (before, after))
        assert torch.equal(one, other)
        assert len(one) == examples.visible[span]


def test_average_precision_is_scikit_learns_mean_over_rows():
    rng = np.random.default_rng(0)
    logits, there = rng.normal(size=(9, 30)), rng.random((9, 30)) < 0.2
    there[:, 3] = True
    found = average_precisions(torch.tensor(logits), torch.tensor(there, dtype=torch.float64))
    assert found.mean().item() == pytest.approx(
        average_precision_score(there, logits, average="samples")
    )


def in_order(first, n):
    """Subjects whose visits have five codes in turn, each in a visit of its own."""
    return [
        {
            "subject_id": first + i,
            "token": [BOS_ID, *(10 + (i + v) % 5 for v in range(12))],
            "time": [None, *(30 * v for v in range(12))],
        }
        for i in range(n)
    ]


def test_the_loss_is_torchs_soft_margin_and_visits_in_order_are_learnt(tmp_path, monkeypatch):
    seen = []
    costs = NextVisit.loss

    def loss(self, model, states, asked):
        pairs = costs(self, model, states, asked)
        logits = self._logits(model, states, asked)
        there = torch.zeros_like(logits)
        there[asked.targets["spans"], asked.targets["codes"]] = 1
        wanted = torch.nn.MultiLabelSoftMarginLoss(reduction="sum")(logits, there)
        seen.append((pairs["loss"][0].item(), wanted.item()))
        return pairs

    monkeypatch.setattr(NextVisit, "loss", loss)
    splits = {
        split: in_order(first, n) for split, first, n in [("train", 0, 40), ("tuning", 500, 10)]
    }
    tokens = write_tokens(tmp_path / "t", splits)
    config = tiny_config(
        objective=NextVisit(pooling="last", history=2),
        optim=OptimConfig(lr=1e-2, steps=150, warmup=5),
        validation=ValidationConfig(every=150),
    )
    config = replace(config, data=replace(config.data, batch_tokens=600, micro_tokens=600))
    records = read_log(train(tokens, tmp_path / "run", config) / "metrics.jsonl")
    assert all(found == pytest.approx(wanted, rel=1e-5) for found, wanted in seen)
    assert records[-1]["val_auprc"] > 0.6  # who only counts codes has 0.46
    assert records[-1]["targets"] > 20  # visits, not codes


def test_tokens_without_visits_are_refused_in_one_line(tmp_path):
    flat = [{"subject_id": i, "token": [BOS_ID, 9], "time": [None, None]} for i in range(4)]
    few = [{"subject_id": i, "token": [BOS_ID, 9], "time": [None, 3]} for i in range(4)]
    for name, subjects, message in [
        ("flat", flat, "next_visit needs visits, but no token of the split is of one"),
        ("few", few, "no one of the train split that objective next_visit could learn from"),
    ]:
        tokens = write_tokens(tmp_path / name, {"train": subjects})
        with pytest.raises(UserError, match=message) as error:
            train(tokens, tmp_path / "run", tiny_config(objective=NextVisit()))
        assert "\n" not in str(error.value)
