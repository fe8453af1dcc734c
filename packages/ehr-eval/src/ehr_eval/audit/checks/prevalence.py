"""Outcomes that are far more frequent in one split than in another."""

from collections.abc import Iterator

import polars as pl
from scipy.stats import fisher_exact

from ehr_eval.audit.found import Finding
from ehr_eval.audit.inputs import LABEL, Inputs
from ehr_tracking.contracts import HELD_OUT, TRAIN, TUNING

_RATIO = 2.0
"""Smaller ratios of the odds are no other population, however sure."""


def prevalence_differs(inputs: Inputs) -> Iterator[Finding]:
    """Train against held-out and tuning: a row counts as its share of its subject's rows, since they go together."""
    labels = inputs.labels
    limit = inputs.config.significance / max(1, 2 * len(labels))
    for task, frame in labels.items():
        shares = frame.group_by("subject_id", "split").agg(yes=pl.col(LABEL).mean())
        counts = {
            split: (float(part["yes"].sum()), part.height)
            for (split,), part in shares.group_by("split")
            if split is not None
        }
        if TRAIN not in counts:
            continue
        yes, n = counts[TRAIN]
        for split in (TUNING, HELD_OUT):
            if split not in counts:
                continue
            other, m = counts[split]
            table = [[round(yes), n - round(yes)], [round(other), m - round(other)]]
            odds = (yes + 0.5) * (m - other + 0.5) / ((n - yes + 0.5) * (other + 0.5))
            if fisher_exact(table).pvalue < limit and max(odds, 1 / odds) > _RATIO:
                yield Finding(
                    task,
                    f"the outcome has {yes / n:.1%} of {n:,} subjects in {TRAIN}, but {other / m:.1%} of {m:,} in "
                    f"{split}: drawn from another population, or split by the outcome",
                    m,
                )
