"""One of several classes."""

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
from ehr_train.objectives.pooled import PooledObjective, named

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel


@dataclass(frozen=True, kw_only=True, config=STRICT)
class MultiClass(PooledObjective):
    """One of several classes at a prediction time."""

    kind: Literal["multiclass"] = "multiclass"
    classes: tuple[str, ...] | None = None
    """Their names; where not given, those in the labels: integers by number, else by their letters."""
    class_weights: tuple[float, ...] | Literal["balanced"] | None = None
    """Weight of the rows of each class; `balanced` is rows / (classes x rows of the class) in train.
    The loss is the weighted sum over rows divided by their number."""
    problem: ClassVar[Problem] = "multiclass"
    labelled: ClassVar[Problem | None] = "multiclass"
    figures: ClassVar[tuple[str, ...]] = ("loss", "auroc", "auprc", "f1", "accuracy")
    score: ClassVar[Score] = Score("auroc", "max")

    @property
    def outputs(self) -> int:
        """One for each class."""
        assert self.classes is not None
        return len(self.classes)

    def fitted(self, train: Examples, codes: Codes | None = None) -> Self:
        """With the names of the classes and their weights.

        Raises:
            ConfigError: If the train rows are all of one class, or names or weights do not fit.
        """
        assert train.label is not None
        if self.classes not in (None, train.names):
            raise ConfigError(
                f"objective.classes = {', '.join(self.classes or ())}, but the labels are "
                f"{', '.join(train.names)}"
            )
        rows = np.bincount(train.label, minlength=len(train.names))
        if (rows > 0).sum() < 2:
            raise ConfigError(
                f"{self.kind}: all {len(train.label):,} train rows are of class "
                f"{train.names[int(rows.argmax())]}, so there is nothing to tell apart; check the "
                "labels and the splits"
            )
        weights = self.class_weights
        if weights == "balanced":
            weights = tuple((len(train.label) / (len(rows) * np.maximum(rows, 1))).tolist())
        if weights is not None and len(weights) != len(rows):
            raise ConfigError(
                f"objective.class_weights has {len(weights)} weights for {len(rows)} classes"
            )
        return replace(super().fitted(train, codes), classes=train.names, class_weights=weights)

    def attach(self, model: "PreTrainedModel") -> "PreTrainedModel":
        """The backbone below a new head, its outputs named."""
        return named(super().attach(model), self.classes)

    def costs(self, model: "PreTrainedModel", logits: "Tensor", labels: "Tensor") -> "Tensor":
        """Cross-entropy, times the weight of the class."""
        import torch

        each = super().costs(model, logits, labels)
        if self.class_weights is None:
            return each
        return each * torch.tensor(self.class_weights, device=logits.device)[labels]

    def metrics(
        self,
        means: Mapping[str, float],
        scores: npt.NDArray[np.float64] | None,
        examples: Examples,
    ) -> dict[str, float]:
        """`loss`, `accuracy`, and of each class against the others the means of `figures.macro`."""
        assert examples.label is not None
        assert scores is not None
        # against the others by probability: logits of two rows are not to be compared
        odds = np.exp(scores - scores.max(1, keepdims=True))
        probability = odds / odds.sum(1, keepdims=True)
        classes = np.arange(scores.shape[1])
        positive, said = (x[:, None] == classes for x in (examples.label, scores.argmax(1)))
        right = float((examples.label == scores.argmax(1)).mean())
        return {
            "loss": means["loss"],
            "accuracy": right,
            **figures.macro(positive, probability, said),
        }
