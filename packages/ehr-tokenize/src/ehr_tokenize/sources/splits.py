"""Splits that a user or a source brings."""

from pathlib import Path

import polars as pl

from ehr_tokenize.sources.cells import Cells
from ehr_tokenize.sources.tables import parts, pieces
from ehr_tracking.contracts import SPLITS
from ehr_tracking.errors import UserError


def read_split_file(path: Path) -> dict[int, str]:
    """Subject -> split from a table with the columns subject_id and split.

    Raises:
        UserError: If it cannot be read, or a subject is in two splits or in an unknown one.
    """
    named: dict[int, str] = {}
    for file in parts(path):
        for piece in pieces(file, ["subject_id", "split"]):
            cells = Cells(piece)
            add_splits(named, cells, cells.integer("subject_id"), "split")
    return named


def add_splits(named: dict[int, str], cells: Cells, subject: pl.Series, column: str) -> None:
    """Note the splits that a piece names.

    Args:
        named: Is added to.
        cells: The piece. R rows.
        subject: [R] Int64.
        column: Holds the split; null where the row names none.

    Raises:
        UserError: If a subject is in two splits or in an unknown one.
    """
    split = cells.text(column)
    frame = pl.DataFrame(
        {"subject": subject, "split": split, "row": pl.int_range(len(cells), eager=True)}
    )
    for name, one, row in (
        frame.drop_nulls()
        .unique(["subject", "split"], keep="first", maintain_order=True)
        .select("split", "subject", "row")
        .iter_rows()
    ):
        where = f"{cells.piece.path} row {cells.piece.row + row}, column {column}"
        if name not in SPLITS:
            raise UserError(f"{where}: split is {name!r}, MEDS has {', '.join(SPLITS)}")
        if named.setdefault(one, name) != name:
            raise UserError(f"{where}: subject {one} is in two splits, {named[one]} and {name}")
