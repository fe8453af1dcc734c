"""The codes of the next visit.

S spans, V vocabulary, M codes of next visits.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field
from pydantic.dataclasses import dataclass

from ehr_models.heads.config import Problem
from ehr_tracking.config import STRICT
from ehr_tracking.contracts import SPECIALS, ContractError
from ehr_train.data.examples import Examples
from ehr_train.data.visits import next_visits
from ehr_train.objectives.parts import Asked, Material, Pairs, Question, Score
from ehr_train.objectives.pooled import PooledObjective

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from ehr_models.data.batch import Batch
    from ehr_models.data.tokens import Tokens
    from ehr_train.data.labels import LabelRows


@dataclass(frozen=True, kw_only=True, config=STRICT)
class NextVisit(PooledObjective):
    """Which codes the next visit has, from all that was known before it: a label for each code.

    An example for each visit behind enough others. The multi-label soft-margin loss of a visit is the
    mean over the vocabulary of the binary cross-entropies.

    Source:
        Li et al., BEHRT: Transformer for electronic health records, Scientific Reports 10, 2020.
    """

    kind: Literal["next_visit"] = "next_visit"
    history: Annotated[int, Field(ge=1)] = 3
    """Least visits before the one that is asked for."""
    problem: ClassVar[Problem] = "multilabel"
    figures: ClassVar[tuple[str, ...]] = ("loss", "auprc")
    score: ClassVar[Score] = Score("auprc", "max")

    def examples(self, tokens: "Tokens", rows: "LabelRows | None") -> Examples:  # noqa: ARG002 -- the same in each
        """One for each visit with enough before it; its label is where its tokens lie."""
        if not (tokens.visit[:] > 0).any():
            raise ContractError(
                "objective next_visit needs visits, but no token of the split is of one: tokenise "
                "with visits"
            )
        found = next_visits(tokens, self.history)
        return Examples(tokens, found.subject, found.visible, found.bounds)

    def attach(self, model: "PreTrainedModel") -> "PreTrainedModel":
        """The backbone below a new head with an output for each token of the vocabulary."""
        from ehr_models.heads.pooled import build_classifier

        size = int(model.config.true_vocab_size)
        return build_classifier(model, size, self, problem=self.problem)

    def ask(self, batch: "Batch", material: Material, epoch: int) -> Asked:  # noqa: ARG002 -- the same in each
        """Each ordinary token of the visits behind the spans, once."""
        tokens, label = material.examples.tokens, material.examples.label
        assert label is not None  # from `examples`
        bounds = label[material.windows.example]
        length = bounds[:, 1] - bounds[:, 0]
        span = np.repeat(np.arange(len(bounds)), length)
        at = np.arange(length.sum()) + np.repeat(
            bounds[:, 0] - (np.cumsum(length) - length), length
        )
        same = tokens.visit[at] == tokens.visit[bounds[:, 0]][span]
        codes = tokens.token[at].astype(np.int64)
        asked = same & (codes >= len(SPECIALS))
        pairs = np.unique(np.stack([span[asked], codes[asked]]), axis=1)
        return Asked({"spans": pairs[0], "codes": pairs[1]}, {"loss": len(bounds)})

    def loss(self, model: "PreTrainedModel", states: "Tensor", question: Question) -> Pairs:
        """The loss and, in evaluation mode, the average precision of each visit."""
        import torch
        import torch.nn.functional as F

        logits = self._logits(model, states, question)
        there = torch.zeros_like(logits)
        there[question.targets["spans"], question.targets["codes"]] = 1
        each = F.binary_cross_entropy_with_logits(logits, there, reduction="none").mean(1)
        pairs: Pairs = {"loss": (each.sum(), len(each))}
        if model.training:
            return pairs
        return {**pairs, "auprc": (average_precisions(logits, there).sum(), len(each))}

    def scores(self, model: "PreTrainedModel", states: "Tensor", question: Question) -> None:  # type: ignore[override]
        """None: sums are enough."""

    def metrics(
        self,
        means: Mapping[str, float],
        scores: npt.NDArray[np.float64] | None,  # noqa: ARG002
        examples: Examples,  # noqa: ARG002
    ) -> dict[str, float]:
        """`loss`, and `auprc`: the mean over visits of the average precision over codes."""
        return {"loss": means["loss"], "auprc": means["auprc"]}


def average_precisions(logits: "Tensor", there: "Tensor") -> "Tensor":
    """Average precision of each row [S].

    Args:
        logits: [S, V]
        there: [S, V] 0 or 1, at least one 1 in each row.

    Examples:
        >>> import torch
        >>> average_precisions(torch.tensor([[3.0, 2.0, 1.0]]), torch.tensor([[1.0, 0.0, 1.0]])).item()
        0.8333333730697632
    """
    import torch

    hit = there.gather(1, logits.argsort(dim=1, descending=True, stable=True))
    rank = torch.arange(1, hit.shape[1] + 1, device=hit.device)
    return (hit.cumsum(1) / rank * hit).sum(1) / hit.sum(1)
