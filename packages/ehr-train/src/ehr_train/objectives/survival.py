"""Time to an event, in discrete intervals."""

from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator
from pydantic.dataclasses import dataclass

from ehr_models.heads.config import Problem
from ehr_tracking.config import STRICT, ConfigError
from ehr_train import figures
from ehr_train.data.codes import Codes
from ehr_train.data.examples import Examples
from ehr_train.objectives.parts import Question, Score
from ehr_train.objectives.pooled import PooledObjective

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Survival(PooledObjective):
    """Days from a prediction time to an event, by one hazard for each interval.

    What an answer costs, and what a censored row tells of the interval in which it was lost, says
    `ehr_models.heads.losses.survival_nll`.
    """

    kind: Literal["survival"] = "survival"
    bins: Annotated[int, Field(ge=1)] = 20
    """Intervals, at most: their bounds are quantiles of the times of events in train."""
    edges: tuple[float, ...] | None = None
    """Bounds in days, ascending from 0, instead of those. Kept as `survival_edges` of the model."""
    problem: ClassVar[Problem] = "survival"
    labelled: ClassVar[Problem | None] = "survival"
    figures: ClassVar[tuple[str, ...]] = ("loss", "c_index")
    score: ClassVar[Score] = Score("c_index", "max")

    @model_validator(mode="after")
    def _ascending(self) -> Self:
        if self.edges is not None and (
            len(self.edges) < 2
            or self.edges[0] != 0
            or any(not a < b < np.inf for a, b in pairwise(self.edges))
        ):
            raise ValueError("edges must be at least two ascending numbers of days, from 0")
        return self

    @property
    def outputs(self) -> int:
        """One for each interval."""
        assert self.edges is not None
        return len(self.edges) - 1

    def fitted(self, train: Examples, codes: Codes | None = None) -> Self:
        """With the bounds of the intervals.

        Raises:
            ConfigError: If no event is among the train rows, or all are at time 0.

        Examples:
            >>> label, rows = np.array([[2.0, 1], [4, 1], [6, 1], [8, 1], [99, 0]]), np.zeros(5, int)
            >>> Survival(bins=2).fitted(Examples(None, rows, rows, label)).edges
            (0.0, 5.0, 8.0)
        """
        fitted = super().fitted(train, codes)
        assert train.label is not None
        if self.edges is not None:
            return fitted
        days = train.label[train.label[:, 1] > 0, 0]
        if not (days > 0).any():
            raise ConfigError(
                f"{self.kind}: of {len(train.label):,} train rows none has an event after its "
                "prediction time, so there is nothing to learn; check boolean_value of the labels"
            )
        bounds = np.unique(np.quantile(days, np.arange(1, self.bins + 1) / self.bins))
        return replace(fitted, edges=(0.0, *bounds[bounds > 0].tolist()))

    @property
    def bounds(self) -> tuple[float, ...] | None:
        """Its `edges`."""
        return self.edges

    def scores(self, model: "PreTrainedModel", states: "Tensor", question: Question) -> "Tensor":
        """The risk of each span [S]: minus the logarithm of the chance to come past the last bound.

        Over all intervals, whichever of them a subject was seen in: sums over as many intervals as
        each was seen would put those who were seen longest at the highest risk.
        """
        import torch.nn.functional as F

        return F.softplus(super().scores(model, states, question)).sum(1)

    def metrics(
        self,
        means: Mapping[str, float],
        scores: npt.NDArray[np.float64] | None,
        examples: Examples,
    ) -> dict[str, float]:
        """`loss` and, where a pair of examples can be compared, `c_index` (Harrell's)."""
        assert examples.label is not None
        assert scores is not None
        days, happened = examples.label[:, 0], examples.label[:, 1] > 0
        found = figures.concordance(days, happened, scores)
        return {"loss": means["loss"], **figures.known(c_index=found)}
