"""Several binary labels at once."""

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic.dataclasses import dataclass

from ehr_models.heads.config import Problem
from ehr_tracking.config import STRICT, ConfigError
from ehr_train import figures
from ehr_train.data.codes import Codes
from ehr_train.data.examples import Examples
from ehr_train.objectives.parts import Score
from ehr_train.objectives.pooled import PooledObjective, both_classes, named

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel


@dataclass(frozen=True, kw_only=True, config=STRICT)
class MultiLabel(PooledObjective):
    """Several binary labels at a prediction time, each with its logit; their mean is the loss of a row."""

    kind: Literal["multilabel"] = "multilabel"
    labels: tuple[str, ...] | None = None
    """Their names; where not given, the tasks of --labels in order."""
    pos_weight: tuple[float, ...] | Literal["balanced"] | None = None
    """Weight of positive rows of each label; `balanced` is negatives / positives of the train rows."""
    problem: ClassVar[Problem] = "multilabel"
    labelled: ClassVar[Problem | None] = "multilabel"
    figures: ClassVar[tuple[str, ...]] = ("loss", "auroc", "auprc", "f1", "accuracy")
    score: ClassVar[Score] = Score("auroc", "max")

    @property
    def outputs(self) -> int:
        """One for each label."""
        assert self.labels is not None
        return len(self.labels)

    def fitted(self, train: Examples, codes: Codes | None = None) -> Self:
        """With the names of the labels and the weights of their positive rows.

        Raises:
            ConfigError: If a label has one class, or names or weights are not as many.
        """
        assert train.label is not None
        if self.labels not in (None, train.names):
            raise ConfigError(
                f"objective.labels = {', '.join(self.labels or ())}, but there are labels of "
                f"{', '.join(train.names)}"
            )
        counts = [
            both_classes(column > 0, f"label {name}")
            for name, column in zip(train.names, train.label.T, strict=True)
        ]
        weight = self.pos_weight
        if weight == "balanced":
            weight = tuple(negative / positive for negative, positive in counts)
        if weight is not None and len(weight) != len(train.names):
            raise ConfigError(
                f"objective.pos_weight has {len(weight)} weights for {len(train.names)} labels"
            )
        return replace(super().fitted(train, codes), labels=train.names, pos_weight=weight)

    def attach(self, model: "PreTrainedModel") -> "PreTrainedModel":
        """The backbone below a new head, its outputs named."""
        return named(super().attach(model), self.labels)

    def costs(self, model: "PreTrainedModel", logits: "Tensor", labels: "Tensor") -> "Tensor":  # noqa: ARG002 -- the same in each
        """Mean over labels of their binary cross-entropies."""
        import torch
        import torch.nn.functional as F

        weight = torch.tensor(self.pos_weight, device=logits.device) if self.pos_weight else None
        each = F.binary_cross_entropy_with_logits(
            logits, labels, pos_weight=weight, reduction="none"
        )
        return each.mean(1)

    def metrics(
        self,
        means: Mapping[str, float],
        scores: npt.NDArray[np.float64] | None,
        examples: Examples,
    ) -> dict[str, float]:
        """`loss`, `accuracy` over all labels, and those of `figures.macro`."""
        assert examples.label is not None
        assert scores is not None
        positive, said = examples.label > 0, scores > 0
        right = float((positive == said).mean())
        return {"loss": means["loss"], "accuracy": right, **figures.macro(positive, scores, said)}
