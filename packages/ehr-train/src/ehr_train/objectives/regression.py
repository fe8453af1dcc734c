"""A number."""

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field
from pydantic.dataclasses import dataclass

from ehr_models.heads.config import Problem
from ehr_tracking.config import STRICT, ConfigError
from ehr_train import figures
from ehr_train.data.codes import Codes
from ehr_train.data.examples import Examples
from ehr_train.objectives.parts import Score
from ehr_train.objectives.pooled import PooledObjective

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Regression(PooledObjective):
    """A number at a prediction time: (value - mean) / std of the train rows, by squared error."""

    kind: Literal["regression"] = "regression"
    mean: float | None = None
    """Of the labels; where not given, that of the train rows. Kept as `regression_mean` of the model."""
    std: Annotated[float, Field(gt=0)] | None = None
    """Of the labels, likewise. Kept as `regression_std`."""
    problem: ClassVar[Problem] = "regression"
    labelled: ClassVar[Problem | None] = "regression"
    figures: ClassVar[tuple[str, ...]] = ("loss", "mae", "rmse", "r2")
    score: ClassVar[Score] = Score("loss", "min")

    def fitted(self, train: Examples, codes: Codes | None = None) -> Self:
        """With mean and standard deviation of the train rows.

        Raises:
            ConfigError: If all are the same number.

        Examples:
            >>> rows = np.zeros(2, int)
            >>> fitted = Regression().fitted(Examples(None, rows, rows, np.array([1.0, 3.0])))
            >>> fitted.mean, fitted.std
            (2.0, 1.0)
        """
        assert train.label is not None
        mean = float(train.label.mean()) if self.mean is None else self.mean
        std = float(train.label.std()) if self.std is None else self.std
        if std == 0:
            raise ConfigError(
                f"{self.kind}: all {len(train.label):,} train rows are {train.label[0]:g}, so there "
                "is nothing to learn; check the labels and the splits"
            )
        return replace(super().fitted(train, codes), mean=mean, std=std)

    def attach(self, model: "PreTrainedModel") -> "PreTrainedModel":
        """The backbone below a new head, with what its output has to be multiplied by and added to."""
        model = super().attach(model)
        model.config.regression_mean, model.config.regression_std = self.mean, self.std
        return model

    def wanted(self, label: npt.NDArray[Any] | None) -> npt.NDArray[np.float32]:
        """Standardised."""
        assert label is not None
        assert self.mean is not None
        assert self.std is not None
        return ((label - self.mean) / self.std).astype(np.float32)

    def metrics(
        self,
        means: Mapping[str, float],
        scores: npt.NDArray[np.float64] | None,
        examples: Examples,
    ) -> dict[str, float]:
        """`loss` (standardised) and those of `figures.numeric`, in the unit of the labels."""
        assert examples.label is not None
        assert scores is not None
        assert self.mean is not None
        assert self.std is not None
        answer = scores[:, 0] * self.std + self.mean
        return {"loss": means["loss"], **figures.numeric(examples.label, answer)}
