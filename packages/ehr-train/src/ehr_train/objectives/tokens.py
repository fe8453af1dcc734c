"""Objectives that ask for tokens: their common half.

T tokens, M targets, V vocabulary, D width.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np
import numpy.typing as npt

from ehr_models.heads.config import Problem
from ehr_models.kinds.record import Forecast, HeadName
from ehr_train.data.codes import Codes
from ehr_train.data.examples import Examples, whole_records
from ehr_train.objectives.parts import Asked, Pairs, Question, Score, Sees

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from ehr_models.data.tokens import Tokens
    from ehr_train.data.labels import LabelRows

LOGITS = 2**25
"""Most logits held at once: 128 MB in fp32."""


class TokenObjective:
    """Cross-entropy of tokens at some rows; what is left to say is which (`ask`)."""

    head: ClassVar[HeadName] = "token"
    forecasts: ClassVar[tuple[Forecast, ...]] = ()
    sees: ClassVar[Sees | None] = None
    hides: ClassVar[bool] = False
    cut: ClassVar[bool] = False
    labelled: ClassVar[Problem | None] = None
    figures: ClassVar[tuple[str, ...]] = ("loss", "accuracy", "perplexity")
    score: ClassVar[Score] = Score("loss", "min")
    weights: ClassVar[Mapping[str, float]] = {"loss": 1.0}

    def examples(self, tokens: "Tokens", rows: "LabelRows | None") -> Examples:  # noqa: ARG002 -- the same in each
        """Whole records."""
        return whole_records(tokens)

    def fitted(self, train: Examples, codes: Codes | None = None) -> Self:  # noqa: ARG002 -- depends on none
        """Itself: it needs to know nothing of the examples."""
        return self

    def attach(self, model: "PreTrainedModel") -> "PreTrainedModel":
        """The model itself: it was built with such a head."""
        return model

    def loss(self, model: "PreTrainedModel", states: "Tensor", question: Question) -> Pairs:
        """The loss and, in evaluation mode, how many of the likeliest tokens are right."""
        rows, answers = question.targets["rows"], question.targets["answers"]
        total, right = cross_entropy(model, states[rows], answers)
        pairs: Pairs = {"loss": (total, len(rows))}
        return pairs if model.training else {**pairs, "accuracy": (right, len(rows))}

    def scores(self, model: "PreTrainedModel", states: "Tensor", question: Question) -> None:
        """None: sums are enough."""

    def metrics(
        self,
        means: Mapping[str, float],
        scores: npt.NDArray[np.float64] | None,  # noqa: ARG002
        examples: Examples,  # noqa: ARG002
    ) -> dict[str, float]:
        """`loss`, `accuracy` and `perplexity`."""
        perplexity = float(np.exp(min(means["loss"], 700.0)))
        return {"loss": means["loss"], "accuracy": means["accuracy"], "perplexity": perplexity}


def asked(rows: npt.NDArray[np.int64], answers: npt.NDArray[np.int64]) -> Asked:
    """What `TokenObjective.loss` needs.

    Args:
        rows: [M] tokens of the batch, each as often as it has answers.
        answers: [M] token ids.
    """
    return Asked({"rows": rows, "answers": answers}, {"loss": len(rows)})


def cross_entropy(
    model: "PreTrainedModel", rows_MD: "Tensor", answers: "Tensor"
) -> "tuple[Tensor, Tensor]":
    """Cross-entropy summed over targets, and in evaluation mode how many were right.

    Only targets become logits; beyond `LOGITS` of them at once they are made again in the backward
    pass rather than held.
    """
    import torch
    from torch.utils.checkpoint import checkpoint

    from ehr_models.heads.entropy import summed_cross_entropy
    from ehr_models.heads.token import padded_logits

    columns = int(model.config.true_vocab_size)

    def part(rows: "Tensor", wanted: "Tensor") -> "tuple[Tensor, Tensor]":
        logits_MV = padded_logits(model, rows)
        right = torch.zeros((), dtype=torch.int64, device=rows.device)
        if not model.training:
            right = (logits_MV[:, :columns].argmax(-1) == wanted).sum()
        return summed_cross_entropy(logits_MV, wanted, columns), right

    size = max(1, LOGITS // int(model.config.vocab_size))
    if len(rows_MD) <= size:
        return part(rows_MD, answers)
    parts = [
        checkpoint(part, rows, wanted, use_reentrant=False)
        for rows, wanted in zip(torch.split(rows_MD, size), torch.split(answers, size), strict=True)
    ]
    return torch.stack([p[0] for p in parts]).sum(), torch.stack([p[1] for p in parts]).sum()
