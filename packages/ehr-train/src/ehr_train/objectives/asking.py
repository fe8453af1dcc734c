"""What a model is asked of a packed batch, and the sum of its losses.

S spans, T tokens, M targets, V vocabulary, D width. The loss of a step is a sum over targets divided
by the number of targets of *all* processes and passes; so every function here returns sums.
"""

from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from ehr_models import heads
from ehr_models.data.batch import Batch, pack
from ehr_models.data.tokens import MASK, PAD, SPECIALS, STATIC, Tokens
from ehr_models.data.windows import Windows
from ehr_train.config import MLM, Objective
from ehr_train.data import draws
from ehr_train.data.sampler import Examples

_CHOICE, _KIND, _REPLACEMENT = 11, 12, 13  # so that three uses of one seed draw differently
_LOGITS = 2**25
"""Most logits held at once: 128 MB in fp32."""


@dataclass(frozen=True, slots=True, eq=False)
class Question:
    """A batch and what the model has to say about it."""

    batch: Batch
    rows: Tensor
    """[M] int64: tokens (or spans, in classification) where an answer is asked."""
    answers: Tensor
    """[M] token ids as int64, or labels 0/1 as float32."""
    examples: Tensor
    """[S] int64 example of each span."""

    def to(self, device: torch.device) -> Self:
        """The same on another device."""
        return replace(
            self,
            batch=self.batch.to(device),
            rows=self.rows.to(device, non_blocking=True),
            answers=self.answers.to(device, non_blocking=True),
        )


class Asker:
    """Makes questions; equal windows in equal epochs give equal questions on any process."""

    def __init__(
        self, objective: Objective, examples: Examples, vocab_size: int, seed: int
    ) -> None:
        self.objective = objective
        self.examples = examples
        self.vocab_size = vocab_size
        self.seed = seed

    def ask(self, windows: Windows, epoch: int) -> Question:
        """One question over the given windows.

        Args:
            windows: Laid end to end in this order.
            epoch: Masks change with it.
        """
        tokens = self.examples.tokens
        batch = pack(tokens, windows)
        examples = torch.from_numpy(windows.example)
        if self.examples.label is not None:
            labels = torch.from_numpy(self.examples.label[windows.example])
            return Question(batch, torch.arange(len(windows)), labels, examples)
        ids, index, span = batch.input_ids.numpy(), batch.index.numpy(), batch.span.numpy()
        if isinstance(self.objective, MLM):
            subject = tokens.subject_id[self.examples.subject[windows.example]]
            key = (self.seed, epoch, subject[span], index - windows.first[span])
            rows, shown = mask_tokens(ids, span, key, self.objective, self.vocab_size)
            batch = replace(batch, input_ids=torch.from_numpy(shown))
            return Question(batch, torch.from_numpy(rows), torch.from_numpy(ids[rows]), examples)
        rows = next_token_rows(ids, index, span, tokens)
        return Question(batch, torch.from_numpy(rows), torch.from_numpy(ids[rows + 1]), examples)


