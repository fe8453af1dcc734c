"""The page on predicted classes and numbers: tables of scores, differences, confusion matrices."""

import json
from collections.abc import Iterator, Mapping
from html import escape
from pathlib import Path

from ehr_eval.judge.compare import Model
from ehr_eval.outcomes.classes import confusion
from ehr_eval.outcomes.config import OutcomesConfig
from ehr_eval.outcomes.judge import NO_MODEL, Judged
from ehr_eval.protocol.shown import lineage, shown_differences, shown_score
from ehr_tracking.config import to_dict
from ehr_tracking.manifest import Source
from ehr_tracking.report import html_page, table


def write_report(
    directory: Path, judged: Judged, config: OutcomesConfig, inputs: Mapping[str, Source]
) -> None:
    """Write report.html, one file that needs no other.

    Args:
        directory: Of the results.
        judged: What came out.
        config: As it was run.
        inputs: What the results were made from.
    """
    floor = f"{NO_MODEL} {judged.problem.floor_head}"
    sizes = ", ".join(f"{split} {n:,}" for split, n in judged.sizes.items())
    body = [
        "<p>Judged on the held-out split; brackets are 95% intervals over patients. "
        f"<code>{floor}</code> says the same of everybody, from the outcomes in train: what any model has "
        "to beat.</p>",
        f"<h2>{escape(judged.task)}</h2>",
        f"<p>Rows: {sizes}.</p>",
        table(list(_scores(judged))),
        *_reasons(judged),
        *_against_baseline(judged, config),
        *_confusion(judged),
        "<h2>What was run</h2>",
        lineage(inputs),
        f"<pre>{escape(json.dumps(to_dict(config), indent=1))}</pre>",
    ]
    page = html_page(f"Predicted outcomes: {judged.problem.name}", body)
    (directory / "report.html").write_text(page, encoding="utf-8")


def _scores(judged: Judged) -> Iterator[dict[str, object]]:
    for model, of in judged.scores.items():
        shown = {judged.problem.metrics[m].title: shown_score(score) for m, score in of.items()}
        chosen = judged.selected.get(model)
        yield {
            "model": model.name,
            "head": model.head,
            **shown,
            "chosen": json.dumps(chosen) if chosen else None,
        }


def _reasons(judged: Judged) -> Iterator[str]:
    for model, of in judged.scores.items():
        for metric, score in of.items():
            if score is None:
                why = judged.problem.metrics[metric].needs
                yield f"<p>No {escape(metric)} of {escape(' '.join(model))}: {escape(why)}.</p>"


def _against_baseline(judged: Judged, config: OutcomesConfig) -> Iterator[str]:
    metric = judged.problem.compared
    base = Model(config.baseline, judged.problem.head)
    rows = shown_differences({m: of[metric] for m, of in judged.scores.items()}, base)
    if rows:
        title = judged.problem.metrics[metric].title
        yield f"<p>{escape(title)} minus that of {escape(' '.join(base))}, paired by patient:</p>"
        yield table(rows)


def _confusion(judged: Judged) -> Iterator[str]:
    if not judged.classes:
        return
    yield "<h2>Confusion matrices</h2>"
    yield "<p>Held-out rows of each class (down), by the class that is likeliest (across).</p>"
    for model, predicted in judged.predicted.items():
        counts = confusion(judged.truth, predicted).tolist()
        yield f"<h3>{escape(' '.join(model))}</h3>"
        yield table(
            [
                {"class": name, **{f"as {c}": n for c, n in zip(judged.classes, row, strict=True)}}
                for name, row in zip(judged.classes, counts, strict=True)
            ]
        )
