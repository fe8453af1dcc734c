"""Judge models by what records are like: `strata/1` with a report."""

import json
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from ehr_eval.frames import PRODUCER
from ehr_eval.judge.bootstrap import interval
from ehr_eval.predictions import predictions_source
from ehr_eval.protocol.shown import lineage, shown_score
from ehr_eval.protocol.tables import arrow_schema, write_rows
from ehr_eval.strata.brier import QUARTILES, Stratum, measured_rows, strata
from ehr_eval.strata.config import StrataConfig
from ehr_eval.strata.inputs import Told, open_tasks
from ehr_eval.strata.measures import MEASURES
from ehr_tracking.arrow.label_files import label_source
from ehr_tracking.config import to_dict
from ehr_tracking.contracts import MEDS, STRATA
from ehr_tracking.errors import UserError
from ehr_tracking.files import PathLike
from ehr_tracking.manifest import Source, new_artifact, raw_source, refuse_existing, seal, source
from ehr_tracking.report import figure, html_page, line_plot, table


def run_strata(
    meds: PathLike,
    labels: PathLike,
    predictions: Mapping[str, PathLike],
    out: PathLike,
    config: StrataConfig | None = None,
    *,
    tokens: PathLike | None = None,
    overwrite: bool = False,
) -> list[Stratum]:
    """Write `strata/1`: Brier scores of quartiles of held-out rows, by each measure of their records.

    Args:
        meds: The data set; one file of it is in memory at a time.
        labels: Of it.
        predictions: Name -> `predictions/1` or a folder like it, or `results/1`.
        out: Where the artifact shall be.
        config: Tasks and bootstraps.
        tokens: `tokens/1` of the data set: measures their number, and follows their delays.
        overwrite: Replace what is there.

    Returns:
        All strata.

    Raises:
        ContractError: If an input is not what it should be, or predictions lack a label.
        ConfigError: If the config names an unknown task.
        UserError: If `out` exists, or there are not four rows of a task that can be ranked.

    Source:
        Wornow et al., Context clues: evaluating long context models for clinical prediction tasks on EHRs,
        ICLR 2025.
    """
    meds, labels, out = Path(meds), Path(labels), Path(out)
    tokens = None if tokens is None else Path(tokens)
    config = config or StrataConfig()
    given = {name: Path(path) for name, path in predictions.items()}
    read = [meds, labels, *given.values(), *([tokens] if tokens else [])]
    refuse_existing(out, STRATA, overwrite=overwrite, inputs=read)
    tasks = open_tasks(meds, labels, given, tokens, config)
    found = strata(tasks, config.bootstraps)
    if not found:
        raise UserError(f"{labels}: no task has four held-out rows to be cut into quartiles")
    inputs = {"meds": raw_source(meds, contract=MEDS), "labels": label_source(labels)}
    inputs |= {f"predictions.{name}": predictions_source(path) for name, path in given.items()}
    inputs |= {"tokens": source(tokens)} if tokens else {}
    with new_artifact(out, STRATA, overwrite=overwrite, inputs=read) as partial:
        n = write_rows(partial / "strata.parquet", [_row(s) for s in found], STRATA.columns)
        rows = measured_rows(tasks).to_arrow().cast(arrow_schema(STRATA.beside["rows.parquet"]))
        _write_table(partial / "rows.parquet", rows)
        _report(partial, found, tasks, config, inputs)
        seal(
            partial,
            STRATA,
            producer=PRODUCER,
            config=to_dict(config),
            seed=config.seed,
            inputs=inputs,
            rows={"strata.parquet": n, "rows.parquet": len(rows)},
        )
    return found


def _write_table(path: Path, rows: object) -> None:
    import pyarrow.parquet as pq

    pq.write_table(rows, path)


def _row(stratum: Stratum) -> dict[str, object]:
    lower, upper = interval(stratum.score.draws)
    return {
        "measure": stratum.measure,
        "task": stratum.task,
        "model": stratum.model,
        "quartile": stratum.quartile,
        "brier": stratum.score.value,
        "lower": lower,
        "upper": upper,
        "rows": stratum.rows,
        "from": stratum.low,
        "to": stratum.high,
    }


def summary(found: Sequence[Stratum]) -> list[dict[str, object]]:
    """For a terminal: a row a measure and model, the mean over tasks of each quartile."""
    return [
        {"measure": measure, "model": model}
        | {f"Q{s.quartile}": round(s.score.value, 4) for s in mine}
        for (measure, model), mine in _by_model(found, None).items()
    ]


def _by_model(found: Sequence[Stratum], task: str | None) -> dict[tuple[str, str], list[Stratum]]:
    groups: dict[tuple[str, str], list[Stratum]] = {}
    for stratum in found:
        if stratum.task == task:
            groups.setdefault((stratum.measure, stratum.model), []).append(stratum)
    return {
        key: groups[key] for key in sorted(groups, key=lambda k: (list(MEASURES).index(k[0]), k[1]))
    }


def _report(
    directory: Path,
    found: Sequence[Stratum],
    tasks: Mapping[str, Told],
    config: StrataConfig,
    inputs: Mapping[str, Source],
) -> None:
    body = [
        "<p>Held-out rows of each task are ranked by what their record is like up to the prediction time, "
        "and cut into quartiles: Q1 is the lowest quarter. Each cell is the Brier score of a quartile (lower "
        "is better), the unweighted mean over tasks; brackets are 95% intervals over patients. It depends on "
        "how frequent outcomes are in a quartile: compare models within one, before quartiles of a model."
        f"</p><p>Tasks: {escape(', '.join(tasks))}.</p>"
    ]
    for measure in dict.fromkeys(m for m, _ in _by_model(found, None)):
        body += _measure(directory, measure, found, tasks)
    body += [
        "<h2>What was run</h2>",
        lineage(inputs),
        f"<pre>{escape(json.dumps(to_dict(config), indent=1))}</pre>",
    ]
    page = html_page("Brier scores by kind of record", body)
    (directory / "report.html").write_text(page, encoding="utf-8")


def _measure(
    directory: Path, measure: str, found: Sequence[Stratum], tasks: Mapping[str, Told]
) -> list[str]:
    means = {m: mine for (name, m), mine in _by_model(found, None).items() if name == measure}
    lines = {m: [(s.quartile, s.score.value) for s in mine] for m, mine in means.items()}
    bands = {m: [_band(s) for s in mine] for m, mine in means.items()}
    path = directory / "plots" / f"{measure}.png"
    line_plot(path, lines, title=measure, x="quartile", y="Brier (mean over tasks)", bands=bands)
    rows = [
        {"task": task or "mean over tasks", "model": model}
        | {f"Q{q}": "-" for q in QUARTILES}
        | {f"Q{s.quartile}": shown_score(s.score) or "-" for s in mine}
        for task in (None, *tasks)
        for (name, model), mine in _by_model(found, task).items()
        if name == measure
    ]
    return [
        f"<h2>{escape(measure)}</h2><p>{escape(MEASURES[measure].capitalize())}.</p>",
        figure(path, f"Brier by quartile of {measure}; shades are 95% intervals over patients"),
        table(rows),
    ]


def _band(stratum: Stratum) -> tuple[float, float]:
    low, high = interval(stratum.score.draws)
    value = stratum.score.value
    return (value if low is None else low, value if high is None else high)
