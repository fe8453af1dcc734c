"""Some rows of each subject, by hash."""

import hashlib

import polars as pl

_KEY = ["subject_id", "prediction_time"]


def draw(rows: pl.DataFrame, most: int, *, name: str, seed: int) -> pl.DataFrame:
    """At most so many rows of each subject, whatever other subjects there are.

    Args:
        rows: subject_id, prediction_time and more.
        most: How many.
        name: Of the task: each has a draw of its own.
        seed: Of all.

    Returns:
        They, by subject and time.
    """
    many = pl.len().over("subject_id") > most
    few, rows = rows.filter(~many), rows.filter(many)

    def key(row: tuple[object, ...]) -> bytes:
        text = f"{seed}:{name}:{row[0]}:{row[1]}"
        return hashlib.blake2b(text.encode(), digest_size=8).digest()

    order = pl.Series("order", [key(r) for r in rows.select(_KEY).iter_rows()], pl.Binary)
    kept = pl.col("order").rank("ordinal").over("subject_id") <= most
    return pl.concat([few, rows.with_columns(order).filter(kept).drop("order")]).sort(_KEY)
