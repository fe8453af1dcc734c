"""A binary label."""

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field
from pydantic.dataclasses import dataclass

from ehr_models.heads.config import Problem
from ehr_tracking.config import STRICT
from ehr_train import figures
from ehr_train.data.codes import Codes
from ehr_train.data.examples import Examples
from ehr_train.objectives.parts import Score
from ehr_train.objectives.pooled import PooledObjective, both_classes

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Classification(PooledObjective):
    """A binary label at a prediction time, from what was visible then."""

    kind: Literal["classification"] = "classification"
    pos_weight: Annotated[float, Field(gt=0)] | Literal["balanced"] = 1.0
    """Weight of positive rows; `balanced` is negatives / positives of the train rows."""
    problem: ClassVar[Problem] = "binary"
    labelled: ClassVar[Problem | None] = "binary"
    figures: ClassVar[tuple[str, ...]] = ("loss", "auroc", "auprc", "f1", "accuracy")
    score: ClassVar[Score] = Score("auroc", "max")

    def fitted(self, train: Examples, codes: Codes | None = None) -> Self:
        """With the weight of positive rows as a number.

        Raises:
            ConfigError: If all are of one class.

        Examples:
            >>> rows = np.zeros(4, int)
            >>> train = Examples(None, rows, rows, np.array([0, 0, 0, 1], np.float32))
            >>> Classification(pos_weight="balanced").fitted(train).pos_weight
            3.0
        """
        fitted = super().fitted(train, codes)
        assert train.label is not None
        negative, positive = both_classes(train.label > 0, self.kind)
        if self.pos_weight == "balanced":
            return replace(fitted, pos_weight=negative / positive)
        return fitted

    def costs(self, model: "PreTrainedModel", logits: "Tensor", labels: "Tensor") -> "Tensor":  # noqa: ARG002 -- the same in each
        """Binary cross-entropy."""
        import torch
        import torch.nn.functional as F

        weight = None
        if isinstance(self.pos_weight, float) and self.pos_weight != 1:
            weight = torch.full((), self.pos_weight, device=logits.device)
        return F.binary_cross_entropy_with_logits(
            logits[:, 0], labels, pos_weight=weight, reduction="none"
        )

    def metrics(
        self,
        means: Mapping[str, float],
        scores: npt.NDArray[np.float64] | None,
        examples: Examples,
    ) -> dict[str, float]:
        """`loss` and those of `figures.binary`."""
        assert examples.label is not None
        assert scores is not None
        return {"loss": means["loss"], **figures.binary(examples.label > 0, scores[:, 0])}
