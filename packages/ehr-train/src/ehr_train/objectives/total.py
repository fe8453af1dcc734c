"""Several objectives at once, each with its weight."""

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator
from pydantic.dataclasses import dataclass

from ehr_models.heads.config import Problem
from ehr_models.kinds.record import Forecast, HeadName
from ehr_tracking.config import STRICT
from ehr_train.data.codes import Codes
from ehr_train.data.examples import Examples
from ehr_train.objectives import OBJECTIVES, Objective
from ehr_train.objectives.choice import OneOf
from ehr_train.objectives.parts import Asked, Material, Pairs, Question, Score, Sees

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from ehr_models.data.batch import Batch
    from ehr_models.data.tokens import Tokens
    from ehr_train.data.labels import LabelRows


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Part:
    """One of them."""

    objective: Annotated[Objective, OneOf(OBJECTIVES)]
    weight: Annotated[float, Field(gt=0)] = 1.0
    """Of its mean loss in the sum."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Sum:
    """Several objectives over the same states; the mean of each is over its own targets."""

    kind: Literal["sum"] = "sum"
    parts: Annotated[tuple[Part, ...], Field(min_length=2)]

    @model_validator(mode="after")
    def _one_model_can_answer(self) -> Self:
        kinds = ", ".join(self._named)
        pooled = [name for name, o in self._named.items() if o.head == "pooled"]
        if len(pooled) > 1:
            raise ValueError(
                f"a model has one pooled head, but of these parts {' and '.join(pooled)} need one each"
            )
        if len({*self.forecasts}) < len(self.forecasts):
            raise ValueError(f"a model has one head of each kind, but parts of {kinds} share one")
        if len({o.sees for o in self._named.values()} - {None}) > 1:
            raise ValueError(
                f"no model can be trained for {kinds} at once: one sees all, one the past"
            )
        if sum(o.hides for o in self._named.values()) > 1:
            raise ValueError(f"of {kinds} at most one may hide tokens")
        return self

    @property
    def _named(self) -> dict[str, Objective]:
        """The parts by kind, numbered from the second of a kind on."""
        named: dict[str, Objective] = {}
        for part in self.parts:
            kind = part.objective.kind
            same = sum(o.kind == kind for o in named.values())
            named[f"{kind}_{same + 1}" if same else kind] = part.objective
        return named

    @property
    def _pooled(self) -> Objective | None:
        """The part that asks one thing of each span, where there is one: it says what examples are."""
        return next((o for o in self._named.values() if o.head == "pooled"), None)

    @property
    def head(self) -> HeadName:
        """That over tokens, and the pooled one besides where a part needs it."""
        return "token" if self._pooled is None else "both"

    @property
    def forecasts(self) -> tuple[Forecast, ...]:
        """Those of the parts."""
        return tuple(name for o in self._named.values() for name in o.forecasts)

    @property
    def sees(self) -> Sees | None:
        """What the parts demand."""
        return next((o.sees for o in self._named.values() if o.sees), None)

    @property
    def hides(self) -> bool:
        """Whether one of them does."""
        return any(o.hides for o in self._named.values())

    @property
    def cut(self) -> bool:
        """Whether those of the part with a pooled head are."""
        return any(o.cut for o in self._named.values())

    @property
    def labelled(self) -> Problem | None:
        """What one of them needs."""
        return next((o.labelled for o in self._named.values() if o.labelled), None)

    @property
    def figures(self) -> tuple[str, ...]:
        """`loss`, and those of the parts as `<part>_<figure>`."""
        return (
            "loss",
            *(f"{name}_{figure}" for name, o in self._named.items() for figure in o.figures),
        )

    @property
    def score(self) -> Score:
        """The weighted sum."""
        return Score("loss", "min")

    @property
    def weights(self) -> dict[str, float]:
        """`<part>/<loss>` -> the part's weight times its own."""
        return {
            f"{name}/{loss}": part.weight * weight
            for part, (name, objective) in zip(self.parts, self._named.items(), strict=True)
            for loss, weight in objective.weights.items()
        }

    def examples(self, tokens: "Tokens", rows: "LabelRows | None") -> Examples:
        """Those of the part with a pooled head, else whole records."""
        return (self._pooled or self.parts[0].objective).examples(tokens, rows)

    def fitted(self, train: Examples, codes: Codes | None = None) -> Self:
        """With each part fitted."""
        parts = (replace(p, objective=p.objective.fitted(train, codes)) for p in self.parts)
        return replace(self, parts=tuple(parts))

    def attach(self, model: "PreTrainedModel") -> "PreTrainedModel":
        """The model with the heads of its parts; that of the pooled one beside its own."""
        for objective in self._named.values():
            if objective.head == "token":
                model = objective.attach(model)
        if self._pooled is None:
            return model
        from ehr_models.heads.pooled import with_both

        return with_both(model, self._pooled.attach(model))

    def ask(self, batch: "Batch", material: Material, epoch: int) -> Asked:
        """What each part asks, its names behind the part's."""
        targets: dict[str, npt.NDArray[Any]] = {}
        counts: dict[str, int] = {}
        shown = None
        beside: dict[str, npt.NDArray[Any]] = {}
        for name, objective in self._named.items():
            asked = objective.ask(batch, material, epoch)
            targets |= {f"{name}/{key}": value for key, value in asked.targets.items()}
            counts |= {f"{name}/{key}": value for key, value in asked.counts.items()}
            beside |= asked.subject
            shown = shown if asked.shown is None else asked.shown
        return Asked(targets, counts, shown, beside)

    def loss(self, model: "PreTrainedModel", states: "Tensor", question: Question) -> Pairs:
        """The pairs of each part, their names behind the part's."""
        return {
            f"{name}/{key}": pair
            for name, objective in self._named.items()
            for key, pair in objective.loss(model, states, _of(question, name)).items()
        }

    def scores(
        self, model: "PreTrainedModel", states: "Tensor", question: Question
    ) -> "dict[str, Tensor]":
        """Those of each part that has any."""
        found = {
            name: objective.scores(model, states, _of(question, name))
            for name, objective in self._named.items()
        }
        return {name: value for name, value in found.items() if value is not None}

    def metrics(
        self,
        means: Mapping[str, float],
        scores: Mapping[str, npt.NDArray[np.float64]] | None,
        examples: Examples,
    ) -> dict[str, float]:
        """The figures of each part that has a target, as `<part>_<figure>`; of all, the weighted `loss`."""
        found: dict[str, float] = {}
        scores = scores or {}
        if self.weights.keys() <= means.keys():
            found["loss"] = sum(weight * means[name] for name, weight in self.weights.items())
        for name, objective in self._named.items():
            known = _below(means, name)
            if not known.keys() & objective.weights.keys():
                continue
            own = objective.metrics(known, scores.get(name), examples)
            found |= {f"{name}_{figure}": value for figure, value in own.items()}
        return found


def _below(values: Mapping[str, object], name: str) -> dict[str, Any]:
    return {k.removeprefix(f"{name}/"): v for k, v in values.items() if k.startswith(f"{name}/")}


def _of(question: Question, name: str) -> Question:
    return replace(
        question,
        targets=_below(question.targets, name),
        counts=_below(question.counts, name),
    )
