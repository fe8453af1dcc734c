import numpy as np
import pytest
import torch

from ehr_models import registry
from ehr_models.data.store import open_split
from ehr_models.data.tokens import STATIC, Tokens, open_tokens
from ehr_models.data.windows import Windows, every_chunk, newest
from ehr_tracking.config import ConfigError, load_config
from ehr_tracking.contracts import BOS_ID, MASK_ID, PAD_ID, SPECIALS, UNK_ID, ContractError
from ehr_train.config import TrainConfig
from ehr_train.data.codes import Codes
from ehr_train.data.examples import whole_records
from ehr_train.objectives import CLM, MLM, OBJECTIVES
from ehr_train.objectives import tokens as token_objectives
from ehr_train.objectives.asker import Asker
from ehr_train.objectives.learner import Learner
from ehr_train.objectives.mlm import mask_tokens
from ehr_train.run import train

from .conftest import CODES, tiny_config, write_tokens

V = 1000


def mask(ids, span, objective=None, epoch=0):
    return mask_tokens(ids, span, (5, epoch, span * 11, np.arange(len(ids))), objective or MLM(), V)


def test_targets_are_a_fifth_and_shown_as_mask_other_or_same_in_80_10_10():
    ids = np.random.default_rng(0).integers(len(SPECIALS), V, 200_000)
    span = np.repeat(np.arange(2_000), 100)
    rows, shown = mask(ids, span)
    assert len(rows) == 40_000  # exactly a fifth of each span
    masked = shown[rows] == MASK_ID
    kept = shown[rows] == ids[rows]
    other = ~masked & ~kept
    # three standard errors of a share of 40,000
    assert abs(masked.mean() - 0.8) < 0.006
    assert abs(kept.mean() - 0.1) < 0.005
    assert abs(other.mean() - 0.1) < 0.005
    assert shown[rows][other].min() == len(SPECIALS)
    assert shown[rows][other].max() == V - 1
    untouched = np.delete(np.arange(len(ids)), rows)
    np.testing.assert_array_equal(shown[untouched], ids[untouched])
    # every position of a span is a target as often as any other
    by_position = np.bincount(rows % 100, minlength=100)
    assert 320 < by_position.min() < 400 < by_position.max() < 480


def test_specials_are_neither_targets_nor_replacements():
    ids = np.tile(np.arange(14), 3_000)  # half specials
    rows, shown = mask(ids, np.repeat(np.arange(3_000), 14))
    assert ids[rows].min() >= len(SPECIALS)
    changed = shown[rows]
    assert set(changed[changed < len(SPECIALS)]) == {MASK_ID}
    specials = ids < len(SPECIALS)
    np.testing.assert_array_equal(shown[specials], ids[specials])


def test_every_span_with_an_ordinary_token_has_a_target_and_the_cap_holds():
    ids = np.array([BOS_ID, 9, BOS_ID, UNK_ID, BOS_ID, *range(10, 60)])
    span = np.array([0, 0, 1, 1, *[2] * 51])
    rows, _ = mask(ids, span, MLM(mask=0.5, max_masked=7))
    assert np.bincount(span[rows], minlength=3).tolist() == [1, 0, 7]
    assert len(mask(ids[:1], span[:1])[0]) == 0


def test_codes_that_are_spared_are_seen_and_never_asked_for(tmp_path):
    """Codes C0 to C8: half of the others are targets, whoever is beside them; one span has no other."""
    token = [
        [BOS_ID, *(len(SPECIALS) + np.array(codes))] for codes in ([0, 20, 8, 21, 22, 23], [3, 4])
    ]
    subjects = [
        {"subject_id": i, "token": ids, "time": [None, *range(len(ids) - 1)]}
        for i, ids in enumerate(token)
    ]
    token_set = open_tokens(write_tokens(tmp_path / "t", {"train": subjects}))
    tokens = open_split(token_set, "train")
    windows = newest(tokens, np.arange(2), [7, 3], 16)
    objective = MLM(mask=0.5, unmasked=("^C[0-8]$", "nowhere"), replaced=1, random=0)
    asker = Asker(objective, whole_records(tokens), token_set.vocab_size, 0, Codes(token_set))
    seen = set()
    for epoch in range(40):
        question = asker.ask(windows, epoch)
        rows = question.targets["rows"].tolist()
        assert len(rows) == question.counts["loss"] == 2  # of the four at places 2, 4, 5, 6
        assert (question.batch.input_ids == MASK_ID).nonzero()[:, 0].tolist() == rows
        seen |= {*rows}
    assert seen == {2, 4, 5, 6}


