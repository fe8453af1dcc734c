"""Judge predicted times to an event: `survival/1` with a report."""

from collections.abc import Mapping
from pathlib import Path

from ehr_eval.extras import require
from ehr_eval.frames import PRODUCER
from ehr_eval.protocol.tables import write_rows
from ehr_eval.survival.config import SurvivalConfig
from ehr_eval.survival.inputs import open_tasks
from ehr_eval.survival.judge import OVERALL, Judged, Measure, judge, rows_of
from ehr_eval.survival.report import write_report
from ehr_tracking.arrow.label_files import label_source
from ehr_tracking.config import to_dict
from ehr_tracking.contracts import SURVIVAL
from ehr_tracking.errors import UserError
from ehr_tracking.files import PathLike
from ehr_tracking.manifest import new_artifact, raw_source, refuse_existing, seal, source
from ehr_tracking.names import require_name


def run_survival(
    labels: PathLike,
    features: Mapping[str, PathLike],
    out: PathLike,
    config: SurvivalConfig | None = None,
    *,
    predictions: Mapping[str, PathLike] | None = None,
    overwrite: bool = False,
) -> list[Judged]:
    """Judge risks of an event beside Cox regressions on features, and write `survival/1`.

    Args:
        labels: With `duration_days`.
        features: Name -> `features/1`, each covering all labels; a Cox regression is fitted on each.
            The count baseline is one of them.
        out: Where the results shall be.
        config: Horizons, bootstraps, penalties.
        predictions: Name -> `risks/1` of a model that was trained elsewhere.
        overwrite: Replace results that are there.

    Returns:
        What came out of each task.

    Raises:
        ContractError: If an input is not what it should be, or features or predictions lack a label.
        ConfigError: If the config names a task that has no durations.
        UserError: If `out` exists, lifelines is not installed, no task can be judged, or predictions end
            before a horizon.
    """
    labels, out = Path(labels), Path(out)
    config = config or SurvivalConfig()
    named = {name: Path(path) for name, path in features.items()}
    given = {name: Path(path) for name, path in (predictions or {}).items()}
    for name in (*named, *given):
        require_name(name, "model")
    if both := sorted(named.keys() & given.keys()):
        raise UserError(f"features and predictions are both named {both[0]}; rename one")
    require("lifelines", "Cox regression")
    read = [labels, *named.values(), *given.values()]
    refuse_existing(out, SURVIVAL, overwrite=overwrite, inputs=read)
    tasks, sets = open_tasks(labels, named, config)
    found = [judge(task, sets, given, config) for task in tasks]
    inputs = {"labels": label_source(labels)}
    inputs |= {f"features.{name}": source(path) for name, path in named.items()}
    inputs |= {f"risks.{name}": raw_source(path, contract="risks") for name, path in given.items()}
    with new_artifact(out, SURVIVAL, overwrite=overwrite, inputs=read) as partial:
        rows = [row for judged in found for row in rows_of(judged)]
        n = write_rows(partial / "results.parquet", rows, SURVIVAL.columns)
        write_report(partial, found, config, inputs)
        seal(
            partial,
            SURVIVAL,
            producer=PRODUCER,
            config=to_dict(config),
            seed=config.seed,
            inputs=inputs,
            rows={"results.parquet": n},
        )
    return found


def summary(found: list[Judged]) -> list[dict[str, object]]:
    """One row a task and model, for a terminal; those that could not be judged say so."""
    rows: list[dict[str, object]] = []
    for judged in found:
        for model, of in judged.scores.items():
            values = {m: s.value if (s := of.get(Measure(m, None))) else None for m in OVERALL}
            rows.append({"task": judged.task, "model": model.name, "head": model.head, **values})
        if judged.problem:
            rows.append({"task": judged.task, "model": f"not judged: {judged.problem}"})
    return rows
