"""Models in pairs: differences by task with what is left of them behind a correction, and win rates.

B bootstrap draws.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from ehr_eval.judge.compare import Score, difference, group_mean
from ehr_eval.judge.multiple import benjamini_hochberg, bootstrap_p, holm
from ehr_eval.protocol.cell import Setting
from ehr_eval.protocol.config import GIVEN, EhrshotConfig
from ehr_eval.protocol.evaluation import AUROC, Evaluation
from ehr_eval.protocol.shown import settings_of
from ehr_tracking.config import ConfigError

_CLEAR = 0.05
"""What a corrected p value is below where a difference is called clear."""


@dataclass(frozen=True, slots=True)
class Pair:
    """Whose AUROC is compared with whose."""

    model: Setting
    other: Setting

    def columns(self) -> dict[str, Any]:
        """What names it in a row."""
        return {
            "model": self.model.model,
            "baseline": self.other.model,
            "head": self.model.head,
            "baseline_head": self.other.head,
            "k": self.model.k,
        }


@dataclass(frozen=True, slots=True, eq=False)
class Compared:
    """The rows of comparisons and pairs."""

    tasks: tuple[dict[str, Any], ...]
    """Of `comparisons.parquet`."""
    pairs: tuple[dict[str, Any], ...]
    """Of `pairs.parquet`."""

    def with_baseline(self, name: str) -> list[dict[str, Any]]:
        """Those by task of a model beside the baseline."""
        return [row for row in self.tasks if row["baseline"] == name]


def compare(evaluations: Sequence[Evaluation], config: EhrshotConfig) -> Compared:
    """Compare every two models, and those that the config names, on all tasks.

    Args:
        evaluations: One a task.
        config: Its baseline is the second of each pair that it is in.

    Raises:
        ConfigError: If it names a model or head that was not evaluated.
    """
    tasks: list[dict[str, Any]] = []
    pairs: list[dict[str, Any]] = []
    for pair in pairs_of(settings_of(evaluations), config):
        rows = list(_of_pair(evaluations, pair))
        if rows:
            tasks += [row for row, _ in rows]
            pairs.append(_over_tasks(pair, rows))
    order = {evaluation.task: i for i, evaluation in enumerate(evaluations)}
    tasks.sort(key=lambda row: order[row["task"]])
    return Compared(tuple(tasks), tuple(pairs))


def pairs_of(settings: Sequence[Setting], config: EhrshotConfig) -> list[Pair]:
    """Every two models at the same head and k, then what the config names.

    What was predicted elsewhere has no head of ours: it is compared with each of the other's.
    """
    last = sorted(settings, key=lambda setting: setting.model == config.baseline)
    found = [
        Pair(model, other)
        for model, other in combinations(last, 2)
        if model.k == other.k
        and model.model != other.model
        and (model.head == other.head or GIVEN in (model.head, other.head))
    ]
    for first, second in config.compare:
        found += [
            Pair(model, other)
            for model in _named(first, settings)
            for other in _named(second, settings)
            if model.k == other.k
            and model != other
            and (model.head == other.head or "/" in first + second)
        ]
    return list(dict.fromkeys(found))


def _named(name: str, settings: Iterable[Setting]) -> list[Setting]:
    model, _, head = name.partition("/")
    found = [s for s in settings if s.model == model and head in ("", s.head)]
    if not found:
        known = ", ".join(sorted({f"{s.model}/{s.head}" for s in settings}))
        raise ConfigError(f"compare: there is no {name}; there are {known}")
    return found


def _of_pair(
    evaluations: Sequence[Evaluation], pair: Pair
) -> Iterator[tuple[dict[str, Any], Score]]:
    """A row a task, with the difference that it tells."""
    found = []
    for evaluation in evaluations:
        ours, theirs = (evaluation.mean(each, AUROC) for each in (pair.model, pair.other))
        if ours is not None and theirs is not None:
            score = Score(ours.value - theirs.value, ours.draws - theirs.draws)
            found.append((evaluation.task, ours, theirs, score, bootstrap_p(score.draws)))
    known = [p for *_, p in found if p is not None]
    corrected = iter(zip(holm(known), benjamini_hochberg(known), strict=True))
    for task, ours, theirs, score, p in found:
        p_holm, p_bh = (None, None) if p is None else next(corrected)
        row = {
            "task": task,
            **pair.columns(),
            "model_auroc": ours.value,
            "baseline_auroc": theirs.value,
            **difference(ours, theirs)._asdict(),
            "p": p,
            "p_holm": p_holm,
            "p_bh": p_bh,
        }
        yield row, score


def _over_tasks(pair: Pair, rows: Sequence[tuple[dict[str, Any], Score]]) -> dict[str, Any]:
    ahead = [row["difference"] for row, _ in rows]
    wins, losses = sum(d > 0 for d in ahead), sum(d < 0 for d in ahead)
    ties = len(ahead) - wins - losses
    clear = [
        row["difference"] for row, _ in rows if row["p_holm"] is not None and row["p_holm"] < _CLEAR
    ]
    mean = group_mean([score for _, score in rows])
    assert mean is not None
    return {
        **pair.columns(),
        "tasks": len(ahead),
        "wins": wins,
        "ties": ties,
        "losses": losses,
        "win_rate": (wins + ties / 2) / len(ahead),
        "clear_wins": sum(d > 0 for d in clear),
        "clear_losses": sum(d < 0 for d in clear),
        "difference": mean.value,
        "lower": None if mean.half is None else mean.value - mean.half,
        "upper": None if mean.half is None else mean.value + mean.half,
    }