def test_a_pattern_that_is_none_is_refused_and_what_spares_all_leaves_nothing(tokens, tmp_path):
    with pytest.raises(ConfigError, match=r"'C\(' is no regular expression"):
        load_config(TrainConfig, overrides=["objective.kind=mlm", "objective.unmasked=['C(']"])
    with pytest.raises(ContractError, match="nothing in the train split that objective mlm could"):
        train(tokens, tmp_path / "run", tiny_config(objective=MLM(unmasked=("^C",))))
    assert not (tmp_path / "run").exists()


def test_of_two_tokens_or_more_one_is_always_left_as_it_was():
    span = np.array([0, 1, 1, *[2] * 17])
    rows, _ = mask(np.arange(10, 30), span, MLM(mask=1.0))
    assert np.bincount(span[rows]).tolist() == [1, 1, 16]


def test_static_masks_are_those_of_the_first_epoch_in_every_one(tokens):
    examples = whole_records(open_split(open_tokens(tokens), "train"))
    windows = newest(examples.tokens, np.arange(8), examples.visible[:8], 32)
    asked = {}
    for dynamic in (True, False):
        asker = Asker(MLM(dynamic=dynamic), examples, len(SPECIALS) + CODES, seed=1)
        asked[dynamic] = [asker.ask(windows, epoch).batch.input_ids for epoch in (0, 1, 7, -1)]
    assert torch.equal(asked[True][0], asked[False][0])
    assert all(torch.equal(asked[False][0], later) for later in asked[False][1:3])
    assert not torch.equal(asked[True][0], asked[True][1])
    assert torch.equal(asked[True][3], asked[False][3])  # of the validation


def test_masks_change_with_the_epoch_and_with_nothing_else(tokens):
    examples = whole_records(open_split(open_tokens(tokens), "train"))
    asker = Asker(MLM(), examples, len(SPECIALS) + CODES, seed=1)
    windows = newest(examples.tokens, np.arange(8), examples.visible[:8], 32)
    together = asker.ask(windows, epoch=0)
    shown = together.batch.input_ids.split(windows.length.tolist())
    for i in range(8):
        alone = asker.ask(windows.take(slice(i, i + 1)), epoch=0)
        assert torch.equal(alone.batch.input_ids, shown[i])
    other = asker.ask(windows, epoch=1)
    assert not torch.equal(other.targets["rows"], together.targets["rows"])
    assert other.counts == together.counts


def test_next_tokens_never_cross_subjects_gaps_or_static_tokens():
    times = [STATIC, STATIC, 1, 2, 3, 4, STATIC, 5, 6]
    tokens = Tokens(
        subject_id=np.array([1, 2]),
        offsets=np.array([0, 6, 9]),
        prefix=np.array([2, 1]),
        token=np.array([BOS_ID, 7, 8, 9, 10, PAD_ID, BOS_ID, 11, 12], np.uint16),
        time=np.array(times),
        age=np.zeros(9, np.float32),
        visit=np.zeros(9, np.uint16),
        segment=np.zeros(9, np.uint8),
    )
    starts = np.array([[0, 0, 6], [0, 2, 0], [0, 3, 6], [6, 5, 9]])  # first, prefix, start, stop
    windows = Windows(np.array([0, 0, 1]), *starts)
    question = Asker(CLM(), whole_records(tokens), 13, 0).ask(windows, 0)
    assert question.batch.input_ids.tolist() == [
        BOS_ID,
        7,
        8,
        9,
        10,
        PAD_ID,
        BOS_ID,
        7,
        9,
        10,
        BOS_ID,
        11,
        12,
    ]
    # 7 -> 8, 8 -> 9, 9 -> 10; behind the prefix only 9 -> 10; BOS_ID -> 11, 11 -> 12
    assert question.targets["rows"].tolist() == [1, 2, 3, 8, 10, 11]
    assert question.targets["answers"].tolist() == [8, 9, 10, 10, 11, 12]


