"""Rows of labels that say yes and no of one subject at one time."""

from collections.abc import Iterator

import polars as pl

from ehr_eval.audit.found import Finding, ids
from ehr_eval.audit.inputs import LABEL, Inputs
from ehr_eval.frames import KEY


def labels_that_contradict(inputs: Inputs) -> Iterator[Finding]:
    """Subjects and times with two answers."""
    inputs.require("labels")
    for task, frame in inputs.raw_labels.items():
        answers = frame.group_by(KEY).agg(n=pl.col(LABEL).n_unique())
        both = answers.filter(pl.col("n") > 1)
        if both.height:
            yield Finding(
                task,
                f"{both.height:,} rows (subject and time) are there with both answers",
                both.height,
                subjects=ids(both["subject_id"]),
            )
