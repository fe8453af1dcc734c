"""Predictions that are the label."""

from collections.abc import Iterator

import numpy as np

from ehr_eval.audit.found import Finding, Skipped
from ehr_eval.audit.inputs import LABEL, PROBABILITY, Inputs
from ehr_eval.judge.ranks import auroc

_LEAST = 5
"""Rows of each class below which a perfect score is no wonder."""


def predictions_are_the_label(inputs: Inputs) -> Iterator[Finding]:
    """Probabilities that part the classes without one mistake."""
    if not inputs.predictions:
        raise Skipped("needs --predictions or --results")
    for model, tasks in inputs.predictions.items():
        for task, frame in tasks.items():
            label = frame[LABEL].to_numpy().astype(bool)
            if min(label.sum(), (~label).sum()) < _LEAST:
                continue
            value = frame[PROBABILITY].cast(float).to_numpy()
            if auroc(value[:, None], label)[0] < 1:
                continue
            same = np.array_equal(value, label)
            told = "are the label itself" if same else "part yes from no without one mistake"
            yield Finding(
                f"{model} on {task}", f"{frame.height:,} predictions {told}: AUROC 1", frame.height
            )
