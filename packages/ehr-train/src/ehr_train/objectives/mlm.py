"""Masked tokens."""

from functools import lru_cache
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator
from pydantic.dataclasses import dataclass

from ehr_tracking.config import STRICT, Regex
from ehr_tracking.contracts import MASK_ID, SPECIALS
from ehr_train.data import draws
from ehr_train.objectives.parts import Asked, Material, Sees
from ehr_train.objectives.tokens import TokenObjective, asked

if TYPE_CHECKING:
    from ehr_models.data.batch import Batch

Share = Annotated[float, Field(ge=0, le=1)]

_CHOICE, _KIND, _REPLACEMENT = 11, 12, 13  # so that three uses of one seed draw differently


@dataclass(frozen=True, kw_only=True, config=STRICT)
class MLM(TokenObjective):
    """Masked tokens, drawn anew in every epoch (BERT's 80/10/10)."""

    kind: Literal["mlm"] = "mlm"
    mask: Annotated[float, Field(gt=0, le=1)] = 0.2
    """Share of a span's ordinary tokens that are targets; at least one where there is any, and where
    there are two not all."""
    replaced: Share = 0.8
    """Of the targets: share shown as [MASK]."""
    random: Share = 0.1
    """Of the targets: share shown as another ordinary token; the rest is shown as it is."""
    max_masked: Annotated[int, Field(ge=1)] | None = None
    """Cap on the targets of one span."""
    dynamic: bool = True
    """Whether each epoch draws anew; else every epoch masks what the first one did."""
    unmasked: tuple[Regex, ...] = ()
    """Regular expressions: tokens in whose code one is found are never targets, e.g. `^ATC//` where
    drugs shall only be seen. Shares are of what is left."""
    mask_id: int = MASK_ID
    """Token id that hides another."""
    special: tuple[int, ...] | None = None
    """Token ids that are neither targets nor replacements; None: those of our vocabularies. Of a language model
    both are found by `ehr-train text`."""
    sees: ClassVar[Sees | None] = "all"
    hides: ClassVar[bool] = True

    @model_validator(mode="after")
    def _shares(self) -> Self:
        if self.replaced + self.random > 1:
            raise ValueError("replaced + random must not exceed 1")
        return self

    def ordinary(self, ids: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        """[T] which of some token ids stand for something."""
        return ids >= len(SPECIALS) if self.special is None else ~np.isin(ids, self.special)

    def ask(self, batch: "Batch", material: Material, epoch: int) -> Asked:
        """Some tokens, most of them hidden; which is a function of seed, epoch, subject and place."""
        examples, windows = material.examples, material.windows
        ids, span = batch.input_ids.numpy(), batch.span.numpy()
        subject = examples.tokens.subject_id[examples.subject[windows.example]]
        place = batch.index.numpy() - windows.first[span]
        drawn = epoch if self.dynamic else min(epoch, 0)  # below 0: of the validation
        key = (material.seed, drawn, subject[span], place)
        asking = self.ordinary(ids) & material.askable(batch)
        if self.unmasked:
            assert material.codes is not None
            asking &= ~material.codes.matching(self.unmasked)[ids]
        rows, shown = mask_tokens(ids, span, key, self, material.vocab_size, asking)
        found = asked(rows, ids[rows])
        return Asked(found.targets, found.counts, shown)


def mask_tokens(
    ids: npt.NDArray[np.int64],
    span: npt.NDArray[np.int64],
    key: tuple[npt.ArrayLike, ...],
    objective: MLM,
    vocab_size: int,
    asking: npt.NDArray[np.bool_] | None = None,
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Choose targets among the ordinary tokens of each span, and what is shown in their place.

    Args:
        ids: [T]
        span: [T], never decreasing.
        key: Of the draws of each token: parts that broadcast to [T].
        objective: Shares and cap.
        vocab_size: Random replacements are drawn from the ordinary tokens below it.
        asking: [T] which tokens may be targets; every ordinary one where it is not given.

    Returns:
        The targets [M] and the ids with their replacements [T].

    Source:
        Devlin et al., BERT, NAACL 2019, 3.1.
    """
    ordinary = np.flatnonzero(objective.ordinary(ids) if asking is None else asking)
    if len(ordinary) == 0:
        return ordinary, ids
    chance = np.broadcast_to(draws.bits(*key, _CHOICE), ids.shape)[ordinary]
    order = np.lexsort((chance, span[ordinary]))
    # the first n of each span in this order are its targets
    _, starts, counts = np.unique(span[ordinary], return_index=True, return_counts=True)
    rank = np.arange(len(ordinary)) - np.repeat(starts, counts)
    n = np.maximum(1, np.rint(objective.mask * counts)).astype(np.int64)
    n = np.minimum(n, np.maximum(1, counts - 1))  # something is left to tell by
    n = n if objective.max_masked is None else np.minimum(n, objective.max_masked)
    rows = np.sort(ordinary[order[rank < np.repeat(n, counts)]])

    kind = np.broadcast_to(draws.uniform(*key, _KIND), ids.shape)[rows]
    words = _ordinary_below(objective, vocab_size)
    other = np.broadcast_to(draws.below(len(words), *key, _REPLACEMENT), ids.shape)[rows]
    shown = ids.copy()
    shown[rows] = np.where(
        kind < objective.replaced,
        objective.mask_id,
        np.where(kind < objective.replaced + objective.random, words[other], ids[rows]),
    )
    return rows, shown


@lru_cache(maxsize=8)
def _ordinary_below(objective: MLM, vocab_size: int) -> npt.NDArray[np.int64]:
    return np.flatnonzero(objective.ordinary(np.arange(vocab_size)))
