"""What of a model is explained: an output of its head, a linear head on its features, or the next token."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor
from torch.nn.functional import log_softmax

from ehr_eval.explain.integrate import Target
from ehr_eval.features.read import align, read_features
from ehr_eval.heads.lr import LogisticRegressionConfig
from ehr_eval.heads.search import fit_at
from ehr_eval.heads.select import fit_predict
from ehr_eval.judge.metrics.ranked import Floats
from ehr_eval.tasks.label_tasks import read_labels
from ehr_models.checkpoint import LoadedCheckpoint
from ehr_models.data.batch import Batch
from ehr_models.heads.pooled import class_logits, pool
from ehr_models.heads.token import token_logits
from ehr_models.vocabulary import Word
from ehr_tracking.arrow.label_csv import LabelColumns
from ehr_tracking.contracts import TRAIN, TUNING, ContractError
from ehr_tracking.errors import UserError


def output_of_head(loaded: LoadedCheckpoint, output: int) -> tuple[Target, str]:
    """One output of a model's own head, before any sigmoid or softmax.

    Raises:
        UserError: If it has no such head or output, or reads measurements beside the record.
    """
    if loaded.head == "token":
        raise UserError(
            f"{loaded.directory} has a head over tokens: name a code with --code, or features with --features "
            "and --labels"
        )
    model = loaded.model
    outputs = int(model.config.num_labels or 1)
    if output >= outputs:
        raise UserError(f"output = {output}: the head has {outputs}")
    if int(getattr(model.config, "classifier_measurements", 0)):
        raise UserError(f"the head of {loaded.directory} reads measurements, which are no tokens")

    def target(states: Tensor, batch: Batch) -> Tensor:
        return class_logits(model, states, batch)[:, output]

    named: dict[Any, str] = dict(model.config.id2label or {})
    name = named.get(output, str(output)).removeprefix("LABEL_")
    return target, f"output {name} of the head (log-odds, or as its problem has it)"


def next_code(loaded: LoadedCheckpoint, code: str, words: list[Word]) -> tuple[Target, str]:
    """The log-probability that the next token is one of a code.

    Raises:
        UserError: If the model does not tell next tokens, or no token is of the code.
    """
    if loaded.head == "pooled" or loaded.kind.sees != "past":
        raise UserError(f"{loaded.directory} does not tell next tokens; leave --code out")
    ids = torch.tensor([word.id for word in words if word.code == code])
    if not len(ids):
        raise UserError(f"no token of the vocabulary is of code {code}")

    def target(states: Tensor, batch: Batch) -> Tensor:
        last = states[batch.cu_seqlens[1:].long() - 1]
        told = log_softmax(token_logits(loaded.model, last).float(), dim=-1)
        return torch.logsumexp(told[:, ids], dim=-1)

    return target, f"log-probability that {code} is the next token"


def linear_head(
    loaded: LoadedCheckpoint, features: Path, labels: Path, columns: LabelColumns
) -> tuple[Target, str]:
    """The log-odds of a logistic regression on features of the model, fitted as `ehrshot` does.

    Raises:
        ContractError: If the features are of another checkpoint, or the labels of several tasks.
    """
    found = read_features(features)
    made_from = found.manifest.inputs.get("checkpoint")
    if made_from is None or made_from.fingerprint != loaded.source.fingerprint:
        raise ContractError(
            f"{features} was not read from {loaded.directory}: give its own checkpoint"
        )
    tables = read_labels(labels, columns)
    if len(tables) != 1:
        raise ContractError(
            f"{labels} holds {len(tables)} tasks with a yes or no ({', '.join(tables)}); give the directory of one"
        )
    ((task, table),) = tables.items()
    rows = align(found, table, task=task)
    parts = []
    for split in (TRAIN, TUNING):
        part = rows.filter(pl.col("split") == split)
        y = part["boolean_value"].to_numpy().astype(bool)
        if y.all() or not y.any():
            raise ContractError(f"task {task} has one class only in {split}: no head can be fitted")
        parts.append((found.mapped.take(part["row"].to_numpy()), y))
    config = LogisticRegressionConfig()
    train, tuning = parts
    chosen = fit_predict(config, train, tuning, tuning[0])
    fit = fit_at(config, chosen.selected, *train)
    assert fit.shap is not None
    zero, one = (fit.shap(np.full((1, found.mapped.shape[1]), value))[0] for value in (0.0, 1.0))
    weight, bias = one[:-1] - zero[:-1], float(zero.sum())
    how = str(found.manifest.config["pooling"])
    return _linear(
        weight, bias, how
    ), f"log-odds of {task}, by logistic regression (C = {chosen.selected['c']:g})"


def _linear(weight: Floats, bias: float, how: str) -> Target:
    along = torch.from_numpy(weight).float()

    def target(states: Tensor, batch: Batch) -> Tensor:
        pooled = pool(states, batch.cu_seqlens, how, input_ids=batch.input_ids)
        return pooled.float() @ along + bias

    return target
