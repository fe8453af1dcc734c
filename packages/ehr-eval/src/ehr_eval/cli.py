"""`ehr-eval`: labels, features and few-shot evaluation.

Modules that need more than click are imported inside the commands: `--help` should be instant.
"""

from pathlib import Path

import click

import ehr_eval
from ehr_eval.features.command import features, join
from ehr_eval.generate.command import generate
from ehr_eval.generate.zeroshot_command import aces, curve, zeroshot
from ehr_eval.query.command import query
from ehr_tracking.errors import Group, UserError
from ehr_tracking.options import PATH, config_options, overwrite_option


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(ehr_eval.__version__, package_name="ehr-eval")
def main() -> None:
    """Evaluate health-record models beside honest baselines: labels, features, few-shot scores.

    Example: ehr-eval ehrshot --labels demo/labels --features counts=demo/features/counts --out demo/results
    """


@main.command()
@click.option("--meds", type=PATH, required=True, help="MEDS data set.")
@click.option("--out", type=PATH, required=True, help="Where labels go.")
@click.option("--task", "tasks", multiple=True, help="Only this task; may be given several times.")
@click.option(
    "--task-file",
    "task_files",
    type=PATH,
    multiple=True,
    help="A task as YAML, see docs/zeroshot.md; may be given several times.",
)
@config_options("LabelsConfig", "rows_per_subject=1")
@overwrite_option("labels")
def labels(
    meds: Path,
    out: Path,
    tasks: tuple[str, ...],
    task_files: tuple[Path, ...],
    config_file: Path | None,
    overrides: tuple[str, ...],
    overwrite: bool,
) -> None:
    """Make task labels from a MEDS data set.

    Without --task and --task-file, every task whose codes the data set has. Writes labels/1: one directory a task
    with labels.parquet in the MEDS label schema, and tasks.json with the definitions.

    Example: ehr-eval labels --meds demo/meds --out demo/labels --task mortality_1y
    """
    import json

    from ehr_eval.tasks.config import LabelsConfig
    from ehr_eval.tasks.make import make_labels
    from ehr_tracking.config import load_config
    from ehr_tracking.report import text_table

    given = [f"tasks={json.dumps(tasks)}"] if tasks else []
    settings = load_config(LabelsConfig, config_file, [*overrides, *given])
    done = make_labels(meds, out, settings, task_files=task_files, overwrite=overwrite)
    click.echo(text_table(done.counts.to_dicts()))
    if done.left_out.height:
        click.echo(text_table(done.left_out.to_dicts()))
    for task, reason in done.skipped.items():
        click.echo(f"skipped {task}: {reason}")
    click.echo(f"{done.path}: {done.counts['rows'].sum():,} labels")


@main.command()
@click.option("--meds", type=PATH, required=True, help="MEDS data set.")
@click.option("--labels", type=PATH, required=True, help="Labels.")
@click.option("--out", type=PATH, required=True, help="Where features go.")
@click.option("--tokens", type=PATH, help="Take `delay` from these tokens.")
@config_options("CountsConfig", "min_rows=10")
@overwrite_option("features")
def counts(
    meds: Path,
    labels: Path,
    out: Path,
    tokens: Path | None,
    config_file: Path | None,
    overrides: tuple[str, ...],
    overwrite: bool,
) -> None:
    """Write count features, the baseline to beat, for every labelled prediction time.

    Counts of codes, of their ancestors and of value bins over several windows, with age and static
    codes; sparse features/1. Compared with a model on tokens that were made with `delay`, they need
    the same: give --tokens, or set it.

    Example: ehr-eval counts --meds demo/meds --labels demo/labels --out demo/features/counts
    """
    from ehr_eval.counts.config import CountsConfig
    from ehr_eval.counts.write import count_features
    from ehr_tracking.config import load_config

    settings = load_config(CountsConfig, config_file, overrides)
    done = count_features(meds, labels, out, settings, tokens=tokens, overwrite=overwrite)
    click.echo(
        f"{done.path}: {done.rows:,} rows, {done.columns:,} columns, {done.nonzero:,} counts"
    )


