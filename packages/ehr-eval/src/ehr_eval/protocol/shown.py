"""How the report says settings, shots and scores."""

from collections.abc import Mapping, Sequence
from html import escape

from ehr_eval.judge.bootstrap import interval
from ehr_eval.judge.compare import GroupMean, Model, Score, difference
from ehr_eval.judge.metrics import METRICS
from ehr_eval.protocol.cell import Setting
from ehr_eval.protocol.config import EhrshotConfig
from ehr_eval.protocol.evaluation import Evaluation
from ehr_tracking.manifest import Source

TITLES = {name: metric.heading for name, metric in METRICS.items()}
"""Metric -> what a person reads."""
BEST = "best possible"
"""In place of a model: the risks that a simulated data set knows."""


def settings_of(evaluations: Sequence[Evaluation], k: int | None = None) -> list[Setting]:
    """The settings that occur, in order of evaluation; of one k where it is given."""
    rows = (row for e in evaluations for row in e.rows)
    found = dict.fromkeys(Setting(row["model"], row["head"], row["k"]) for row in rows)
    return [setting for setting in found if k is None or setting.k == k]


def most_shots(config: EhrshotConfig) -> int:
    """The k with the most rows."""
    return -1 if -1 in config.ks else max(config.ks)


def shown_k(k: int) -> str:
    """For a table."""
    return "all" if k == -1 else str(k)


def shown_shots(k: int) -> str:
    """For a sentence."""
    return "fitted on all training rows" if k == -1 else f"fitted on {k} rows of each class"


def shown_score(score: Score | None) -> str | None:
    """With the interval of its bootstrap."""
    return None if score is None else shown_interval(score.value, *interval(score.draws))


def shown_mean(mean: GroupMean | None) -> str | None:
    """With half of its interval."""
    if mean is None:
        return None
    return f"{mean.value:.3f}" if mean.half is None else f"{mean.value:.3f} ± {mean.half:.3f}"


def shown_interval(value: float | None, lower: float | None, upper: float | None) -> str | None:
    """A value, with an interval where there is one."""
    if value is None:
        return None
    shown = f"{value:.3f}"
    return shown if lower is None or upper is None else f"{shown} ({lower:.3f}, {upper:.3f})"


def shown_differences(scores: Mapping[Model, Score | None], base: Model) -> list[dict[str, object]]:
    """A row for each other model: its score minus that of one, paired by patient; none without that one."""
    theirs = scores.get(base)
    if theirs is None:
        return []
    return [
        {
            "model": model.name,
            "head": model.head,
            "difference": shown_interval(*difference(ours, theirs)),
        }
        for model, ours in scores.items()
        if ours is not None and model != base
    ]


def lineage(inputs: Mapping[str, Source]) -> str:
    """What was read, each with what it was made from, as a nested list."""
    items = "".join(
        f"<li>{escape(role)}: {escape(item.contract)} by {escape(item.producer)}, "
        f"<code>{item.fingerprint[:16]}</code>{lineage(item.inputs) if item.inputs else ''}</li>"
        for role, item in inputs.items()
    )
    return f"<ul>{items}</ul>"
