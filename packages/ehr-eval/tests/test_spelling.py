"""From tokens to events, against cases counted by hand."""

import json
import math

import numpy as np
import pytest
import torch

from ehr_eval.generate.spelling import NOTHING, Spelling, Told, read_edges
from ehr_models.vocabulary import Word
from ehr_tracking.contracts import ContractError

ROWS = [  # token, kind, code, bin, bounds
    ("[PAD]", "special"),
    ("[UNK]", "special"),
    ("TIME//1d-2d", "time"),
    ("ADM", "code", "ADM"),
    ("LAB//K", "code", "LAB//K"),
    ("Q1", "bin", None, 1),
    ("Q2", "bin", None, 2),
    ("Q3", "bin", None, 3),
    ("ICD10CM//E11", "code", "ICD10CM//E11"),
    ("ICD10CM//3-6//.65", "part"),
    ("ICD10CM//SFX//A", "part"),
    ("LAB//NA//Q2", "value", "LAB//NA", 2, 135.0, 145.0),
    ("CULTURE || negative", "category", "CULTURE"),
    ("AGE//60", "age"),
]
IDS = {row[0]: i for i, row in enumerate(ROWS)}


def word(i, token, kind, code=None, number=None, lower=None, upper=None):
    none = {"count": 0, "subjects": 0, "description": None, "parents": None}
    return Word(
        id=i, token=token, kind=kind, code=code, bin=number, lower=lower, upper=upper, **none
    )


@pytest.fixture
def spelling():
    words = [word(i, *row) for i, row in enumerate(ROWS)]
    return Spelling(words, {"LAB//K": [3.5, 5.0]})


@pytest.mark.parametrize(
    ("tokens", "told"),
    [
        (["ADM"], [Told("ADM")]),
        (["LAB//K", "Q1"], [Told("LAB//K"), Told("LAB//K", upper=3.5)]),
        (["LAB//K", "Q2"], [Told("LAB//K"), Told("LAB//K", 3.5, 5.0)]),
        (["LAB//K", "Q3", "Q1"], [Told("LAB//K"), Told("LAB//K", 5.0), Told("LAB//K", 5.0)]),
        (["LAB//NA//Q2", "Q1"], [Told("LAB//NA", 135.0, 145.0)] * 2),
        (["CULTURE || negative"], [Told("CULTURE")]),
        (["ADM", "Q3"], [Told("ADM"), Told("ADM")]),  # it has no bins
        (["TIME//1d-2d", "Q3", "ICD10CM//3-6//.65", "Q1"], [None] * 4),
        (["[UNK]", "AGE//60"], [None, None]),
        (
            ["ICD10CM//E11", "ICD10CM//3-6//.65", "ICD10CM//SFX//A", "TIME//1d-2d"],
            [Told("ICD10CM//E11"), Told("ICD10CM//E11.65"), Told("ICD10CM//E11.65A"), None],
        ),
    ],
)
def test_tokens_tell_what_was_written(spelling, tokens, told):
    state, found = NOTHING, []
    for token in tokens:
        state = spelling.next(state, IDS[token])
        found.append(spelling.told(state))
    assert found == told


def test_rows_are_followed_each_by_itself_and_a_state_is_made_once(spelling):
    rng = np.random.default_rng(0)
    tokens = torch.from_numpy(rng.integers(0, len(ROWS), (40, 12)))
    states = torch.full((40,), NOTHING)
    for t in range(12):
        states = spelling.follow(states, tokens[:, t])
    made = len(spelling)
    alone = []
    for row in tokens.tolist():
        state = NOTHING
        for token in row:
            state = spelling.next(state, token)
        alone.append(state)
    assert states.tolist() == alone
    assert len(spelling) == made


def test_events_are_the_longest_runs_of_tokens_that_belong_together(spelling):
    rng = np.random.default_rng(1)
    token = rng.integers(0, len(ROWS), 400)
    row = np.sort(rng.integers(0, 9, 400))
    found = spelling.events(token, row)
    expected, state, before = [], NOTHING, -1
    for at, (t, r) in enumerate(zip(token.tolist(), row.tolist(), strict=True)):
        more = ROWS[t][1] in {"part", "bin"} and r == before
        state = spelling.next(state if r == before else NOTHING, t)
        if more and state != NOTHING:
            expected[-1] = (expected[-1][0], at, state)
        elif state != NOTHING:
            expected.append((at, at, state))
        before = r
    assert list(zip(*(x.tolist() for x in found), strict=True)) == expected
    assert len(expected) > 50


def test_the_number_of_a_bin_lies_in_it():
    for lower, upper in [(-math.inf, 3.5), (3.5, 5.0), (5.0, math.inf), (-math.inf, 0.0)]:
        value = Told("K", lower, upper).value
        assert lower <= value < upper
        assert np.float32(value) == value
    assert Told("K", 5.0).value > 5.0  # the bin lies above its bound


def test_edges_are_those_of_the_tokenizer(tmp_path):
    (tmp_path / "tokenizer.json").write_text(json.dumps({"edges": {"LAB//K": [1, 2.5]}}))
    assert read_edges(tmp_path) == {"LAB//K": [1.0, 2.5]}
    (tmp_path / "tokenizer.json").write_text("[]")
    with pytest.raises(ContractError, match="is no tokenizer"):
        read_edges(tmp_path)
