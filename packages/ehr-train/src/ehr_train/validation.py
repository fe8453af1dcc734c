"""What a model makes of subjects it does not learn from: the same question every time."""

import math

import numpy as np
import numpy.typing as npt
import torch

from ehr_models.data.windows import newest
from ehr_train.config import TrainConfig
from ehr_train.data.sampler import Examples, packs, share
from ehr_train.objectives.asking import Asker, Learner
from ehr_train.scale import group

_EPOCH = -1
"""Masks of the validation: of no epoch of the training, and always the same."""


class Validator:
    """Measures a model on the tuning split, shared out over the processes."""

    def __init__(
        self, examples: Examples, config: TrainConfig, vocab_size: int, device: torch.device
    ) -> None:
        self.examples = examples
        self.device = device
        self.precision = config.precision
        self.asker = Asker(config.objective, examples, vocab_size, config.seed)
        windows = newest(examples.tokens, examples.subject, examples.visible, config.data.context)
        mine = share(windows, group.rank(), group.world())
        self.packs = list(packs(mine, config.data.micro_tokens))

    @torch.no_grad()
    def measure(self, learner: Learner) -> dict[str, float]:
        """Loss per target and, by objective, accuracy and perplexity, or AUROC where it is defined.

        Every process must call it; all get the same figures.
        """
        learner.eval()
        labelled = self.examples.label is not None
        sums = torch.zeros(3, dtype=torch.float64)
        scores = torch.zeros(len(self.examples) if labelled else 0, dtype=torch.float64)
        for windows in self.packs:
            question = self.asker.ask(windows, _EPOCH).to(self.device)
            with autocast(self.precision, self.device):
                loss, answer = learner(question)
            right = 0.0 if labelled else float(answer)
            sums += torch.tensor([float(loss), len(question.rows), right], dtype=torch.float64)
            if labelled:
                scores[question.examples] = answer.double().cpu()
        learner.train()
        loss_sum, targets, right = group.total_on(sums, self.device).tolist()
        metrics = {"val_loss": loss_sum / max(targets, 1)}
        if self.examples.label is None:
            metrics["val_accuracy"] = right / max(targets, 1)
            metrics["val_perplexity"] = math.exp(min(metrics["val_loss"], 700.0))
            return metrics
        area = auroc(self.examples.label > 0, group.total_on(scores, self.device).numpy())
        return metrics if area is None else {**metrics, "val_auroc": area}


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """The context in which a model computes."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


def auroc(positive: npt.NDArray[np.bool_], score: npt.NDArray[np.float64]) -> float | None:
    """Probability that a positive scores above a negative, ties counted half; None without both.

    Examples:
        >>> auroc(np.array([False, False, True, True]), np.array([0.1, 0.4, 0.4, 0.8]))
        0.875
    """
    n_positive = int(positive.sum())
    n_negative = len(positive) - n_positive
    if not n_positive or not n_negative:
        return None
    _, rank, count = np.unique(score, return_inverse=True, return_counts=True)
    middle = np.cumsum(count) - (count - 1) / 2  # mean rank, from 1, among equal scores
    above = float(middle[rank][positive].sum()) - n_positive * (n_positive + 1) / 2
    return above / (n_positive * n_negative)
