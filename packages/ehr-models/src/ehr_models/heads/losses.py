"""What an answer costs, by what it means.

This file is copied beside checkpoints as their remote code: it needs torch and transformers only.

S subjects, C outputs, K intervals of time.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

PROBLEM_TYPES = {
    "binary": "multi_label_classification",
    "multiclass": "single_label_classification",
    "multilabel": "multi_label_classification",
    "regression": "regression",
    "survival": "multi_label_classification",
}
"""What transformers calls them; of a survival model `survival_edges` says that it is one."""


def problem_of(config: Any) -> str | None:  # noqa: ANN401 -- of any kind
    """What the outputs of a classifier mean; None where its configuration does not say.

    Examples:
        >>> from types import SimpleNamespace
        >>> problem_of(SimpleNamespace(problem_type="multi_label_classification", num_labels=1))
        'binary'
    """
    if getattr(config, "survival_edges", None):
        return "survival"
    given = str(getattr(config, "problem_type", None))
    if given == "multi_label_classification":
        return "binary" if config.num_labels == 1 else "multilabel"
    return {"single_label_classification": "multiclass", "regression": "regression"}.get(given)


def losses(config: Any, logits: Tensor, labels: Tensor) -> Tensor:  # noqa: ANN401 -- of any kind
    """The loss of each subject [S], in float32.

    Args:
        config: Of the classifier; where it does not say what its outputs mean, labels that are
            floats are 0/1 and others are classes.
        logits: [S, C]
        labels: [S] classes of `multiclass`; [S, C] or [S] numbers of `regression`, 0/1 of `binary`
            and `multilabel`; [S, 2] of `survival`: days, and 1 where the event came then or 0 where
            nothing is known from then on.
    """
    problem, logits = problem_of(config), logits.float()
    if problem == "survival":
        return survival_nll(logits, labels[:, 0], labels[:, 1], config.survival_edges)
    if problem is None:
        problem = "multilabel" if labels.is_floating_point() else "multiclass"
    if problem == "multiclass":
        return F.cross_entropy(logits, labels, reduction="none")
    wanted = labels.float().view_as(logits)
    if problem == "regression":
        return F.mse_loss(logits, wanted, reduction="none").mean(1)
    return F.binary_cross_entropy_with_logits(logits, wanted, reduction="none").mean(1)


def survival_nll(logits: Tensor, days: Tensor, happened: Tensor, edges: Sequence[float]) -> Tensor:
    """Negative log-likelihood [S] of discrete time: of each interval, that it was survived or not.

    -[sum over the intervals survived of log(1 - h) + happened * log h of the one of the event],
    with the hazard h = sigmoid(logit). An event in (edges[k], edges[k + 1]] is one of interval k. A
    subject that is censored has survived the intervals that it was seen to the end of, and nothing is
    said of the one in which it was lost. An event behind the last edge is one not yet come there.

    Args:
        logits: [S, K]
        days: [S] to the event, or to where nothing is known any more.
        happened: [S] 1 at an event, 0 where censored.
        edges: K + 1 ascending days, from 0.

    Examples:
        >>> logits, edges = torch.zeros(3, 2), [0.0, 30.0, 365.0]
        >>> nll = survival_nll(logits, torch.tensor([40.0, 40, 400]), torch.tensor([1, 0, 1]), edges)
        >>> (nll / torch.tensor(2.0).log()).tolist()  # each interval that is told of costs one bit
        [2.0, 1.0, 2.0]

    Source:
        Gensheimer and Narasimhan 2019, A scalable discrete-time survival model, PeerJ 7:e6257.
    """
    ends = torch.tensor(edges[1:], dtype=torch.float64, device=logits.device)
    days, happened = days.double().contiguous(), happened.bool()
    interval = torch.where(
        happened,
        torch.bucketize(days, ends, right=False),
        torch.bucketize(days, ends, right=True),
    )
    at = torch.arange(logits.shape[1], device=logits.device)
    survived, event = at < interval[:, None], (at == interval[:, None]) & happened[:, None]
    cost = F.softplus(logits) * survived + F.softplus(-logits) * event
    return cost.sum(1)
