"""Subjects in two splits, in any of what is given, or in another split here than there."""

from collections.abc import Iterator

import polars as pl

from ehr_eval.audit.found import Finding, Skipped, ids
from ehr_eval.audit.inputs import Inputs
from ehr_tracking.arrow.meds import data_files
from ehr_tracking.arrow.parquet import read_table
from ehr_tracking.contracts import SPLITS


def subjects_in_two_splits(inputs: Inputs) -> Iterator[Finding]:
    """Who lies in two splits of one input, or in another than the data set says."""
    told = dict(_told(inputs))
    if not told:
        raise Skipped("needs --meds, --tokens or --features")
    reference, *others = told
    for name, found in told.items():
        twice = (
            found.group_by("subject_id").agg(n=pl.col("split").n_unique()).filter(pl.col("n") > 1)
        )
        if twice.height:
            yield Finding(
                name,
                f"{twice.height:,} subjects are in two splits",
                twice.height,
                subjects=ids(twice["subject_id"]),
            )
    once = told[reference].filter(pl.len().over("subject_id") == 1)
    for name in others:
        both = told[name].join(once, on="subject_id", suffix="_of_reference")
        who = ids(both.filter(pl.col("split") != pl.col("split_of_reference"))["subject_id"])
        if who:
            yield Finding(
                name,
                f"{len(who):,} subjects are in another split than in {reference}",
                len(who),
                subjects=who,
            )


def _told(inputs: Inputs) -> Iterator[tuple[str, pl.DataFrame]]:
    """Input -> distinct subject_id, split that it says."""
    columns = ["subject_id", "split"]
    if inputs.named_splits is not None:
        yield "meds: metadata/subject_splits.parquet", inputs.named_splits.unique()
    if inputs.given.meds is not None:
        folders = [
            pl.DataFrame(pl.from_arrow(read_table(path, ["subject_id"])))
            .unique()
            .select(pl.col("subject_id").cast(pl.Int64), split=pl.lit(folder))
            for path in data_files(inputs.given.meds)
            if (folder := path.relative_to(inputs.given.meds / "data").parts[0]) in SPLITS
        ]
        if folders:
            yield "meds: folders of data/", pl.concat(folders).unique()
    if inputs.given.tokens is not None:
        parts = [f.select("subject_id", split=pl.lit(s)) for s, f in inputs.token_shards()]
        yield "tokens", pl.concat(parts).unique()
    for name, found in inputs.features.items():
        yield f"features {name}", found.index.select(columns).unique()
    for task, frame in _folders_of_labels(inputs).items():
        yield f"labels of {task}", frame


def _folders_of_labels(inputs: Inputs) -> dict[str, pl.DataFrame]:
    """Task -> distinct subject_id, split, of tasks whose files lie in folders of splits."""
    root, found = inputs.given.labels, {}
    if root is None or not root.is_dir():
        return {}
    for task in inputs.raw_labels:
        parts = [
            pl.DataFrame(pl.from_arrow(read_table(path, ["subject_id"])))
            .unique()
            .select(pl.col("subject_id").cast(pl.Int64), split=pl.lit(split))
            for split in SPLITS
            for path in sorted((root / task / split).rglob("*.parquet"))
        ]
        if parts:
            found[task] = pl.concat(parts).unique()
    return found
