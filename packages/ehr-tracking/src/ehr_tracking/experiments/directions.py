"""Which way a figure is better, by the words of its name, or as a user says."""

import re
from collections.abc import Iterable, Mapping
from typing import Literal, TypeAlias, TypeVar

from ehr_tracking.errors import UserError

Direction: TypeAlias = Literal["min", "max"]
T = TypeVar("T")

WORDS: dict[str, Direction] = {
    **dict.fromkeys(
        [
            "loss",
            "nll",
            "deviance",
            "perplexity",
            "ppl",
            "error",
            "err",
            "mae",
            "mse",
            "rmse",
            "brier",
            "ibs",
            "ece",
            "latency",
            "time",
            "duration",
            "ms",
            "sec",
            "secs",
            "second",
            "seconds",
            "minute",
            "minutes",
            "hour",
            "hours",
            "cost",
            "usd",
            "memory",
            "bytes",
            "mb",
            "gb",
        ],
        "min",
    ),
    **dict.fromkeys(
        [
            "accuracy",
            "acc",
            "auroc",
            "auc",
            "rocauc",
            "auprc",
            "precision",
            "recall",
            "f1",
            "sensitivity",
            "specificity",
            "ppv",
            "npv",
            "mcc",
            "kappa",
            "cindex",
            "concordance",
            "r2",
            "dice",
            "iou",
            "ndcg",
            "mfu",
            "throughput",
        ],
        "max",
    ),
}
"""Word of a name -> whether a low or a high figure is better. The number of parameters is neither."""


def direction(name: str, given: Mapping[str, Direction] | None = None) -> Direction | None:
    """Whether a low or a high figure is better; None where nobody can tell.

    The last word that the table knows decides: in `accuracy_loss` it is the loss. What is counted
    `per` a time is a rate: more is better.

    Args:
        name: Of the figure.
        given: Names for which it is told.

    Examples:
        >>> direction("training_time_hours"), direction("c_index"), direction("tokens_per_second")
        ('min', 'max', 'max')
        >>> direction("integrated_brier_score"), direction("params"), direction("params", {"params": "min"})
        ('min', None, 'min')
    """
    if given and name in given:
        return given[name]
    text = re.sub(r"c_?index", "cindex", re.sub(r"[^a-z0-9]+", "_", name.lower()))
    if re.search(r"_per_(second|sec|minute|hour)s?$", text):
        return "max"
    known = [WORDS[word] for word in text.split("_") if word in WORDS]
    return known[-1] if known else None


def require_directions(given: Mapping[str, str]) -> dict[str, Direction]:
    """Directions that a user gives.

    Raises:
        UserError: For one that is neither `min` nor `max`.
    """
    checked: dict[str, Direction] = {}
    for name, way in given.items():
        if way not in ("min", "max"):
            raise UserError(f"the direction of {name} is {way!r}; say min or max")
        checked[name] = "min" if way == "min" else "max"
    return checked


def best(figures: Iterable[tuple[T, float | None]], way: Direction) -> tuple[list[T], float] | None:
    """Whose figure is the best (several where they are equal), and it; None where nobody has one.

    Args:
        figures: What has them, and the figure; None where it is not a number.
        way: Whether a low or a high one is better.

    Examples:
        >>> best([("a", 0.5), ("b", None), ("c", 0.7)], "max")
        (['c'], 0.7)
    """
    numbers = [(whose, value) for whose, value in figures if value is not None]
    if not numbers:
        return None
    found = (min if way == "min" else max)(value for _, value in numbers)
    return [whose for whose, value in numbers if value == found], found
