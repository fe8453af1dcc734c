"""Judge predicted classes or numbers: `outcomes/1` with a report."""

from collections.abc import Mapping
from pathlib import Path

from ehr_eval.features.read import read_features, refuse_other_delays
from ehr_eval.frames import PRODUCER
from ehr_eval.outcomes.config import OutcomesConfig
from ehr_eval.outcomes.judge import Judged, confusion_rows, judge, result_rows
from ehr_eval.outcomes.problems import PROBLEMS
from ehr_eval.outcomes.report import write_report
from ehr_eval.protocol.inputs import refuse_names
from ehr_eval.protocol.tables import write_rows
from ehr_tracking.arrow import labels as label_reader
from ehr_tracking.arrow.label_files import label_source
from ehr_tracking.config import to_dict
from ehr_tracking.contracts import OUTCOMES
from ehr_tracking.files import PathLike
from ehr_tracking.manifest import new_artifact, raw_source, refuse_existing, seal, source


def run_outcomes(
    problem: str,
    labels: PathLike,
    features: Mapping[str, PathLike],
    out: PathLike,
    config: OutcomesConfig | None = None,
    *,
    predictions: Mapping[str, PathLike] | None = None,
    overwrite: bool = False,
) -> Judged:
    """Judge predictions of one task beside ordinary models on features, and write `outcomes/1`.

    Args:
        problem: `multiclass` or `regression`.
        labels: Of the task, with classes or numbers.
        features: Name -> `features/1`, each covering all labels; a model is fitted on each: multinomial
            logistic or ridge regression. The count baseline is one of them.
        out: Where the results shall be.
        config: Bootstraps and grids.
        predictions: Name -> `classes/1` or `numbers/1` of a model that was trained elsewhere.
        overwrite: Replace results that are there.

    Returns:
        What came out.

    Raises:
        ContractError: If an input is not what it should be, features or predictions lack a label, or
            no label is in one of the splits.
        UserError: If `out` exists, there are no features, names clash, or delays differ.
    """
    labels, out = Path(labels), Path(out)
    config = config or OutcomesConfig()
    named = {name: Path(path) for name, path in features.items()}
    given = {name: Path(path) for name, path in (predictions or {}).items()}
    refuse_names(named, given)
    read = [labels, *named.values(), *given.values()]
    refuse_existing(out, OUTCOMES, overwrite=overwrite, inputs=read)
    task, table = label_reader.read_task(labels, reader=PRODUCER, columns=config.labels)
    sets = {name: read_features(path) for name, path in named.items()}
    refuse_other_delays(sets)
    judged = judge(PROBLEMS[problem], task, table, sets, given, config)
    inputs = {"labels": label_source(labels)}
    inputs |= {f"features.{name}": source(path) for name, path in named.items()}
    inputs |= {
        f"predictions.{name}": raw_source(path, contract="predictions")
        for name, path in given.items()
    }
    with new_artifact(out, OUTCOMES, overwrite=overwrite, inputs=read) as partial:
        rows = write_rows(partial / "results.parquet", list(result_rows(judged)), OUTCOMES.columns)
        (confusion,) = OUTCOMES.beside
        counted = write_rows(
            partial / confusion, list(confusion_rows(judged)), OUTCOMES.beside[confusion]
        )
        write_report(partial, judged, config, inputs)
        seal(
            partial,
            OUTCOMES,
            producer=PRODUCER,
            config={"problem": problem, **to_dict(config)},
            seed=None,
            inputs=inputs,
            rows={"results.parquet": rows, confusion: counted},
        )
    return judged


def summary(judged: Judged) -> list[dict[str, object]]:
    """One row a model, for a terminal."""
    return [
        {
            "model": model.name,
            "head": model.head,
            **{m: score.value if score else None for m, score in of.items()},
        }
        for model, of in judged.scores.items()
    ]