def mask_tokens(
    ids: npt.NDArray[np.int64],
    span: npt.NDArray[np.int64],
    key: tuple[npt.ArrayLike, ...],
    objective: MLM,
    vocab_size: int,
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Choose targets among the ordinary tokens of each span, and what is shown in their place.

    Args:
        ids: [T]
        span: [T], never decreasing.
        key: Of the draws of each token: parts that broadcast to [T].
        objective: Shares and cap.
        vocab_size: Random replacements are drawn from the ordinary tokens below it.

    Returns:
        The targets [M] and the ids with their replacements [T].

    Source:
        Devlin et al., BERT, NAACL 2019, 3.1.
    """
    ordinary = np.flatnonzero(ids >= len(SPECIALS))
    if len(ordinary) == 0:
        return ordinary, ids
    chance = np.broadcast_to(draws.bits(*key, _CHOICE), ids.shape)[ordinary]
    order = np.lexsort((chance, span[ordinary]))
    # the first n of each span in this order are its targets
    _, starts, counts = np.unique(span[ordinary], return_index=True, return_counts=True)
    rank = np.arange(len(ordinary)) - np.repeat(starts, counts)
    n = np.maximum(1, np.rint(objective.mask * counts)).astype(np.int64)
    n = n if objective.max_masked is None else np.minimum(n, objective.max_masked)
    rows = np.sort(ordinary[order[rank < np.repeat(n, counts)]])

    kind = np.broadcast_to(draws.uniform(*key, _KIND), ids.shape)[rows]
    other = np.broadcast_to(draws.below(vocab_size - len(SPECIALS), *key, _REPLACEMENT), ids.shape)[
        rows
    ]
    shown = ids.copy()
    shown[rows] = np.where(
        kind < objective.replaced,
        MASK,
        np.where(kind < objective.replaced + objective.random, len(SPECIALS) + other, ids[rows]),
    )
    return rows, shown


def next_token_rows(
    ids: npt.NDArray[np.int64],
    index: npt.NDArray[np.int64],
    span: npt.NDArray[np.int64],
    tokens: Tokens,
) -> npt.NDArray[np.int64]:
    """The tokens [M] whose successor is to be forecast.

    The successor must be of the same span, next to it in the record (behind the prefix of a window that
    is cut comes a gap), and an event: static tokens are known from the start and [PAD] is nothing.
    """
    asked = (
        (span[1:] == span[:-1])
        & (index[1:] == index[:-1] + 1)
        & (tokens.time[index[1:]] != STATIC)
        & (ids[1:] != PAD)
    )
    return np.flatnonzero(asked)


class Learner(nn.Module):
    """A model with its loss, so that one `forward` is all that data parallelism has to wrap."""

    def __init__(self, model: PreTrainedModel, pos_weight: float | None = None) -> None:
        """Wrap a model.

        Args:
            model: Of the zoo, with a head.
            pos_weight: Of positive labels; None where tokens are predicted.
        """
        super().__init__()
        self.model = model
        self.pos_weight = pos_weight

    def forward(self, question: Question) -> tuple[Tensor, Tensor]:
        """The sum of the losses, and how the answers did.

        Returns:
            The loss, summed over targets, fp32; and the number of targets whose likeliest token is
            right (a scalar, counted in evaluation mode only), or the logits of the labels [S].
        """
        if self.pos_weight is not None:
            logits = heads.classify(self.model, question.batch)[:, 0].float()
            weight = torch.tensor(self.pos_weight, device=logits.device)
            loss = F.binary_cross_entropy_with_logits(
                logits, question.answers, pos_weight=weight, reduction="sum"
            )
            return loss, logits.detach()
        states_TD = heads.hidden_states(self.model, question.batch)
        return token_loss(self.model, states_TD[question.rows], question.answers)


def token_loss(model: PreTrainedModel, rows_MD: Tensor, answers: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropy summed over targets, and how many were right.

    Only targets become logits; beyond `_LOGITS` of them at once they are made again in the backward
    pass rather than held.
    """
    size = max(1, _LOGITS // int(model.config.vocab_size))

    def part(rows: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
        logits_MV = heads.token_logits(model, rows).float()
        right = torch.zeros((), dtype=torch.int64, device=rows.device)
        if not model.training:
            right = (logits_MV.argmax(-1) == wanted).sum()
        return F.cross_entropy(logits_MV, wanted, reduction="sum"), right

    if len(rows_MD) <= size:
        return part(rows_MD, answers)
    parts = [
        checkpoint(part, rows, wanted, use_reentrant=False)
        for rows, wanted in zip(torch.split(rows_MD, size), torch.split(answers, size), strict=True)
    ]
    return torch.stack([p[0] for p in parts]).sum(), torch.stack([p[1] for p in parts]).sum()