def test_what_the_vocabulary_left_out_is_no_next_token_but_may_have_one():
    tokens = Tokens(
        subject_id=np.array([1]),
        offsets=np.array([0, 6]),
        prefix=np.array([1]),
        token=np.array([BOS_ID, 8, UNK_ID, 9, UNK_ID, UNK_ID], np.uint16),
        time=np.array([STATIC, 1, 2, 3, 4, 5]),
        age=np.zeros(6, np.float32),
        visit=np.zeros(6, np.uint16),
        segment=np.zeros(6, np.uint8),
    )
    question = Asker(CLM(), whole_records(tokens), 13, 0).ask(newest(tokens, 0, 6, 16), 0)
    assert question.targets["rows"].tolist() == [0, 2]
    assert question.targets["answers"].tolist() == [8, 9]
    assert question.counts == {"loss": 2}


def test_logits_made_in_parts_give_the_same_loss_and_gradient(tokens, monkeypatch):
    token_set = open_tokens(tokens)
    examples = whole_records(open_split(token_set, "train"))
    config = tiny_config("clm")
    model = registry.build(config.model, token_set.vocab_size).eval()
    asker = Asker(config.objective, examples, token_set.vocab_size, 0)
    windows = newest(examples.tokens, np.arange(30), [3] * 30, 32)
    question = asker.ask(windows, 0)
    found = []
    for most in (2**25, 7 * model.config.vocab_size):
        monkeypatch.setattr(token_objectives, "LOGITS", most)
        model.zero_grad()
        pairs = Learner(model, config.objective).eval()(question)
        (loss, _), (right, _) = pairs["loss"], pairs["accuracy"]
        loss.backward()
        found.append((loss.detach(), right, model.lm_head.weight.grad.clone()))
    torch.testing.assert_close(found[0], found[1])


def test_answers_of_padding_columns_do_not_exist(tokens):
    token_set = open_tokens(tokens)
    model = registry.build(tiny_config("clm").model, token_set.vocab_size)
    states = torch.zeros(2, model.config.hidden_size)
    loss, _ = token_objectives.cross_entropy(model, states, torch.tensor([8, 9]))
    # all-zero states make every real token equally likely
    assert loss.item() == pytest.approx(2 * np.log(token_set.vocab_size), rel=1e-6)


@pytest.mark.parametrize("kind", ["clm", "time", "mlm", "events"])
def test_every_chunk_of_a_record_asks_what_the_whole_record_asks_and_nothing_twice(tokens, kind):
    """Cut to contexts of 9 with a prefix of 1, against windows that hold all of each record."""
    token_set = open_tokens(tokens)
    examples = whole_records(open_split(token_set, "train"))
    every = {"mlm": {"mask": 1.0, "replaced": 0.0, "random": 0.0}, "events": {"moments": 99}}
    objective = OBJECTIVES[kind](**every.get(kind, {})).fitted(examples, Codes(token_set))
    asker = Asker(objective, examples, token_set.vocab_size, 0, Codes(token_set))

    def targets(windows):
        question = asker.ask(windows, 0)
        index = question.batch.index.numpy()[question.targets["rows"].numpy()]
        assert len(np.unique(index)) == len(index)
        return set(index.tolist())

    rows, visible = examples.subject, examples.visible
    chunks = every_chunk(examples.tokens, rows, visible, 9)
    assert len(chunks) > 2 * len(examples)
    whole, found = targets(newest(examples.tokens, rows, visible, 1000)), targets(chunks)
    if kind == "mlm":  # which leaves one token of every window as it was
        assert len(whole - found) <= len(chunks)
        assert found <= whole | {*_ordinary(examples)}
    else:
        assert found == whole


def _ordinary(examples) -> list[int]:
    return np.flatnonzero(examples.tokens.token >= len(SPECIALS)).tolist()
