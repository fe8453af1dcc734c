"""Examples: a subject, how much of its record may be seen, and where there is one its label.

E examples.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
import numpy.typing as npt

from ehr_tracking.contracts import ContractError
from ehr_train import PRODUCER

if TYPE_CHECKING:
    import pyarrow as pa

    from ehr_models.data.tokens import Tokens, TokenSet


@dataclass(frozen=True, eq=False)
class Examples:
    """What a model is shown of a split."""

    tokens: "Tokens"
    subject: npt.NDArray[np.int64]
    """[E] row of `tokens`."""
    visible: npt.NDArray[np.int64]
    """[E] tokens of the subject that may be seen, counted from its first; at least 1."""
    label: npt.NDArray[np.float32] | None = None
    """[E] 0 or 1, where the task is to tell them apart."""

    def __len__(self) -> int:
        """Number of examples."""
        return len(self.subject)

    def take(self, index: npt.NDArray[np.int64]) -> Self:
        """Those examples, in that order."""
        label = None if self.label is None else self.label[index]
        return type(self)(self.tokens, self.subject[index], self.visible[index], label)


def whole_records(tokens: "Tokens") -> Examples:
    """Every subject that has a token, with all of its tokens."""
    lengths = np.diff(tokens.offsets)
    subject = np.flatnonzero(lengths)
    return Examples(tokens, subject, lengths[subject])


def read_labels(path: Path) -> "pa.Table":
    """Read the binary labels of one task.

    Args:
        path: Of one task, or of a directory that holds no other; anyone's, or a `labels/1` artifact.

    Returns:
        `subject_id`, `prediction_time` (microseconds), `boolean_value`; sorted by the first two,
        without nulls.

    Raises:
        ContractError: Naming the tasks where there are several, or what is wrong with a file.
    """
    from ehr_tracking.arrow.labels import binary, read_task

    task, table = read_task(path, reader=PRODUCER)
    return binary(table, task=task)


def refuse_unknown(labels: "pa.Table", tokens: "TokenSet", *, where: Path) -> None:
    """Raise where a label speaks of a subject that the tokens do not hold, in any split.

    Raises:
        ContractError: Naming how many such subjects there are, and the first.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    from ehr_tracking.arrow.labels import require_known

    shards = [p for p in tokens.manifest.files if "/" in p and p.endswith(".parquet")]
    columns = [pq.read_table(tokens.directory / p, columns=["subject_id"]) for p in shards]
    known = pa.concat_tables(columns)["subject_id"].to_numpy() if columns else np.zeros(0, np.int64)
    require_known({where.name: labels}, known, where=tokens.directory)


def label_examples(labels: "pa.Table", tokens: "Tokens") -> Examples:
    """The labels of the subjects of one split; a prediction time itself is visible.

    Args:
        labels: From `read_labels`.
        tokens: The split.

    Raises:
        ContractError: If nothing at all is known of a subject at its prediction time.
    """
    import pyarrow as pa

    from ehr_models.data.cutoff import visible_tokens

    order = np.argsort(tokens.subject_id, kind="stable")
    subject_id = labels["subject_id"].to_numpy()
    at = np.searchsorted(tokens.subject_id, subject_id, sorter=order)
    row = order[np.minimum(at, len(order) - 1)] if len(order) else np.zeros(0, np.int64)
    mine = np.flatnonzero(tokens.subject_id[row] == subject_id) if len(order) else row
    row = row[mine]
    time = labels["prediction_time"].cast(pa.int64()).to_numpy()[mine]
    visible = visible_tokens(tokens, row, time)
    if (visible == 0).any():
        raise ContractError(
            f"subject {tokens.subject_id[row[np.argmin(visible)]]} has no token up to its prediction time"
        )
    value = labels["boolean_value"].to_numpy()[mine].astype(np.float32)
    return Examples(tokens, row, visible, value)
