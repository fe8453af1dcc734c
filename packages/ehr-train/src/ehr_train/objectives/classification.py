"""A binary label."""

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field
from pydantic.dataclasses import dataclass

from ehr_models.heads.config import PooledConfig
from ehr_models.kinds.record import HeadName
from ehr_tracking.config import STRICT, ConfigError
from ehr_train.data.examples import Examples
from ehr_train.objectives.parts import Asked, Material, Pairs, Question, Score, Sees

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from ehr_models.data.batch import Batch


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Classification(PooledConfig):
    """A binary label at a prediction time, from what was visible then."""

    kind: Literal["classification"] = "classification"
    backbone: Literal["full", "frozen"] = "full"
    """Train everything, or the head alone."""
    pos_weight: Annotated[float, Field(gt=0)] | Literal["balanced"] = 1.0
    """Weight of positive rows; `balanced` is negatives / positives of the train rows."""
    head: ClassVar[HeadName] = "pooled"
    sees: ClassVar[Sees | None] = None
    hides: ClassVar[bool] = False
    labelled: ClassVar[bool] = True
    score: ClassVar[Score] = Score("auroc", "max")
    weights: ClassVar[Mapping[str, float]] = {"loss": 1.0}

    def fitted(self, train: Examples) -> Self:
        """With the weight of positive rows as a number.

        Raises:
            ConfigError: If it shall balance the classes and one of them is empty.

        Examples:
            >>> from types import SimpleNamespace
            >>> train = SimpleNamespace(label=np.array([0, 0, 0, 1], np.float32))
            >>> Classification(pos_weight="balanced").fitted(train).pos_weight
            3.0
        """
        if self.pos_weight != "balanced" or train.label is None:
            return self
        positive = int((train.label > 0).sum())
        if not 0 < positive < len(train.label):
            raise ConfigError("pos_weight = balanced: the train labels are all of one class")
        return replace(self, pos_weight=(len(train.label) - positive) / positive)

    def attach(self, model: "PreTrainedModel") -> "PreTrainedModel":
        """The backbone below a new pooled head with one output."""
        from ehr_models.heads.pooled import build_classifier

        return build_classifier(model, 1, self, problem="binary")

    def freeze(self, model: "PreTrainedModel") -> None:
        """Keep the backbone as it is, if it shall be."""
        if self.backbone == "frozen":
            model.base_model.requires_grad_(False)

    def ask(self, batch: "Batch", material: Material, epoch: int) -> Asked:  # noqa: ARG002 -- the same in each
        """The label of each span."""
        assert material.examples.label is not None  # `labelled` objectives get such examples
        labels = material.examples.label[material.windows.example]
        return Asked({"labels": labels}, {"loss": len(labels)})

    def loss(self, model: "PreTrainedModel", states: "Tensor", question: Question) -> Pairs:
        """Binary cross-entropy."""
        import torch
        import torch.nn.functional as F

        logits, labels = self.scores(model, states, question), question.targets["labels"]
        weight = None
        if isinstance(self.pos_weight, float) and self.pos_weight != 1:
            weight = torch.full((), self.pos_weight, device=logits.device)
        total = F.binary_cross_entropy_with_logits(
            logits, labels, pos_weight=weight, reduction="sum"
        )
        return {"loss": (total, len(labels))}

    def scores(self, model: "PreTrainedModel", states: "Tensor", question: Question) -> "Tensor":
        """The logit of each span [S]."""
        from ehr_models.heads.pooled import class_logits

        return class_logits(model, states, question.batch)[:, 0].float()

    def metrics(
        self,
        means: Mapping[str, float],
        scores: npt.NDArray[np.float64] | None,
        examples: Examples,
    ) -> dict[str, float]:
        """`loss` and, where there are both classes, `auroc`."""
        assert examples.label is not None
        assert scores is not None
        area = auroc(examples.label > 0, scores)
        return {"loss": means["loss"]} if area is None else {"loss": means["loss"], "auroc": area}


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