@main.command()
@click.option("--labels", type=PATH, required=True, help="Labels of one or more tasks.")
@click.option(
    "--features",
    "named",
    multiple=True,
    required=True,
    metavar="NAME=PATH",
    help="Features of a model; may be given again. Name the count baseline `counts`.",
)
@click.option(
    "--predictions",
    "predicted",
    multiple=True,
    metavar="NAME=PATH",
    help="Held-out predictions of a model that was trained elsewhere; may be given again.",
)
@click.option("--risks", type=PATH, help="Best possible risks, as `synth --risks` writes them.")
@click.option("--out", type=PATH, required=True, help="Where the results shall be.")
@click.option("--shots", type=PATH, help="Where the rows of each draw shall be, as shots/1.")
@config_options("EhrshotConfig", "replicates=3")
@click.option("--workers", type=click.IntRange(1), help="Processes.  [default: one a core]")
@overwrite_option("results")
def ehrshot(
    labels: Path,
    named: tuple[str, ...],
    predicted: tuple[str, ...],
    risks: Path | None,
    out: Path,
    shots: Path | None,
    config_file: Path | None,
    overrides: tuple[str, ...],
    workers: int | None,
    overwrite: bool,
) -> None:
    """Run EHRSHOT's few-shot protocol and write results, predictions and one HTML report.

    A run that was killed goes on where it was when the same command is given again.

    Example: ehr-eval ehrshot --labels demo/labels --features behrt=demo/features/behrt --features counts=demo/features/counts --out demo/results
    """
    import os

    from ehr_eval.protocol.config import EhrshotConfig
    from ehr_tracking.config import load_config

    config = load_config(EhrshotConfig, config_file, overrides)
    features = _named_paths("--features", named)
    predictions = _named_paths("--predictions", predicted)
    from ehr_eval.protocol.ehrshot import run_ehrshot
    from ehr_eval.protocol.results import summary
    from ehr_tracking.report import text_table

    run_ehrshot(
        labels,
        features,
        out,
        config,
        predictions=predictions,
        risks=risks,
        shots=shots,
        workers=workers or os.cpu_count() or 1,
        overwrite=overwrite,
    )
    click.echo("AUROC on the held-out split, fitted on the most shots")
    click.echo(text_table(summary(out)))
    if shots:
        click.echo(f"shots: {shots / 'shots.parquet'}")
    click.echo(f"report: {out / 'report.html'}")


@main.command()
@click.option("--checkpoint", type=PATH, required=True, help="A run, checkpoint or adapter.")
@click.option("--tokens", type=PATH, required=True, help="Tokens of the same vocabulary.")
@click.option(
    "--labels",
    type=PATH,
    required=True,
    help="Labels of its task, or of all of a multi-label head; or a CSV file (see -s labels.subject).",
)
@click.option("--out", type=PATH, required=True, help="Where the predictions shall be.")
@config_options("FeaturesConfig", "batch_tokens=4096")
@click.option("--device", default="cpu", show_default=True, help="As torch names it: cpu, cuda.")
@overwrite_option("predictions")
def predict(
    checkpoint: Path,
    tokens: Path,
    labels: Path,
    out: Path,
    config_file: Path | None,
    overrides: tuple[str, ...],
    device: str,
    overwrite: bool,
) -> None:
    """Write what a fine-tuned model says of the held-out rows of a task.

    A binary or multi-label head gives predictions/1 for `ehr-eval ehrshot --predictions NAME=PATH`, a
    survival head risks/1 for `ehr-eval survival --predictions NAME=PATH`, any other classes/1 or
    numbers/1 for `ehr-eval outcomes --predictions NAME=PATH`.

    Example: ehr-eval predict --checkpoint demo/runs/mortality --tokens demo/tokens --labels demo/labels/mortality_1y --out demo/predictions/mortality
    """
    from ehr_eval.features.config import FeaturesConfig
    from ehr_tracking.config import load_config

    config = load_config(FeaturesConfig, config_file, overrides)
    from ehr_eval.predict import predict as run

    done = run(checkpoint, tokens, labels, out, config, device=device, overwrite=overwrite)
    for task, rows in done.rows.items():
        threshold = done.thresholds[task]
        at = "" if threshold is None else f"; positive from {threshold:.3g} on"
        click.echo(f"{out}: {rows:,} held-out rows of {task}, {done.problem}{at}")


