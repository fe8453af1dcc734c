"""Shots that are held-out rows, or more than their k."""

from collections.abc import Iterator

import polars as pl

from ehr_eval.audit.found import Finding, Skipped, ids
from ehr_eval.audit.inputs import LABEL, Inputs
from ehr_eval.frames import KEY
from ehr_tracking.contracts import HELD_OUT
from ehr_tracking.manifest import check_file, load_manifest


def shots_of_the_held_out(inputs: Inputs) -> Iterator[Finding]:
    """Rows that are learnt from or chosen by, though their subject is judged on."""
    inputs.require("shots")
    root = inputs.given.shots
    assert root is not None
    shots = pl.read_parquet(check_file(root, load_manifest(root), "shots.parquet"))
    for (task,), part in shots.group_by("task", maintain_order=True):
        judged = part.filter(split=HELD_OUT)
        used = part.filter(pl.col("split") != HELD_OUT)
        inside = used.filter(pl.col("subject_id").is_in(judged["subject_id"].unique().implode()))
        who = ids(inside["subject_id"])
        rows = inside.unique(KEY).height
        if who:
            yield Finding(
                str(task),
                f"{rows:,} shots are of {len(who):,} subjects that are judged on",
                rows,
                subjects=who,
            )
        yield from _too_many(str(task), used)
    try:
        reference = inputs.splits
    except Skipped:
        return
    other = (
        shots.select("subject_id", "split")
        .unique()
        .join(reference, on="subject_id", suffix="_of_data")
        .filter(pl.col("split") != pl.col("split_of_data"))
    )
    if other.height:
        who = ids(other["subject_id"])
        yield Finding(
            "shots",
            f"{len(who):,} subjects are in another split than in the data",
            len(who),
            subjects=who,
        )


def _too_many(task: str, used: pl.DataFrame) -> Iterator[Finding]:
    drawn = used.filter(pl.col("k") > 0).group_by("k", "replicate", "split", LABEL).len()
    more = drawn.filter(pl.col("len") > pl.col("k"))
    if more.height:
        yield Finding(
            task, f"{more.height:,} draws hold more rows of a class than their k", more.height
        )
