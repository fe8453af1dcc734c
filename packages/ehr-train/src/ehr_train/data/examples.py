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
    subject: npt.NDArray[np.int64]
    """[E] row of `tokens`."""
    visible: npt.NDArray[np.int64]
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
    """Every subject that has a token, with all of its tokens."""
    lengths = np.diff(tokens.offsets)
    subject = np.flatnonzero(lengths)
    return Examples(tokens, subject, lengths[subject])


def label_examples(rows: LabelRows, tokens: "Tokens") -> Examples:
    """The labels of the subjects of one split; a prediction time itself is visible.

    Args:
        rows: Of any subjects.
        tokens: The split.

    Raises:
        ContractError: If nothing at all is known of a subject at its prediction time.
    """
    from ehr_models.data.cutoff import visible_tokens

    order = np.argsort(tokens.subject_id, kind="stable")
    at = np.searchsorted(tokens.subject_id, rows.subject_id, sorter=order)
    row = order[np.minimum(at, len(order) - 1)] if len(order) else np.zeros(0, np.int64)
    mine = np.flatnonzero(tokens.subject_id[row] == rows.subject_id) if len(order) else row
    row = row[mine]
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
