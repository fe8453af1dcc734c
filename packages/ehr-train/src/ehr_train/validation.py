"""What a model makes of subjects it does not learn from: the same question every time."""

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import torch

from ehr_models.data.windows import Windows, fill, newest
from ehr_models.precision import autocast
from ehr_train.config import TrainConfig
from ehr_train.data import draws
from ehr_train.data.examples import Examples
from ehr_train.data.loader import Ahead, Share
from ehr_train.data.sampler import Position
from ehr_train.objectives.asker import Asker
from ehr_train.objectives.learner import UNNAMED, Learner
from ehr_train.scale import group

_EPOCH = -1
"""Masks of the validation: of no epoch of the training, and always the same."""
_DRAWN = 31  # so that two uses of one seed draw differently


def measured(examples: Examples, context: int, max_tokens: int | None, seed: int) -> Examples:
    """The examples that are measured on: all, or as many as hold so many tokens, and at least one.

    Which is a function of seed and subject alone.

    Args:
        examples: Of the tuning split.
        context: Most tokens of a window.
        max_tokens: Cap; None for none.
        seed: Of the run.
    """
    if max_tokens is None:
        return examples
    subject = examples.tokens.subject_id[examples.subject]
    order = draws.order(seed, _DRAWN, subject)
    total = np.cumsum(np.minimum(examples.visible[order], context))
    return examples.take(np.sort(order[: max(1, int((total <= max_tokens).sum()))]))


class Validator:
    """Measures a model on the tuning split, shared out over the processes."""

    def __init__(
        self, asker: Asker, share: Share, config: TrainConfig, device: torch.device
    ) -> None:
        """Cut what is measured on into pieces that all processes take together.

        Args:
            asker: Over the examples to measure on.
            share: The part of this process.
            config: Of the run.
            device: Where the model is.
        """
        self.asker = asker
        self.share = share
        self.config = config
        self.device = device
        examples, context = asker.examples, config.data.context
        lengths = np.minimum(examples.visible, context)
        self.bounds = fill(lengths, share.world * share.micro_tokens)

    def _pieces(self) -> Iterator[tuple[Position, Windows]]:
        examples = self.asker.examples
        for start, stop in pairwise(self.bounds):
            numbers = np.arange(start, stop)
            yield (
                Position(_EPOCH),
                newest(
                    examples.tokens,
                    examples.subject[numbers],
                    examples.visible[numbers],
                    self.config.data.context,
                    numbers,
                ),
            )

    @torch.no_grad()
    def measure(self, learner: Learner) -> dict[str, float]:
        """The figures of the objective, as `val_<name>`.

        Every process must call it; all get the same figures, and none where there is no target.
        """
        learner.eval()
        totals: dict[str, torch.Tensor] = {}
        scores: dict[str, torch.Tensor] = {}
        pieces = self.share.prepare(self._pieces(), self.asker.ask)
        with Ahead(pieces, self.config.data.ahead) as ready:
            for question in (q for piece in ready for q in piece.passes):
                with autocast(self.config.precision, self.device):
                    pairs, answers = learner.judge(question.to(self.device))
                for name, (total, count) in pairs.items():
                    pair = torch.stack([total.double(), torch.full_like(total, count).double()])
                    totals[name] = totals.get(name, 0) + pair * float(question.counted)
                for name, answer in answers.items():
                    if name not in scores:
                        shape = (len(self.asker.examples), *answer.shape[1:])
                        scores[name] = torch.zeros(shape, dtype=torch.float64)
                    if question.counted:
                        scores[name][question.example] = answer.double().cpu()
        learner.train()
        sums = group.add_up(torch.stack([totals[name] for name in sorted(totals)])).tolist()
        means = {
            n: total / count
            for n, (total, count) in zip(sorted(totals), sums, strict=True)
            if count
        }
        if not means.keys() & self.asker.objective.weights.keys():
            return {}
        every = {n: group.add_up(scores[n].to(self.device)).cpu().numpy() for n in sorted(scores)}
        found = self.asker.objective.metrics(
            means, every.get(UNNAMED, every or None), self.asker.examples
        )
        return {f"val_{name}": value for name, value in found.items()}
