"""Membership inference: whether what a model says of a record tells that it was trained on it.

Two scores of a subject, higher for members: the mean log-probability of its tokens (Yeom et al., 2018), and that of the
least probable share of them alone, Min-K% (Shi et al., 2024), which forgives what everybody could guess. Each takes one pass;
the area under the curve of train against held-out subjects is .5 where nothing is told.

N subjects, T tokens.
"""
# transformers and torch leave some methods untyped
# mypy: allow-untyped-calls

from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch.nn.functional import log_softmax

from ehr_eval.explain.config import PrivacyConfig
from ehr_eval.features.reader import context_of
from ehr_eval.judge.ranks import auroc
from ehr_models.checkpoint import LoadedCheckpoint
from ehr_models.data.batch import Batch, pack
from ehr_models.data.tokens import Tokens
from ehr_models.data.windows import fill, newest
from ehr_models.heads.token import hidden_states, token_logits
from ehr_tracking.contracts import SPECIALS
from ehr_tracking.errors import UserError

Floats = npt.NDArray[np.float64]


class Area(NamedTuple):
    """How well a score parts members from others."""

    value: float
    lower: float
    upper: float


class Told(NamedTuple):
    """Scores of some subjects."""

    loss: Floats
    """[N] mean log-probability of their tokens."""
    min_k: Floats
    """[N] of the least probable of them."""


def score_subjects(
    loaded: LoadedCheckpoint, tokens: Tokens, row: npt.NDArray[np.int64], config: PrivacyConfig
) -> Told:
    """What a model says of records.

    Args:
        loaded: A causal model with a head over tokens.
        tokens: One split.
        row: [N] rows of it with two tokens or more; others get NaN.
        config: Share of Min-K%, context, batches.

    Raises:
        UserError: If the model does not tell next tokens.
    """
    if loaded.head == "pooled" or loaded.kind.sees != "past":
        raise UserError(
            f"{loaded.directory} does not tell next tokens: membership is tested on causal models with a head over tokens"
        )
    length = tokens.offsets[row + 1] - tokens.offsets[row]
    windows = newest(tokens, row, length, context_of(loaded, config.context))
    order = np.argsort(windows.length, kind="stable")
    order = order[windows.length[order] > 1]
    loss, min_k = np.full(len(row), np.nan), np.full(len(row), np.nan)
    bounds = fill(windows.length[order], config.batch_tokens)
    for first, last in pairwise(bounds):
        part = order[first:last]
        batch = pack(tokens, windows.take(part))
        for i, said in zip(part, _log_probabilities(loaded, batch), strict=True):
            if len(said):
                loss[i] = said.mean()
                least = max(1, round(config.k * len(said)))
                min_k[i] = np.partition(said, least - 1)[:least].mean()
    return Told(loss, min_k)


@torch.inference_mode()
def _log_probabilities(loaded: LoadedCheckpoint, batch: Batch) -> Iterator[Floats]:
    """Of each span the log-probabilities of its tokens but the first, special ones apart."""
    states, ids = hidden_states(loaded.model, batch), batch.input_ids
    ends = batch.cu_seqlens.tolist()
    for start, stop in pairwise(ends):
        told = log_softmax(token_logits(loaded.model, states[start : stop - 1]).float(), dim=-1)
        asked = ids[start + 1 : stop]
        said = told.gather(1, asked[:, None])[:, 0]
        yield said[asked >= len(SPECIALS)].double().numpy()


def area(members: Floats, others: Floats, *, bootstraps: int, seed: int) -> Area:
    """AUROC of members against others, with an interval over resampled subjects.

    Args:
        members: [N] scores.
        others: [M] scores.
        bootstraps: Resamples of either.
        seed: Of them.

    Examples:
        >>> area(np.array([3.0, 4.0]), np.array([1.0, 2.0]), bootstraps=10, seed=0)
        Area(value=1.0, lower=1.0, upper=1.0)
    """
    label = np.arange(len(members) + len(others)) < len(members)
    rng = np.random.default_rng(seed)
    drawn = [
        part[rng.integers(len(part), size=(len(part), bootstraps))] for part in (members, others)
    ]
    values = auroc(np.concatenate(drawn), label)
    whole = auroc(np.concatenate([members, others])[:, None], label)[0]
    lower, upper = np.percentile(values, [2.5, 97.5])
    return Area(float(whole), float(lower), float(upper))
