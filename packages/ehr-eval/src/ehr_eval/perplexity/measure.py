"""The loss of each token of records, in windows that slide over them.

N subjects, T tokens of them, M targets of a batch, V vocabulary.
"""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from tqdm import tqdm
from transformers import PreTrainedModel

from ehr_eval.parts import read_part, write_part
from ehr_models.data.batch import Batch, pack
from ehr_models.data.tokens import STATIC, Tokens
from ehr_models.data.windows import Windows, every_chunk, fill
from ehr_models.heads.token import hidden_states, token_logits
from ehr_models.precision import autocast
from ehr_tracking.contracts import PAD_ID, UNK_ID

_PASSES = 32
"""Forward passes whose losses are kept together: half a minute's work, or so."""
_LOGITS = 2**25
"""Most logits held at once: 128 MB in fp32."""
_SMOOTH = 250
Floats = npt.NDArray[np.float64]


class Losses(NamedTuple):
    """Of tokens that were asked for."""

    subject: npt.NDArray[np.int64]
    """[T] row of the split."""
    position: npt.NDArray[np.int64]
    """[T] place in the record, from 0."""
    loss: Floats
    """[T] minus the logarithm of the chance that the model gave it."""


_NONE = Losses(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))


@torch.inference_mode()
def losses(
    model: PreTrainedModel,
    tokens: Tokens,
    subject: npt.NDArray[np.int64],
    *,
    context: int,
    stride: int,
    batch_tokens: int,
    precision: str,
    parts: Path,
) -> Losses:
    """What each token of whole records costs a causal model.

    Asked for is what training asks for: tokens with a time, but no [PAD] and no [UNK]; each once, in the
    first window that shows it. Some passes at a time are kept when they are done, and not done again.

    Args:
        model: With a head over tokens, in evaluation mode.
        tokens: One split.
        subject: Rows of it.
        context: Most tokens of a window.
        stride: Tokens that each window behind a record's first asks for.
        batch_tokens: Most of a pass.
        precision: As `resolve_precision` gives it.
        parts: Folder of what is done, of these very arguments.

    Returns:
        By subject and position.
    """
    length = (tokens.offsets[1:] - tokens.offsets[:-1])[subject]
    windows = every_chunk(tokens, subject, length, context, subject, stride=stride)
    windows = windows.take(np.argsort(windows.length, kind="stable"))
    passes = list(pairwise(fill(windows.length, batch_tokens)))
    found = []
    with tqdm(total=len(passes), unit="pass", desc="reading", disable=None) as bar:
        for first in range(0, len(passes), _PASSES):
            some = passes[first : first + _PASSES]
            path = parts / f"{first:08d}.safetensors"
            kept = read_part(path)
            if kept is None:
                told = []
                for each in some:
                    told.append(_of_pass(model, tokens, windows.take(slice(*each)), precision))
                    bar.update()
                write_part(path, _joined(told)._asdict())
            else:
                told = [Losses(**kept[0])]
                bar.update(len(some))
            found += told
    row, place, loss = _joined(found)
    order = np.lexsort((place, row))
    return Losses(row[order], place[order], loss[order])


def _joined(found: Sequence[Losses]) -> Losses:
    subject, position, loss = zip(_NONE, *found, strict=True)
    return Losses(np.concatenate(subject), np.concatenate(position), np.concatenate(loss))


def _of_pass(model: PreTrainedModel, tokens: Tokens, windows: Windows, precision: str) -> Losses:
    """The losses of windows that fit one forward pass."""
    batch, device = pack(tokens, windows), next(model.parameters()).device
    rows = _asked(batch, windows)
    if not len(rows):
        return _NONE
    with autocast(precision, device):
        states = hidden_states(model, batch.to(device))
        told = [
            F.cross_entropy(
                token_logits(model, states[part]).float(),
                batch.input_ids[part + 1].to(device),
                reduction="none",
            )
            for part in torch.split(
                torch.from_numpy(rows), max(1, _LOGITS // int(model.config.vocab_size))
            )
        ]
    span = batch.span.numpy()[rows]
    place = batch.index.numpy()[rows + 1] - windows.first[span]
    return Losses(windows.example[span], place, torch.cat(told).double().cpu().numpy())


def _asked(batch: Batch, windows: Windows) -> npt.NDArray[np.int64]:
    """[M] the tokens of a batch whose successor is asked for."""
    ids, span, time, index = (
        t.numpy() for t in (batch.input_ids, batch.span, batch.time, batch.index)
    )
    asked = windows.asks_of(index, span) & (time != STATIC) & (ids != PAD_ID) & (ids != UNK_ID)
    behind = (span[1:] == span[:-1]) & (index[1:] == index[:-1] + 1)
    return np.flatnonzero(asked[1:] & behind)


class Curve(NamedTuple):
    """Of positions that enough subjects have. P of them."""

    position: npt.NDArray[np.int64]
    """[P]"""
    subjects: npt.NDArray[np.int64]
    """[P]"""
    perplexity: Floats
    """[P] median over subjects."""
    smoothed: Floats
    """[P] running mean of that."""


def by_position(found: Losses, *, least: int, smooth: int | None) -> Curve:
    """The median perplexity of each position, and a running mean of it.

    Args:
        found: Each position of a subject once.
        least: Subjects that a position needs.
        smooth: Positions of the running mean, centred; at the ends of those that are there. None: a tenth
            of them, at most 250.

    Examples:
        >>> row, place = np.array([0, 0, 1, 1, 2]), np.array([1, 2, 1, 2, 1])
        >>> c = by_position(Losses(row, place, np.log([2.0, 4, 8, 6, 3])), least=2, smooth=3)
        >>> c.position.tolist(), c.subjects.tolist(), c.perplexity.round(6).tolist(), c.smoothed.round(6).tolist()
        ([1, 2], [3, 2], [3.0, 5.0], [4.0, 4.0])
    """
    order = np.lexsort((found.loss, found.position))
    position, start, count = np.unique(found.position[order], return_index=True, return_counts=True)
    each = np.exp(found.loss[order])
    low, high = start + (count - 1) // 2, start + count // 2
    median = (each[low] + each[high]) / 2 if len(each) else np.zeros(0)
    kept = count >= least
    position, count, median = position[kept], count[kept], median[kept]
    smooth = smooth or min(max(len(position) // 10, 1), _SMOOTH)
    first = np.searchsorted(position, position - (smooth - 1) // 2)
    last = np.searchsorted(position, position + smooth // 2, side="right")
    total = np.concatenate([[0.0], np.cumsum(median)])
    return Curve(position, count, median, (total[last] - total[first]) / (last - first))
