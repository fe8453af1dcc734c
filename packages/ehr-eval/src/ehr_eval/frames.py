"""Events, labels and splits as data frames: what the readers of all packages give, for polars."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

import polars as pl
import pyarrow as pa

from ehr_eval import __version__
from ehr_tracking.arrow import labels as label_reader
from ehr_tracking.arrow import meds as meds_reader
from ehr_tracking.arrow import splits as split_reader
from ehr_tracking.arrow.delays import Delays
from ehr_tracking.arrow.label_csv import LabelColumns
from ehr_tracking.config import ConfigError
from ehr_tracking.contracts import SPLITS, ContractError
from ehr_tracking.files import PathLike
from ehr_tracking.report import text_table
from ehr_tracking.tree import note

KEY = list(label_reader.KEY)
"""What names a row of labels, features and predictions."""
PRODUCER = f"ehr-eval {__version__}"
"""Who writes artifacts here, and who reads those of others."""


def read_events(
    path: Path, delays: Delays | None = None, *, more: Sequence[str] = ()
) -> pl.DataFrame:
    """subject_id, time, code, numeric_value (float32) of one file of a MEDS data set.

    Args:
        path: The file.
        delays: Where given, `time` is when an event became known, and rows are in that order.
        more: Further columns, as text; null where the file has none.

    Raises:
        ContractError: If the file is damaged, or its columns are not those of MEDS.
    """
    events = meds_reader.read_events(path, [*meds_reader.COLUMNS, *more])
    return _frame(delays.shift(events) if delays else events)


def require_tasks(asked: Iterable[str] | None, tables: Collection[str], labels: PathLike) -> None:
    """Refuse a task that is asked for by name and is not there.

    Args:
        asked: `tasks` of a config; None: all that there are.
        tables: Tasks that there are.
        labels: Where, for the message.

    Raises:
        ConfigError: Naming the first.
    """
    unknown = sorted(set(asked or ()) - set(tables))
    if unknown:
        raise ConfigError(f"tasks: {labels} has no task {unknown[0]}; it has {', '.join(tables)}")


def read_subjects(meds: Path, files: Sequence[Path], *, seed: int) -> pl.DataFrame:
    """subject_id, file (its number) and split of every subject of a data set.

    Args:
        meds: The data set; subjects that its splits name, but that have no events, are said.
        files: Of it, from `data_files`.
        seed: Of the split by hash.

    Raises:
        ContractError: If a subject is in two files or without a split.
    """
    found = _frame(meds_reader.read_subjects(files))
    splits, subjects = split_reader.read_splits(meds, seed=seed), found["subject_id"].to_numpy()
    names = [SPLITS[i] for i in splits.of_everyone(subjects).tolist()]
    return found.with_columns(split=pl.Series(names, dtype=pl.String))


def tell_tasks(labels: Path, columns: LabelColumns | None = None) -> None:
    """Print what is taken for a task, with its rows and files.

    Args:
        labels: That were read.
        columns: What a CSV file calls its columns.
    """
    note(text_table(label_reader.task_table(labels, reader=PRODUCER, columns=columns)))


def labelled_rows(
    tables: Mapping[str, pa.Table], subjects: pl.DataFrame, *, where: Path
) -> pl.DataFrame:
    """Who features are made for, and when: the union over tasks.

    Args:
        tables: Task -> its labels, of any kind; their values do not matter.
        subjects: subject_id and more, of all subjects of a data set.
        where: The data set.

    Returns:
        subject_id, prediction_time and the further columns of `subjects`; sorted by the first two.

    Raises:
        ContractError: If labels name a subject that is not there, or a subject is there twice.
    """
    twice = subjects.filter(subjects["subject_id"].is_duplicated())["subject_id"]
    if len(twice):
        raise ContractError(f"{where}: subject {twice.sort()[0]} is in more than one file or split")
    label_reader.require_known(tables, subjects["subject_id"].to_numpy(), where=where)
    keys = pl.concat([_frame(table.select(KEY)) for table in tables.values()])
    return keys.unique().join(subjects, on="subject_id", how="left").sort(KEY)


def in_order_of(
    labels: pl.DataFrame, rows: pl.DataFrame, *, where: Path, what: str, mend: str = ""
) -> pl.DataFrame:
    """Labels with what is there of each of them.

    Args:
        labels: subject_id, prediction_time and more.
        rows: The key, each once, and more columns.
        where: What `rows` were read from.
        what: What the labels are, for the message.
        mend: What to do where some are missing.

    Returns:
        `labels` in their order, with the further columns of `rows`.

    Raises:
        ContractError: With the number of labels that `rows` lack, and the first.
    """
    missing = labels.join(rows, on=KEY, how="anti", maintain_order="left")
    if missing.height:
        subject, time = missing.select(KEY).row(0)
        raise ContractError(
            f"{where} lacks {missing.height:,} of {labels.height:,} {what}, the first subject "
            f"{subject} at {time}{mend and '; '}{mend}"
        )
    return labels.join(rows, on=KEY, how="left", maintain_order="left")


def _frame(table: pa.Table) -> pl.DataFrame:
    return pl.DataFrame(pl.from_arrow(table))
