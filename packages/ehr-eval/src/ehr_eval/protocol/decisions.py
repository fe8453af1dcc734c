"""The report's confusion matrices: what models call the held-out rows at a threshold of tuning."""

from collections.abc import Iterator, Sequence
from html import escape

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ehr_eval.protocol.evaluation import Evaluation
from ehr_tracking.report import table


def confusion(predictions: pa.Table) -> npt.NDArray[np.int64] | None:
    """[2, 2] rows by outcome and by what they are called, no before yes; None without a threshold.

    Examples:
        >>> confusion(pa.table({"boolean_value": [True, False, True],
        ...     "predicted_boolean_value": [True, True, True]})).tolist()
        [[0, 1], [0, 2]]
    """
    called, label = predictions["predicted_boolean_value"], predictions["boolean_value"]
    if called.null_count:
        return None
    cell = 2 * label.to_numpy().astype(np.int64) + called.to_numpy()
    return np.bincount(cell, minlength=4).reshape(2, 2)


def confusion_matrices(evaluations: Sequence[Evaluation]) -> Iterator[str]:
    """A table and a picture a task, of what was fitted on all rows."""
    found = {
        evaluation.task: [
            (model, head, counts)
            for (model, head), told in evaluation.predictions.items()
            if (counts := confusion(told)) is not None
        ]
        for evaluation in evaluations
    }
    if not any(found.values()):
        return
    yield "<h2>Confusion matrices, fitted on all training rows</h2>"
    yield (
        "<p>Of the held-out rows, at the threshold of highest F1 on the tuning rows. Shades are shares "
        "of the rows with that outcome.</p>"
    )
    for task, matrices in found.items():
        if matrices:
            yield f"<h3>{escape(task)}</h3>"
            yield table([_row(*each) for each in matrices])
            yield from (_picture(*each) for each in matrices)


def _row(model: str, head: str, counts: npt.NDArray[np.int64]) -> dict[str, object]:
    (true_no, false_yes), (false_no, true_yes) = counts.tolist()
    return {
        "model": model,
        "head": head,
        "true positive": true_yes,
        "false positive": false_yes,
        "false negative": false_no,
        "true negative": true_no,
        "precision": _share(true_yes, true_yes + false_yes),
        "sensitivity": _share(true_yes, true_yes + false_no),
        "specificity": _share(true_no, true_no + false_yes),
    }


def _share(part: int, whole: int) -> str | None:
    return f"{part / whole:.3f}" if whole else None


def _picture(model: str, head: str, counts: npt.NDArray[np.int64]) -> str:
    """Four squares, as an inlined figure that needs no library."""
    parts = []
    for i, outcome in enumerate(("no", "yes")):
        parts.append(f'<text x="52" y="{62 + 56 * i}" text-anchor="end">{outcome}</text>')
        parts.append(f'<text x="{88 + 56 * i}" y="24" text-anchor="middle">{outcome}</text>')
        for j, count in enumerate(counts[i].tolist()):
            share = count / max(1, int(counts[i].sum()))
            ink = "#fff" if share > 0.55 else "#1b2733"
            parts.append(
                f'<rect x="{60 + 56 * j}" y="{32 + 56 * i}" width="54" height="54" fill="#1f6feb" '
                f'fill-opacity="{0.06 + 0.94 * share:.2f}"/><text x="{87 + 56 * j}" y="{63 + 56 * i}" '
                f'text-anchor="middle" fill="{ink}">{count:,}</text>'
            )
    name = escape(f"{model} {head}")
    return (
        f'<figure style="min-width:0"><svg viewBox="0 0 180 150" width="180" role="img" '
        f'aria-label="Confusion matrix of {name}" font-size="12" fill="#1b2733">{"".join(parts)}'
        '<text x="116" y="10" text-anchor="middle" font-size="10">called</text>'
        '<text transform="translate(12 88) rotate(-90)" text-anchor="middle" font-size="10">'
        f"outcome</text></svg><figcaption>{name}</figcaption></figure>"
    )
