"""Objectives that ask one thing of each span: their common half.

S spans, T tokens, D width, C outputs, E examples.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
from pydantic.dataclasses import dataclass

from ehr_models.heads.config import PooledConfig, Problem
from ehr_models.kinds.record import HeadName
from ehr_tracking.config import STRICT, ConfigError
from ehr_train.data.examples import Examples, label_examples
from ehr_train.objectives.parts import Asked, Material, Pairs, Question, Sees

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from ehr_models.data.batch import Batch
    from ehr_models.data.tokens import Tokens
    from ehr_train.data.labels import LabelRows


@dataclass(frozen=True, kw_only=True, config=STRICT)
class PooledObjective(PooledConfig):
    """A label of each example, from what was visible then; what is left to say is what it costs."""

    head: ClassVar[HeadName] = "pooled"
    sees: ClassVar[Sees | None] = None
    hides: ClassVar[bool] = False
    cut: ClassVar[bool] = True
    labelled: ClassVar[Problem | None] = None
    problem: ClassVar[Problem]
    """What the outputs of the head mean."""
    weights: ClassVar[Mapping[str, float]] = {"loss": 1.0}

    @property
    def outputs(self) -> int:
        """C, once it is fitted."""
        return 1

    def examples(self, tokens: "Tokens", rows: "LabelRows | None") -> Examples:
        """The rows of labels whose subjects are in the split."""
        assert rows is not None  # since it is `labelled`
        return label_examples(rows, tokens)

    def fitted(self, train: Examples) -> Self:  # noqa: ARG002 -- depends on none
        """Itself: it needs to know nothing of the examples."""
        return self

    def attach(self, model: "PreTrainedModel") -> "PreTrainedModel":
        """The backbone below a new pooled head."""
        from ehr_models.heads.pooled import build_classifier

        return build_classifier(model, self.outputs, self, problem=self.problem)

    def ask(self, batch: "Batch", material: Material, epoch: int) -> Asked:  # noqa: ARG002 -- the same in each
        """The label of each span."""
        return answers(material, self.wanted(material.examples.label))

    def wanted(self, label: npt.NDArray[Any] | None) -> npt.NDArray[Any]:
        """Labels as `costs` takes them."""
        assert label is not None  # `labelled` objectives get such examples
        return label

    def loss(self, model: "PreTrainedModel", states: "Tensor", question: Question) -> Pairs:
        """What the answer of each span costs, summed."""
        logits = self._logits(model, states, question)
        each = self.costs(model, logits, question.targets["labels"])
        return {"loss": (each.sum(), len(each))}

    def costs(self, model: "PreTrainedModel", logits: "Tensor", labels: "Tensor") -> "Tensor":
        """The loss of each span [S] from its outputs [S, C]."""
        from ehr_models.heads.losses import losses

        return losses(model.config, logits, labels)

    def scores(self, model: "PreTrainedModel", states: "Tensor", question: Question) -> "Tensor":
        """The outputs of each span [S, C]."""
        return self._logits(model, states, question)

    def _logits(self, model: "PreTrainedModel", states: "Tensor", question: Question) -> "Tensor":
        from ehr_models.heads.pooled import class_logits

        return class_logits(model, states, question.batch).float()


def answers(material: Material, label: npt.NDArray[Any]) -> Asked:
    """What `PooledObjective.loss` needs.

    Args:
        material: Of the batch.
        label: [E, ...] of each example.
    """
    chosen = label[material.windows.example]
    return Asked({"labels": chosen}, {"loss": len(chosen)})


def both_classes(positive: npt.NDArray[np.bool_], what: str) -> tuple[int, int]:
    """How many are negative and how many positive.

    Raises:
        ConfigError: If all are of one class.
    """
    n = int(positive.sum())
    if not 0 < n < len(positive):
        raise ConfigError(
            f"{what}: all {len(positive):,} train rows are {'positive' if n else 'negative'}, so there "
            "is nothing to tell apart; check the labels and the splits"
        )
    return len(positive) - n, n


def named(model: "PreTrainedModel", names: tuple[str, ...] | None) -> "PreTrainedModel":
    """The model, whose configuration says what each output is called."""
    model.config.id2label = dict(enumerate(names or ()))
    model.config.label2id = {name: i for i, name in enumerate(names or ())}
    return model
