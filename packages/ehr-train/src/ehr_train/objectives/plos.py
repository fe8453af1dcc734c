"""Prolonged length of stay: beside another objective, as Med-BERT and ExMed-BERT pretrain.

S spans.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field
from pydantic.dataclasses import dataclass

from ehr_models.heads.config import Problem
from ehr_tracking.config import STRICT, ConfigError
from ehr_train import figures
from ehr_train.data.codes import Codes
from ehr_train.data.examples import Examples, whole_records
from ehr_train.data.visits import stay_days
from ehr_train.objectives.parts import Asked, Material, Question, Score
from ehr_train.objectives.pooled import PooledObjective, both_classes

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from ehr_models.data.batch import Batch
    from ehr_models.data.tokens import Tokens
    from ehr_train.data.labels import LabelRows

Weight = Annotated[float, Field(gt=0)]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class PLOS(PooledObjective):
    """Whether a window has a stay longer than some days.

    A stay is a visit, from its first token to its last in the window.

    Source:
        Rasmy et al., Med-BERT, npj Digital Medicine 4, 2021.
    """

    kind: Literal["plos"] = "plos"
    days: Annotated[float, Field(gt=0)] = 7.0
    """A stay is prolonged beyond so many."""
    class_weights: tuple[Weight, Weight] = (0.25, 1.0)
    """Of windows without and with a prolonged stay."""
    cut: ClassVar[bool] = False
    problem: ClassVar[Problem] = "binary"
    figures: ClassVar[tuple[str, ...]] = ("loss", "auroc", "auprc", "f1", "accuracy")
    score: ClassVar[Score] = Score("auroc", "max")

    def examples(self, tokens: "Tokens", rows: "LabelRows | None") -> Examples:  # noqa: ARG002 -- the same in each
        """Whole records."""
        return whole_records(tokens)

    def fitted(self, train: Examples, codes: Codes | None = None) -> Self:  # noqa: ARG002 -- needs none
        """Itself, once it is sure that there is something to tell apart.

        Raises:
            ConfigError: If the train records have no stays, or none or all are prolonged.
        """
        tokens = train.tokens
        row = np.repeat(np.arange(len(tokens)), np.diff(tokens.offsets))
        stay, days = stay_days(row, tokens.visit[:], tokens.time[:], tokens.token[:])
        if not (days > 0).any():
            what = "no visits" if not len(days) else "visits without a length"
            raise ConfigError(
                f"objective plos: a threshold of {self.days:g} days needs stays, but the train records "
                f"have {what}; tokenise with visits that have a start and an end, or give the stays as "
                "labels of objective classification"
            )
        prolonged = np.zeros(len(tokens), bool)
        prolonged[stay[days > self.days]] = True
        both_classes(prolonged[train.subject], f"objective plos beyond {self.days:g} days")
        return self

    def ask(self, batch: "Batch", material: Material, epoch: int) -> Asked:  # noqa: ARG002 -- the same in each
        """Whether each span has a prolonged stay."""
        columns = (t.numpy() for t in (batch.span, batch.visit, batch.time, batch.input_ids))
        stay, days = stay_days(*columns)
        labels = np.zeros(len(material.windows), np.float32)
        labels[stay[days > self.days]] = 1
        return Asked({"labels": labels}, {"loss": len(labels)})

    def costs(self, model: "PreTrainedModel", logits: "Tensor", labels: "Tensor") -> "Tensor":
        """Binary cross-entropy, times the weight of the class."""
        import torch

        weights = torch.tensor(self.class_weights, device=logits.device)
        return super().costs(model, logits, labels) * weights[labels.long()]

    def scores(self, model: "PreTrainedModel", states: "Tensor", question: Question) -> "Tensor":
        """The logit of each span and whether it has a prolonged stay [S, 2]."""
        import torch

        logits = super().scores(model, states, question)
        return torch.cat([logits, question.targets["labels"][:, None]], 1)

    def metrics(
        self,
        means: Mapping[str, float],
        scores: npt.NDArray[np.float64] | None,
        examples: Examples,  # noqa: ARG002 -- windows are judged
    ) -> dict[str, float]:
        """`loss` and those of `figures.binary`."""
        assert scores is not None
        return {"loss": means["loss"], **figures.binary(scores[:, 1] > 0, scores[:, 0])}
