"""Predictions of a checkpoint beside few-shot heads on features of the very same one."""

from collections.abc import Iterator
from html import escape

from ehr_eval.compare.opened import Artifact, checkpoints, evaluated, judged
from ehr_eval.compare.seeds import TASK, model_of
from ehr_eval.compare.shown import scores_table, shown
from ehr_eval.compare.tables import Tables, rows
from ehr_eval.protocol.config import GIVEN
from ehr_eval.protocol.evaluation import AUROC
from ehr_eval.protocol.shown import shown_k


def pairs(item: Artifact) -> dict[str, list[str]]:
    """Model that predicted without a label -> models whose features are of the same checkpoint.

    What was predicted by a checkpoint that also gave features was not trained on the task: that would be
    another checkpoint.
    """
    found: dict[str, dict[str, None]] = {}
    inputs, names = item.manifest.inputs, evaluated(item)
    for name in (name for name in names if f"predictions.{name}" in inputs):
        of = checkpoints(judged(item, name))
        same = (n for n in names if f"features.{n}" in inputs and checkpoints(judged(item, n)) & of)
        for other in same:
            found.setdefault(model_of(name), {})[model_of(other)] = None
    return {name: list(others) for name, others in found.items()}


def zeroshot_section(tables: Tables, name: str, item: Artifact, ending: str) -> Iterator[str]:
    """A table a model: AUROC of each task without a label, and at each k; nothing where there is none.

    Args:
        tables: Over seeds.
        name: Of the results.
        item: They themselves.
        ending: Of the heading.
    """
    found = pairs(item)
    if found:
        yield f"<h2>Zero-shot beside few-shot{escape(ending)}</h2>"
        yield (
            "<p>AUROC of what a checkpoint predicts of a task without a label of it, and of heads on features of the "
            "same checkpoint, by shots of each class.</p>"
        )
    for zero, others in found.items():
        for other in others:
            yield f"<h3>{escape(zero)} beside {escape(other)}</h3>"
            yield scores_table(_beside(tables, name, zero, other))


def _beside(tables: Tables, name: str, zero: str, other: str) -> list[dict[str, object]]:
    at = {"results": name, "level": TASK, "metric": AUROC}
    without = {row["task"]: row for row in rows(tables.scores, model=zero, head=GIVEN, **at)}
    few = [row for row in rows(tables.scores, model=other, **at) if row["task"] in without]
    ks = sorted({row["k"] for row in few}, key=lambda k: (k == -1, k))
    found: dict[tuple[str, str], dict[str, object]] = {}
    for row in few:
        start = {"task": row["task"], "head": row["head"], "no label": shown(without[row["task"]])}
        line = found.setdefault((row["task"], row["head"]), start | dict.fromkeys(map(shown_k, ks)))
        line[shown_k(row["k"])] = None if row["value"] is None else f"{row['value']:.3f}"
    return list(found.values())
