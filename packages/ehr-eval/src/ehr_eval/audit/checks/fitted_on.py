"""Predictions of rows that the model learnt from, or chose by."""

from collections.abc import Iterator

import polars as pl

from ehr_eval.audit.found import Finding, Skipped, ids
from ehr_eval.audit.inputs import Inputs
from ehr_tracking.contracts import HELD_OUT


def predicted_rows_fitted_on(inputs: Inputs) -> Iterator[Finding]:
    """Predictions outside the held-out split, and models that were fine-tuned on other tokens."""
    if not inputs.predictions:
        raise Skipped("needs --predictions or --results")
    splits = inputs.splits
    for model, tasks in inputs.predictions.items():
        for task, frame in tasks.items():
            placed = frame.join(splits, on="subject_id", how="left")
            wrong = placed.filter(pl.col("split") != HELD_OUT)
            if wrong.height:
                told = ", ".join(
                    f"{n:,} in {s}" for s, n in wrong["split"].value_counts(sort=True).iter_rows()
                )
                yield Finding(
                    f"{model} on {task}",
                    f"{wrong.height:,} of {frame.height:,} predictions are of rows that it may have been fitted on ({told})",
                    wrong.height,
                    subjects=ids(wrong["subject_id"]),
                )
    yield from _other_tokens(inputs)


def _other_tokens(inputs: Inputs) -> Iterator[Finding]:
    """By lineage: whose splits a fine-tuned model saw is known only of the very tokens that it was tuned on."""
    for name in inputs.given.predictions:
        lineage = inputs.sources[f"predictions.{name}"]
        tuned = lineage.inputs.get("checkpoint")
        if tuned is None or "labels" not in tuned.inputs or "tokens" not in tuned.inputs:
            continue
        read = lineage.inputs.get("tokens")
        if read is not None and read.fingerprint != tuned.inputs["tokens"].fingerprint:
            yield Finding(
                f"predictions {name}",
                "the model was fine-tuned on other tokens than it was read on: whether these rows were among its "
                "training rows cannot be told",
                1,
                severity="warning",
            )
