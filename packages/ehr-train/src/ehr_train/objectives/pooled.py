"""Objectives that ask one thing of each span: their common half.

S spans, T tokens, D width, C outputs, E examples.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field
from pydantic.dataclasses import dataclass

from ehr_models.heads.config import PooledConfig, Problem
from ehr_models.kinds.record import Forecast, HeadName
from ehr_tracking.config import STRICT, ConfigError
from ehr_train.data.codes import Codes
from ehr_train.data.examples import Examples, label_examples
from ehr_train.objectives.parts import Asked, Material, Pairs, Question, Sees

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from ehr_models.data.batch import Batch
    from ehr_models.data.tokens import Tokens
    from ehr_train.data.labels import LabelRows


Positive = Annotated[float, Field(gt=0)]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class PooledObjective(PooledConfig):
    """A label of each example, from what was visible then; what is left to say is what it costs."""

    scaler: tuple[tuple[float, Positive], ...] | None = None
    """Mean and standard deviation of each measurement; where not given, those of the train rows."""
    measured: tuple[str, ...] = ()
    """What the measurements are called; taken from the labels."""
    head: ClassVar[HeadName] = "pooled"
    forecasts: ClassVar[tuple[Forecast, ...]] = ()
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

    @property
    def bounds(self) -> tuple[float, ...] | None:
        """Of the intervals of time, where there are such."""
        return None

    def examples(self, tokens: "Tokens", rows: "LabelRows | None") -> Examples:
        """The rows of labels whose subjects are in the split."""
        assert rows is not None  # since it is `labelled`
        return label_examples(rows, tokens)

    def fitted(self, train: Examples, codes: Codes | None = None) -> Self:  # noqa: ARG002 -- needs none
        """With mean and standard deviation of the measurements that come with the train rows.

        Raises:
            ConfigError: If these are not as many as the head was said to read, or one was never made.
        """
        found, names = train.measurements, train.measured
        if self.measurements not in (0, len(names)):
            raise ConfigError(
                f"objective.measurements = {self.measurements}, but labels.measurements names "
                f"{len(names)} columns"
            )
        if found is None or self.scaler is not None:
            return replace(self, measurements=len(names), measured=names)
        empty = np.isnan(found).all(0)
        if empty.any():
            raise ConfigError(
                f"measurement {names[int(empty.argmax())]} has no value in any train row; leave it out"
            )
        mean, std = np.nanmean(found, 0, np.float64), np.nanstd(found, 0, np.float64)
        pairs = np.stack([mean, np.where(std > 0, std, 1.0)], 1).tolist()
        scaler = tuple((float(m), float(s)) for m, s in pairs)
        return replace(self, measurements=len(names), scaler=scaler, measured=names)

    def attach(self, model: "PreTrainedModel") -> "PreTrainedModel":
        """The backbone below a new pooled head, and what its measurements have to be scaled by."""
        from ehr_models.heads.pooled import build_classifier

        model = build_classifier(
            model, self.outputs, self, problem=self.problem, survival_edges=self.bounds
        )
        if self.scaler is not None:
            model.config.measurement_names = list(self.measured)
            model.config.measurement_mean = [mean for mean, _ in self.scaler]
            model.config.measurement_std = [std for _, std in self.scaler]
        return model

    def ask(self, batch: "Batch", material: Material, epoch: int) -> Asked:  # noqa: ARG002 -- the same in each
        """The label of each span."""
        examples, chosen = material.examples, material.windows.example
        labels = self.wanted(examples.label)[chosen]
        targets, beside = {"labels": labels}, {}
        if examples.weight is not None:
            targets["weight"] = examples.weight[chosen]
        if examples.measurements is not None:
            assert self.scaler is not None  # since it is fitted
            mean, std = np.array(self.scaler).T
            scaled = (examples.measurements[chosen] - mean) / std
            beside["measurements"] = np.nan_to_num(scaled).astype(np.float32)  # missing: the mean
        return Asked(targets, {"loss": len(labels)}, subject=beside)

    def wanted(self, label: npt.NDArray[Any] | None) -> npt.NDArray[Any]:
        """Labels as `costs` takes them."""
        assert label is not None  # `labelled` objectives get such examples
        return label

    def loss(self, model: "PreTrainedModel", states: "Tensor", question: Question) -> Pairs:
        """What the answer of each span costs, times its weight, summed."""
        logits = self._logits(model, states, question)
        each = self.costs(model, logits, question.targets["labels"])
        if "weight" in question.targets:
            each = each * question.targets["weight"]
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

        logits = class_logits(model, states, question.batch).float()
        if (
            self.problem == "binary" and logits.shape[1] == 2
        ):  # of no and of yes, as transformers has it
            return logits[:, 1:] - logits[:, :1]
        return logits


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