@main.command()
@click.option("--labels", type=PATH, required=True, help="Labels with duration_days.")
@click.option(
    "--features",
    "named",
    multiple=True,
    required=True,
    metavar="NAME=PATH",
    help="Features for a Cox regression; may be given again. Name the count baseline `counts`.",
)
@click.option(
    "--predictions",
    "predicted",
    multiple=True,
    metavar="NAME=PATH",
    help="Risks of a fine-tuned model, from `ehr-eval predict`; may be given again.",
)
@click.option("--out", type=PATH, required=True, help="Where the results shall be.")
@config_options("SurvivalConfig", "horizons_days=[30,365]")
@overwrite_option("results")
def survival(
    labels: Path,
    named: tuple[str, ...],
    predicted: tuple[str, ...],
    out: Path,
    config_file: Path | None,
    overrides: tuple[str, ...],
    overwrite: bool,
) -> None:
    """Judge predicted times to an event beside Cox regressions on features.

    Harrell's and Uno's C, time-dependent AUROC and Brier score with bootstraps over patients, survival by
    group of risk, and one HTML report.

    Example: ehr-eval survival --labels demo/timed --features counts=demo/features/counts-timed --predictions tuned=demo/predictions/death --out demo/survival
    """
    from ehr_eval.survival.config import SurvivalConfig
    from ehr_tracking.config import load_config

    config = load_config(SurvivalConfig, config_file, overrides)
    features = _named_paths("--features", named)
    predictions = _named_paths("--predictions", predicted)
    from ehr_eval.survival.run import run_survival, summary
    from ehr_tracking.report import text_table

    found = run_survival(
        labels, features, out, config, predictions=predictions, overwrite=overwrite
    )
    click.echo(text_table(summary(found)))
    click.echo(f"report: {out / 'report.html'}")


@main.command()
@click.option(
    "--problem",
    type=click.Choice(["multiclass", "regression"]),
    required=True,
    help="What the labels say: one of several classes, or a number.",
)
@click.option("--labels", type=PATH, required=True, help="Labels of the one task.")
@click.option(
    "--features",
    "named",
    multiple=True,
    required=True,
    metavar="NAME=PATH",
    help="Features for an ordinary model; may be given again. Name the count baseline `counts`.",
)
@click.option(
    "--predictions",
    "predicted",
    multiple=True,
    metavar="NAME=PATH",
    help="Those of a fine-tuned model, from `ehr-eval predict`; may be given again.",
)
@click.option("--out", type=PATH, required=True, help="Where the results shall be.")
@config_options("OutcomesConfig", "bootstraps=1000")
@overwrite_option("results")
def outcomes(
    problem: str,
    labels: Path,
    named: tuple[str, ...],
    predicted: tuple[str, ...],
    out: Path,
    config_file: Path | None,
    overrides: tuple[str, ...],
    overwrite: bool,
) -> None:
    """Judge predicted classes or numbers beside ordinary models on features.

    Macro AUROC, accuracy, macro F1 and confusion matrices beside multinomial logistic regression and the
    majority class; MAE, RMSE, R2 and Spearman's correlation beside ridge regression and the mean of
    train; with bootstraps over patients, and one HTML report.

    Example: ehr-eval outcomes --problem multiclass --labels demo/stage --features counts=demo/features/counts-stage --predictions tuned=demo/predictions/stage --out demo/outcomes
    """
    from ehr_eval.outcomes.config import OutcomesConfig
    from ehr_tracking.config import load_config

    config = load_config(OutcomesConfig, config_file, overrides)
    features = _named_paths("--features", named)
    predictions = _named_paths("--predictions", predicted)
    from ehr_eval.outcomes.run import run_outcomes, summary
    from ehr_tracking.report import text_table

    judged = run_outcomes(
        problem, labels, features, out, config, predictions=predictions, overwrite=overwrite
    )
    click.echo(text_table(summary(judged)))
    click.echo(f"report: {out / 'report.html'}")


main.add_command(aces)
main.add_command(curve)
main.add_command(features)
main.add_command(generate)
main.add_command(join)
main.add_command(query)
main.add_command(zeroshot)


def _named_paths(option: str, named: tuple[str, ...]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for item in named:
        name, equals, path = item.partition("=")
        if not equals or not name or not path:
            raise UserError(f"{option} {item!r} is not of the form NAME=PATH")
        if name in found:
            raise UserError(f"{option}: the name {name} is given twice")
        found[name] = Path(path)
    return found
