"""Examples: a subject, how much of its record may be seen, and where there is one its label.

E examples, C labels, M measurements.
"""

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt

from ehr_tracking.contracts import ContractError
from ehr_train.data.labels import LabelRows

if TYPE_CHECKING:
    from ehr_models.data.tokens import Tokens


@dataclass(frozen=True, eq=False)
class Examples:
    """What a model is shown of a split."""

    tokens: "Tokens"
    subject: npt.NDArray[np.signedinteger]
    """[E] row of `tokens`."""
    visible: npt.NDArray[np.signedinteger]
    """[E] tokens of the subject that may be seen, counted from its first; at least 1."""
    label: npt.NDArray[Any] | None = None
    """What its labels say, by problem: [E] float32 0 or 1 (binary), [E, C] of several (multilabel),
    [E] int64 places in `names` (multiclass), [E] float64 (regression), [E, 2] float64 days and
    whether the event came then (survival)."""
    names: tuple[str, ...] = ()
    """Of the classes, or of the C labels."""
    weight: npt.NDArray[np.float32] | None = None
    """[E] what the loss of each is multiplied by."""
    measurements: npt.NDArray[np.float32] | None = None
    """[E, M] numbers that were known then, as they are; not a number where one is missing."""
    measured: tuple[str, ...] = ()
    """What the M measurements are called."""

    def __len__(self) -> int:
        """Number of examples."""
        return len(self.subject)

    def take(self, index: npt.NDArray[np.int64]) -> Self:
        """Those examples, in that order."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        rows: dict[str, Any] = {n: v[index] for n, v in values.items() if isinstance(v, np.ndarray)}
        return replace(self, **rows)


def whole_records(tokens: "Tokens") -> Examples:
    """Every subject that has a token, with all of its tokens: 8 bytes of memory a subject."""
    ends = tokens.offsets
    # straight to half the size: whole numbers wrap around, so it is right below 2**31 tokens of a subject
    length = np.subtract(ends[1:], ends[:-1], dtype=np.int32, casting="unsafe")
    if int(length.sum(dtype=np.int64)) != int(ends[-1]):
        length = np.diff(ends)
    subject = np.arange(len(tokens), dtype=np.int32)
    if not length.all():
        subject = subject[length > 0]
        length = length[subject]
    return Examples(tokens, subject, length)


def label_examples(rows: LabelRows, tokens: "Tokens") -> Examples:
    """The labels of the subjects of one split; a prediction time itself is visible.

    Where a subject has several rows, each is a text of what was known at one prediction time: of a label it is
    the row that ends then.

    Args:
        rows: Of any subjects.
        tokens: The split.

    Raises:
        ContractError: If nothing at all is known of a subject at its prediction time, or no row ends then.
    """
    from ehr_models.data.cutoff import visible_tokens

    row, mine = _rows_of(rows, tokens)
    visible = visible_tokens(tokens, row, rows.time[mine])
    if (visible == 0).any():
        raise ContractError(
            f"subject {tokens.subject_id[row[np.argmin(visible)]]} has no token up to its prediction time"
        )
    return Examples(
        tokens,
        row,
        visible,
        rows.label[mine],
        rows.names,
        weight=None if rows.weight is None else rows.weight[mine],
        measurements=None if rows.measurements is None else rows.measurements[mine],
        measured=rows.measured,
    )


def _rows_of(
    rows: LabelRows, tokens: "Tokens"
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """The row of each label whose subject is in the split, and which labels these are."""
    none = np.zeros(0, np.int64)
    if not len(tokens):
        return none, none
    subject = tokens.subject_id
    if (subject[1:] > subject[:-1]).all():  # as splits of records are: no need to sort them
        at = np.minimum(np.searchsorted(subject, rows.subject_id), len(subject) - 1)
        mine = np.flatnonzero(subject[at] == rows.subject_id)
        return at[mine], mine
    end = none
    if len(np.unique(subject)) < len(subject):
        end = tokens.time[tokens.offsets[1:] - 1]
    order = np.lexsort((end, subject)) if len(end) else np.argsort(subject, kind="stable")
    first = np.searchsorted(subject, rows.subject_id, sorter=order)
    mine = np.flatnonzero(subject[order[np.minimum(first, len(order) - 1)]] == rows.subject_id)
    at = first[mine]
    if len(end):
        last = np.searchsorted(subject, rows.subject_id[mine], side="right", sorter=order)
        wanted = rows.time[mine]
        while (earlier := (end[order[at]] < wanted) & (at + 1 < last)).any():
            at = at + earlier
        if (wrong := end[order[at]] != wanted).any():
            number = int(mine[np.argmax(wrong)])
            raise ContractError(
                f"subject {rows.subject_id[number]} has no text of "
                f"{rows.time[number].astype('datetime64[us]')}; are labels and narratives of one making?"
            )
    return order[at], mine
