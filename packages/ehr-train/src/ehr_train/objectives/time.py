"""The time to the next token.

T tokens, M targets, D width, B bins.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, cast

from pydantic import Field
from pydantic.dataclasses import dataclass

from ehr_models.data.tokens import STATIC
from ehr_models.kinds.record import Forecast
from ehr_tracking.config import STRICT
from ehr_train.objectives.clm import next_token_rows
from ehr_train.objectives.parts import Asked, Material, Pairs, Question, Sees
from ehr_train.objectives.tokens import TokenObjective

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from ehr_models.data.batch import Batch

SECOND_US = 1e6


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Time(TokenObjective):
    """How long it is to the next token, given which that is; beside `clm` in a `sum`, as a rule.

    The loss of a token is the cross-entropy of the bin that the gap falls into. Targets are those of
    `clm` whose token has a time itself.
    """

    kind: Literal["time"] = "time"
    bins: Annotated[int, Field(ge=3, le=1024)] = 64
    """Of gaps: none, below a minute, and the rest log-spaced up to 20 years. Of a new head; one that
    the model of `--init` has must have as many."""
    sees: ClassVar[Sees | None] = "past"
    forecasts: ClassVar[tuple[Forecast, ...]] = ("time",)
    weights: ClassVar[Mapping[str, float]] = {"loss": 1.0}

    def attach(self, model: "PreTrainedModel") -> "PreTrainedModel":
        """The model with a time head beside its own.

        Raises:
            ConfigError: If its kind can have none, or it has one with other bins.
        """
        from ehr_models.forecasts.time import time_edges
        from ehr_models.heads.forecasts import attach

        return attach(model, "time", {"edges": time_edges(self.bins)})

    def ask(self, batch: "Batch", material: Material, epoch: int) -> Asked:  # noqa: ARG002 -- the same in each
        """The gap behind every token with a time whose successor is worth asking for."""
        ids, time = batch.input_ids.numpy(), batch.time.numpy()
        rows = next_token_rows(ids, batch.index.numpy(), batch.span.numpy(), time)
        rows = rows[(time[rows] != STATIC) & material.askable(batch)[rows + 1]]
        seconds = (time[rows + 1] - time[rows]) / SECOND_US
        targets = {"rows": rows, "following": ids[rows + 1], "seconds": seconds}
        return Asked(targets, {"loss": len(rows)})

    def loss(self, model: "PreTrainedModel", states: "Tensor", question: Question) -> Pairs:
        """The loss and, in evaluation mode, how many of the likeliest bins are right."""
        import torch.nn.functional as F

        from ehr_models.heads.forecasts import forecast_head

        head: Any = forecast_head(model, "time")
        asked = question.targets
        following = cast("Any", model.get_input_embeddings())(asked["following"])
        logits_MB = head(states[asked["rows"]], following).float()
        wanted = head.time_bins(asked["seconds"])
        total, count = F.cross_entropy(logits_MB, wanted, reduction="sum"), len(wanted)
        pairs: Pairs = {"loss": (total, count)}
        if model.training:
            return pairs
        return {**pairs, "accuracy": ((logits_MB.argmax(-1) == wanted).sum(), count)}
