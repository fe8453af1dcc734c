"""What futures begin with: the record of each (subject, prediction time) as it is visible then.

n prompts, V vocabulary.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt
import polars as pl
import torch

from ehr_eval.features.reader import subjects_of
from ehr_eval.frames import KEY, PRODUCER, labelled_rows
from ehr_models.data.batch import Batch, pack
from ehr_models.data.cutoff import visible_tokens
from ehr_models.data.tokens import STATIC, Tokens, leading
from ehr_models.data.windows import Windows, newest
from ehr_tracking.arrow import labels as label_reader
from ehr_tracking.arrow.label_csv import LabelColumns
from ehr_tracking.arrow.parquet import DAY_US
from ehr_tracking.contracts import ContractError

Integers = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Prompts:
    """Some prediction times of one split, by subject and time."""

    tokens: Tokens
    """Of the split; only what `windows` hold is read."""
    windows: Windows
    """[n] the newest visible tokens."""
    subject: Integers
    """[n] subject ids."""
    time: Integers
    """[n] prediction times, microseconds since 1970."""
    last: Integers
    """[n] time of the last visible token; `STATIC` where it has none."""
    born: Integers
    """[n] when age was 0, to microseconds of a float32 of days; the prediction time where that is not known."""

    def __len__(self) -> int:
        """Number of prompts."""
        return len(self.subject)

    def take(self, which: slice) -> Self:
        """Some of them."""
        cut = (getattr(self, name)[which] for name in ("subject", "time", "last", "born"))
        return type(self)(self.tokens, self.windows.take(which), *cut)

    def batch(self) -> Batch:
        """Their tokens."""
        return pack(self.tokens, self.windows)


def make_prompts(
    tokens: Tokens, row: Integers, time: Integers, *, context: int, where: str | Path
) -> Prompts:
    """Look up what is visible.

    Args:
        tokens: One split.
        row: [n] rows of it.
        time: [n] prediction times.
        context: Most tokens of a prompt.
        where: The tokens, for the message.

    Raises:
        ContractError: If at a prediction time no token is visible.
    """
    visible = visible_tokens(tokens, row, time)
    if (visible == 0).any():
        blind = int((visible == 0).argmax())
        raise ContractError(
            f"{where}: {int((visible == 0).sum()):,} prediction times see no token, the first of subject "
            f"{tokens.subject_id[row[blind]]} at {np.datetime64(int(time[blind]), 'us')}; leave them out, "
            "or tokenise with [BOS] or static codes"
        )
    at = tokens.offsets[row] + visible - 1
    last, days = tokens.time[at].astype(np.int64), tokens.age[at].astype(np.float64)
    dated = last != STATIC
    born = np.where(dated, np.where(dated, last, 0) - np.rint(days * DAY_US).astype(np.int64), time)
    return Prompts(
        tokens=tokens,
        windows=newest(tokens, row, visible, context),
        subject=tokens.subject_id[row].astype(np.int64),
        time=time,
        last=last,
        born=born,
    )


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """Prediction times that are drawn together."""

    number: int
    split: str
    row: Integers
    """[n] rows of the split."""
    time: Integers
    """[n] prediction times."""

    def __str__(self) -> str:
        """For messages."""
        return f"part {self.number}"


def cut_parts(
    labels: Path,
    splits: Mapping[str, Tokens],
    size: int,
    *,
    where: Path,
    columns: LabelColumns | None = None,
) -> list[Part]:
    """Whose futures are asked for, and from when on, in parts: the union of all tasks' labels.

    Args:
        labels: Anyone's MEDS labels; their values do not matter.
        splits: Name -> tokens.
        size: Most prediction times of a part.
        where: The tokens, for messages.
        columns: What a CSV file calls its columns.

    Raises:
        ContractError: If the labels cannot be read, are empty, or name a subject that is not there.
    """
    tables = label_reader.read_labels(labels, reader=PRODUCER, columns=columns)
    rows = labelled_rows(tables, subjects_of(splits), where=where)
    if not rows.height:
        raise ContractError(f"{labels} holds no label, so nobody's future is asked for")
    return cut_rows(rows, list(splits), size)


def cut_rows(rows: pl.DataFrame, splits: Sequence[str], size: int) -> list[Part]:
    """Parts of rows that are labelled already.

    Args:
        rows: subject_id, prediction_time, split, subject_row; as of `labelled_rows`.
        splits: In the order in which their parts come.
        size: Most rows of a part.
    """
    parts: list[Part] = []
    for split in splits:
        mine = rows.filter(split=split).sort(KEY)
        row = mine["subject_row"].to_numpy().astype(np.int64)
        time = mine["prediction_time"].dt.epoch("us").to_numpy().astype(np.int64)
        for start in range(0, mine.height, size):
            cut = slice(start, start + size)
            parts.append(Part(len(parts), split, row[cut], time[cut]))
    return parts


def dateless(splits: Mapping[str, Tokens], vocabulary: int) -> npt.NDArray[np.bool_]:
    """[V] which tokens the train split knows without a time only: what is always true of a subject.

    Of a large split the beginning is looked at: such tokens are in nearly every record.

    Args:
        splits: Name -> tokens; without a train split none is known.
        vocabulary: V.
    """
    seen = np.zeros((2, vocabulary), bool)
    train = splits.get("train")
    if train is not None:
        for start in range(0, min(len(train.token), _LOOKED_AT), _AT_ONCE):
            token = train.token[start : start + _AT_ONCE].astype(np.int64)
            dated = train.time[start : start + _AT_ONCE] != STATIC
            seen[0][token[~dated]] = True
            seen[1][token[dated]] = True
    known: npt.NDArray[np.bool_] = seen[0] & ~seen[1]
    return known


_AT_ONCE, _LOOKED_AT = 2**22, 2**25
"""Tokens looked at together, and in all."""


def newest_places(token: Integers, time: Integers, context: int) -> Integers:
    """Which tokens of a record fit a context: its head and the newest, as of `data.windows.newest`.

    Args:
        token: [T]
        time: [T]
        context: Most tokens. At most half of them go to the head.

    Examples:
        >>> newest_places(np.array([5, 9, 8, 8, 8, 8]), np.array([STATIC, STATIC, 1, 2, 3, 4]), 4).tolist()
        [0, 1, 4, 5]
    """
    if len(token) <= context:
        return np.arange(len(token))
    head = min(int(leading(np.array([0, len(token)]), token, time)[0]), context // 2)
    return np.concatenate([np.arange(head), np.arange(len(token) - context + head, len(token))])


def span_batch(spans: Sequence[tuple[Integers, Integers, npt.NDArray[np.float32]]]) -> Batch:
    """A batch of tokens that lie in no split: of records with the beginning of a future.

    Args:
        spans: Tokens, times and ages of each.
    """
    lengths = [len(span[0]) for span in spans]
    ends = np.concatenate([[0], np.cumsum(lengths)])
    number = np.repeat(np.arange(len(lengths)), lengths)
    token, time, age = (torch.from_numpy(np.concatenate(x)) for x in zip(*spans, strict=True))
    zeros = torch.zeros(len(number), dtype=torch.int64)
    return Batch(
        input_ids=token,
        position_ids=torch.from_numpy(np.arange(len(number)) - ends[number]),
        age=age.float(),
        time=time,
        visit=zeros,
        segment=zeros,
        index=zeros,
        span=torch.from_numpy(number),
        cu_seqlens=torch.from_numpy(ends.astype(np.int32)),
        max_length=max(lengths),
    )
