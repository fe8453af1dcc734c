"""A binary label, as the word that a language model says next."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic.dataclasses import dataclass

from ehr_models.heads.config import Problem
from ehr_models.kinds.record import Forecast, HeadName
from ehr_tracking.config import STRICT, ConfigError
from ehr_train import figures
from ehr_train.data.codes import Codes
from ehr_train.data.examples import Examples, label_examples
from ehr_train.objectives.parts import Asked, Material, Pairs, Question, Score, Sees
from ehr_train.objectives.pooled import both_classes
from ehr_train.objectives.tokens import cross_entropy

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from ehr_models.data.batch import Batch
    from ehr_models.data.tokens import Tokens
    from ehr_train.data.labels import LabelRows


PROMPT = "\nAnswer:"
"""What stands between a text and the word, where nothing else is asked for."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class LabelWords:
    """What comes behind a text with its prompt: one of two words, asked for as any next token.

    The loss is that of the causal model on the answer alone; the score of a text is the probability of the
    second word against the first, those of all others left out.
    """

    kind: Literal["label_words"] = "label_words"
    words: tuple[str, str] = (" no", " yes")
    """For a label of false and of true; one token of the model's each."""
    ids: tuple[int, int] | None = None
    """Of these tokens; found by `ehr-train text`."""
    head: ClassVar[HeadName] = "token"
    forecasts: ClassVar[tuple[Forecast, ...]] = ()
    sees: ClassVar[Sees | None] = "past"
    hides: ClassVar[bool] = False
    cut: ClassVar[bool] = True
    labelled: ClassVar[Problem | None] = "binary"
    figures: ClassVar[tuple[str, ...]] = ("loss", "auroc", "auprc", "f1", "accuracy")
    score: ClassVar[Score] = Score("auroc", "max")
    weights: ClassVar[Mapping[str, float]] = {"loss": 1.0}

    def examples(self, tokens: "Tokens", rows: "LabelRows | None") -> Examples:
        """The rows of labels whose subjects are in the split."""
        assert rows is not None  # since it is `labelled`
        return label_examples(rows, tokens)

    def fitted(self, train: Examples, codes: Codes | None = None) -> Self:  # noqa: ARG002 -- needs none
        """Itself.

        Raises:
            ConfigError: If all train rows are of one class, or the words have no ids.
        """
        if self.ids is None:
            raise ConfigError("objective label_words is of texts: ehr-train text")
        assert train.label is not None
        both_classes(train.label > 0, self.kind)
        return self

    def attach(self, model: "PreTrainedModel") -> "PreTrainedModel":
        """The model itself: its head over tokens answers."""
        return model

    def ask(self, batch: "Batch", material: Material, epoch: int) -> Asked:  # noqa: ARG002 -- the same in each
        """The word behind the last token of each span."""
        assert self.ids is not None
        assert material.examples.label is not None
        yes = material.examples.label[material.windows.example] > 0
        rows = batch.cu_seqlens.numpy()[1:].astype(np.int64) - 1
        return Asked(
            {"rows": rows, "answers": np.array(self.ids)[yes.astype(int)]}, {"loss": len(rows)}
        )

    def loss(self, model: "PreTrainedModel", states: "Tensor", question: Question) -> Pairs:
        """Cross-entropy of the words, among all tokens."""
        rows, answers = question.targets["rows"], question.targets["answers"]
        return {"loss": (cross_entropy(model, states[rows], answers)[0], len(rows))}

    def scores(self, model: "PreTrainedModel", states: "Tensor", question: Question) -> "Tensor":
        """The logit of the second word less that of the first [S, 1], whose sigmoid is the probability."""
        from ehr_models.heads.token import token_logits

        assert self.ids is not None
        no, yes = self.ids
        logits = token_logits(model, states[question.targets["rows"]]).float()
        return (logits[:, yes] - logits[:, no])[:, None]

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
