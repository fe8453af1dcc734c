"""The next token."""

from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
import numpy.typing as npt
from pydantic.dataclasses import dataclass

from ehr_models.data.tokens import STATIC
from ehr_tracking.config import STRICT
from ehr_tracking.contracts import PAD_ID, UNK_ID
from ehr_train.objectives.parts import Asked, Material, Sees
from ehr_train.objectives.tokens import TokenObjective, asked

if TYPE_CHECKING:
    from ehr_models.data.batch import Batch


@dataclass(frozen=True, kw_only=True, config=STRICT)
class CLM(TokenObjective):
    """The next token of the same span."""

    kind: Literal["clm"] = "clm"
    unasked: tuple[int, ...] = (PAD_ID, UNK_ID)
    """Token ids that are never targets: [PAD] is nothing, and [UNK] is whatever the vocabulary left out. Of a
    language model, whose ids mean other things, there are none."""
    sees: ClassVar[Sees | None] = "past"

    def ask(self, batch: "Batch", material: Material, epoch: int) -> Asked:  # noqa: ARG002 -- the same in each
        """The successor of every token that has one worth asking for."""
        ids = batch.input_ids.numpy()
        rows = next_token_rows(
            ids, batch.index.numpy(), batch.span.numpy(), batch.time.numpy(), self.unasked
        )
        rows = rows[material.askable(batch)[rows + 1]]
        return asked(rows, ids[rows + 1])


def next_token_rows(
    ids: npt.NDArray[np.int64],
    index: npt.NDArray[np.int64],
    span: npt.NDArray[np.int64],
    time: npt.NDArray[np.int64],
    unasked: tuple[int, ...] = (PAD_ID, UNK_ID),
) -> npt.NDArray[np.int64]:
    """The tokens [M] whose successor is to be forecast.

    The successor must be of the same span, next to it in the record (behind the prefix of a window
    that is cut comes a gap), and worth asking for: static tokens are known from the start.

    Args:
        ids: [T] token ids.
        index: [T] where each lies in the split.
        span: [T] which span each is of.
        time: [T] microseconds, `STATIC` for static tokens.
        unasked: Token ids that are no target.

    Examples:
        >>> ids, time = np.array([5, 9, UNK_ID, 8, 7]), np.array([STATIC, 1, 2, 3, 4])
        >>> next_token_rows(ids, np.arange(5), np.zeros(5, int), time).tolist()
        [0, 2, 3]
    """
    asked_for = (
        (span[1:] == span[:-1])
        & (index[1:] == index[:-1] + 1)
        & (time[1:] != STATIC)
        & ~np.isin(ids[1:], unasked)
    )
    return np.flatnonzero(asked_for)
