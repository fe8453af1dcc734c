"""How a comparison says scores: a value, its interval over patients, how far its seeds are apart."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ehr_eval.compare.opened import Artifact, Given
from ehr_eval.compare.tables import GROUP, TASK, Tables, most_shots, rows
from ehr_eval.judge.metrics import METRICS
from ehr_eval.protocol.evaluation import AUROC
from ehr_eval.protocol.groups import ALL
from ehr_eval.protocol.shown import shown_interval
from ehr_tracking.report import table

MEANS = (AUROC, "auprc", "brier", "calibration_error")
"""Metrics that a leader's row has."""
LEGEND = (
    "Brackets are 95% intervals over patients; of several seeds the mean of their bounds, as if they erred alike, which "
    "is rather too wide than too narrow. ± is the standard deviation over seeds."
)


def shown(row: Mapping[str, Any]) -> str | None:
    """A score with its interval and spread.

    Examples:
        >>> shown({"value": 0.7, "lower": 0.6, "upper": 0.8, "sd": 0.012})
        '0.700 (0.600, 0.800) ±0.012'
        >>> shown({"value": 0.7, "lower": None, "upper": None, "sd": None})
        '0.700'
    """
    text = shown_interval(row["value"], row["lower"], row["upper"])
    return text if text is None or row["sd"] is None else f"{text} ±{row['sd']:.3f}"


def leaders(tables: Tables, name: str, item: Artifact) -> list[dict[str, object]]:
    """A row a model and head of some results, the highest mean AUROC first.

    Args:
        tables: Over seeds.
        name: Of the results.
        item: They themselves.
    """
    means = rows(tables.scores, results=name, level=GROUP, task=ALL, k=most_shots(item))
    found: dict[tuple[str, str], dict[str, dict[str, Any]]] = {}
    for row in means:
        found.setdefault((row["model"], row["head"]), {})[row["metric"]] = row
    order = sorted(found, key=lambda key: -_value(found[key].get(AUROC)))
    return [
        {
            "model": model,
            "head": head,
            "seeds": max(row["seeds"] for row in found[model, head].values()),
            **{
                METRICS[m].heading: shown(found[model, head][m])
                if m in found[model, head]
                else None
                for m in MEANS
            },
            "AUROC of seeds": _range(found[model, head].get(AUROC)),
        }
        for model, head in order
    ]


def by_task(tables: Tables, name: str, item: Artifact) -> list[dict[str, object]]:
    """A row a task of some results, a column a model and head: AUROC at the most shots."""
    scores = rows(tables.scores, results=name, level=TASK, metric=AUROC, k=most_shots(item))
    settings = dict.fromkeys(f"{row['model']} {row['head']}" for row in scores)
    found: dict[str, dict[str, object]] = {}
    best: dict[str, tuple[float, str]] = {}
    for row in scores:
        start = {"task": row["task"], "n": row["n"], "positive": row["positives"]}
        line = found.setdefault(row["task"], {**start, **dict.fromkeys(settings), "highest": None})
        line[setting := f"{row['model']} {row['head']}"] = shown(row)
        if row["value"] is not None and row["value"] > best.get(row["task"], (-1.0, ""))[0]:
            best[row["task"]] = row["value"], setting
            line["highest"] = setting
    return list(found.values())


def scores_table(rows: Sequence[Mapping[str, object]]) -> str:
    """Rows as a table whose first column stays in view, and whose intervals are not broken over lines."""
    whole = [
        {key: v.replace(", ", ",\u00a0") if isinstance(v, str) else v for key, v in row.items()}
        for row in rows
    ]
    return f'<div class="named">{table(whole)}</div>'


def each(given: Given) -> Iterator[tuple[str, Artifact, str]]:
    """Results with a heading's ending: their name where there are several."""
    for name, item in given.results.items():
        yield name, item, f": {name}" if len(given.results) > 1 else ""


def _value(row: Mapping[str, Any] | None) -> float:
    return -1.0 if row is None or row["value"] is None else float(row["value"])


def _range(row: Mapping[str, Any] | None) -> str | None:
    if row is None or row["sd"] is None:
        return None
    return f"{row['least']:.3f} to {row['most']:.3f}"
