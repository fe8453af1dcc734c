"""How a comparison says scores: a value, its interval over patients, how far its seeds are apart."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ehr_eval.compare.opened import Artifact, Given
from ehr_eval.compare.resampled import draw_files
from ehr_eval.compare.seeds import GROUP, TASK
from ehr_eval.compare.shares import SHARE, best_table
from ehr_eval.compare.tables import Tables, most_shots, rows
from ehr_eval.judge.metrics import METRICS
from ehr_eval.protocol.evaluation import AUROC
from ehr_eval.protocol.groups import ALL
from ehr_eval.protocol.shown import BEST, shown_interval, shown_k
from ehr_tracking.report import table

MEANS = (AUROC, "auprc", "brier", "calibration_error")
"""Metrics that a leader's row has."""
SHARE_HEADING = "Share of the way to the best"
_EXACT = (
    "Brackets are 95% intervals over patients: percentiles over a bootstrap, in each draw of which seeds, tasks and the two "
    "sides of a difference are averaged and subtracted. They cover neither the draw of the shots nor training; ± is the standard "
    "deviation over seeds. A calibration error grows in resamples, so that its interval may lie above it."
)
_BEFORE = (
    "{names}: made by a version that kept no bootstrap draws. There the bounds of several seeds are the means of the seeds' "
    "bounds, as if these erred alike, which is rather too wide than too narrow, and means over tasks have EHRSHOT's interval. "
    "Evaluate again for exact ones."
)


def legend(given: Given) -> list[str]:
    """How intervals were made, a paragraph each."""
    before = [name for name, item in given.results.items() if not draw_files(item)]
    return [_EXACT, *([_BEFORE.format(names=", ".join(before))] if before else [])]


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
    headings = {m: METRICS[m].heading for m in MEANS}
    if any(SHARE in of for of in found.values()):
        headings[SHARE] = SHARE_HEADING
    return [
        {
            "model": model,
            "head": head,
            "seeds": max(row["seeds"] for row in of.values()),
            "tasks": _counted([row["n"] for row in of.values()]),
            **{heading: shown(of[m]) if m in of else None for m, heading in headings.items()},
            "AUROC of seeds": _range(of.get(AUROC)),
        }
        for model, head in order
        for of in [found[model, head]]
    ]


def _counted(tasks: list[int]) -> int | str:
    """Over how many tasks figures are means; some are not defined for every one.

    Examples:
        >>> _counted([3, 3]), _counted([2, 3])
        (3, '2 to 3')
    """
    few, many = min(tasks), max(tasks)
    return few if few == many else f"{few} to {many}"


def by_task(tables: Tables, name: str, item: Artifact) -> list[dict[str, object]]:
    """A row a task of some results, a column a model and head: AUROC at the most shots, and the best possible."""
    scores = rows(tables.scores, results=name, level=TASK, metric=AUROC, k=most_shots(item))
    known = best_table(item)
    ideal = {
        row["task"]: shown_interval(row["value"], row["lower"], row["upper"])
        for row in ([] if known is None else known.to_dicts())
    }
    settings = dict.fromkeys(f"{row['model']} {row['head']}" for row in scores)
    found: dict[str, dict[str, object]] = {}
    values: dict[str, dict[str, float]] = {}
    for row in scores:
        start = {"task": row["task"], "n": row["n"], "positive": row["positives"]}
        if ideal:
            start[BEST] = ideal.get(row["task"])
        line = found.setdefault(row["task"], {**start, **dict.fromkeys(settings), "highest": None})
        line[setting := f"{row['model']} {row['head']}"] = shown(row)
        if row["value"] is not None:
            of = values.setdefault(row["task"], {})
            of[setting] = row["value"]
            line["highest"] = ", ".join(n for n, value in of.items() if value == max(of.values()))
    return list(found.values())


def by_shots(tables: Tables, name: str, metric: str) -> list[dict[str, object]]:
    """A row a model and head, a column a k: the mean over all tasks of some results."""
    means = rows(tables.scores, results=name, level=GROUP, task=ALL, metric=metric)
    ks = sorted({row["k"] for row in means}, key=lambda k: (k == -1, k))
    found: dict[tuple[str, str], dict[str, object]] = {}
    for row in means:
        key = row["model"], row["head"]
        start = {"model": key[0], "head": key[1], **dict.fromkeys(map(shown_k, ks))}
        found.setdefault(key, start)[shown_k(row["k"])] = shown(row)
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
