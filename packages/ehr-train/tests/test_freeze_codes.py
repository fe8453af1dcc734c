"""Codes that keep the vectors that they start from, through pretraining and fine-tuning."""

from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from ehr_models.checkpoint import load_checkpoint, save_checkpoint
from ehr_models.codes.freeze import code_rows
from ehr_models.data.tokens import open_tokens
from ehr_models.registry import build
from ehr_tracking.manifest import source
from ehr_train.config import OptimConfig, TrainedConfig
from ehr_train.objectives import Classification
from ehr_train.run import train

from .conftest import tiny_config


def started(tokens, directory, config, *, frozen):
    """A checkpoint of a new model."""
    torch.manual_seed(0)
    model = build(config.model, open_tokens(tokens).vocab_size)
    model.config.freeze_codes = frozen
    directory.mkdir()
    save_checkpoint(
        directory, model, tokens, metrics={}, producer="test 0", config={}, seed=0,
        inputs={"tokens": source(tokens)},
    )  # fmt: skip
    return model


def resting(before, after):
    """Names of parameters that are the same to the bit."""
    then = dict(before.named_parameters())
    now = dict(after.named_parameters())
    return {n for n in now.keys() & then.keys() if torch.equal(now[n], then[n])}


@pytest.fixture
def labels(tmp_path):
    subjects = [*range(1000, 1020), *range(2000, 2006)]
    table = {
        "subject_id": pa.array(subjects, pa.int64()),
        "prediction_time": pa.array([10**15] * len(subjects), pa.timestamp("us")),
        "boolean_value": [s % 2 == 0 for s in subjects],
    }
    (tmp_path / "labels").mkdir()
    pq.write_table(pa.table(table), tmp_path / "labels" / "0.parquet")
    return tmp_path / "labels"


@pytest.mark.parametrize("kind", ["mlm", "clm"])
def test_frozen_rows_stay_equal_to_the_bit_and_all_else_moves(kind, tokens, labels, tmp_path):
    config = tiny_config(kind, optim=OptimConfig(lr=3e-3, steps=3))
    start = started(tokens, tmp_path / "m", config, frozen=True)
    pretrained = train(tokens, tmp_path / "pretrained", config, init=tmp_path / "m")
    pretrained_model = load_checkpoint(pretrained).model
    tied = {n for n, p in pretrained_model.named_parameters() if p is code_rows(pretrained_model)}
    assert resting(start, pretrained_model) == tied
    tuning = replace(config, objective=Classification())
    tuned = train(tokens, tmp_path / "tuned", tuning, init=pretrained, labels=labels)
    tuned_model = load_checkpoint(tuned).model
    assert torch.equal(code_rows(start), code_rows(tuned_model))
    assert resting(pretrained_model, tuned_model) == tied


@pytest.mark.parametrize(("frozen", "asked"), [(False, None), (True, "tuned")])
def test_rows_move_where_nothing_holds_them_or_a_run_says_so(tokens, tmp_path, frozen, asked):
    config = tiny_config(optim=OptimConfig(lr=3e-3, steps=3), trained=TrainedConfig(codes=asked))
    start = started(tokens, tmp_path / "m", config, frozen=frozen)
    run = train(tokens, tmp_path / "run", config, init=tmp_path / "m")
    assert resting(start, load_checkpoint(run).model) == set()
