"""`ehr-eval explain gradients` and `ehr-eval explain shap`."""

from datetime import datetime
from pathlib import Path

import click

from ehr_tracking.options import PATH, config_options, named_option, overwrite_option


@click.group()
def explain() -> None:
    """Say what a model or a head goes by.

    Example: ehr-eval explain gradients --checkpoint demo/runs/tuned --tokens demo/tokens --subject 7 --out demo/why
    """


@explain.command()
@click.option("--checkpoint", type=PATH, required=True, help="A run or checkpoint directory.")
@click.option("--tokens", type=PATH, required=True, help="Tokens of the same vocabulary.")
@click.option("--subject", type=int, required=True, help="Whose record.")
@click.option("--at", type=click.DateTime(), help="Prediction time, inclusive.  [default: the end]")
@click.option("--code", help="Explain that this code comes next.")
@click.option("--features", type=PATH, help="Explain a linear head on these features.")
@click.option("--labels", type=PATH, help="That it is fitted to: of one task.")
@click.option("--out", type=PATH, required=True, help="Where the attributions shall be.")
@config_options("GradientsConfig", "baseline=zero")
@overwrite_option("attributions")
def gradients(
    checkpoint: Path,
    tokens: Path,
    subject: int,
    at: datetime | None,
    code: str | None,
    features: Path | None,
    labels: Path | None,
    out: Path,
    config_file: Path | None,
    overrides: tuple[str, ...],
    overwrite: bool,
) -> None:
    """Integrated gradients: what each event of one subject's record adds, on a timeline.

    Explained is the model's own head, fitted to labels; or, with --code, how probable it is that it comes next; or, with
    --features and --labels, a logistic regression on the model's features.

    Example: ehr-eval explain gradients --checkpoint demo/runs/tuned --tokens demo/tokens --subject 7 --out demo/why
    """
    from ehr_eval.explain.config import GradientsConfig
    from ehr_tracking.config import load_config

    config = load_config(GradientsConfig, config_file, overrides)
    from ehr_tracking.imports import loading

    with loading():
        from ehr_eval.explain.gradients import explain_gradients

    found = explain_gradients(
        checkpoint,
        tokens,
        out,
        subject,
        config,
        at=at,
        code=code,
        features=features,
        labels=labels,
        overwrite=overwrite,
    )
    said = found.found
    click.echo(f"explained: {found.what}")
    click.echo(
        f"{said.output:.4f}, of the baseline {said.baseline:.4f}; {found.table.height:,} tokens add "
        f"{said.value.sum():.4f} ({said.steps} points)"
    )
    click.echo(f"timeline: {out / 'report.html'}")


@explain.command()
@click.option("--labels", type=PATH, required=True, help="Labels of one task.")
@named_option("--features", "Features that heads are fitted to; one set.", required=True)
@click.option(
    "--subject", "subjects", type=int, multiple=True, help="Show the rows of a subject too."
)
@click.option("--out", type=PATH, required=True, help="Where the explanation shall be.")
@config_options("ShapConfig", "shown=30")
@overwrite_option("an explanation")
def shap(
    labels: Path,
    features: dict[str, Path],
    subjects: tuple[int, ...],
    out: Path,
    config_file: Path | None,
    overrides: tuple[str, ...],
    overwrite: bool,
) -> None:
    """SHAP of heads on features: what each adds to the log-odds of held-out rows, exactly.

    TreeSHAP of boosted trees, and that of logistic regression, which has a formula. Heads are fitted as by `ehrshot` on all
    training rows. Plots show spots of several subjects, never one, unless --subject names it.

    Example: ehr-eval explain shap --labels demo/labels/long_stay --features counts=demo/features/counts --out demo/shap
    """
    from ehr_eval.explain.config import ShapConfig
    from ehr_tracking.config import load_config
    from ehr_tracking.errors import UserError

    config = load_config(ShapConfig, config_file, overrides)
    if len(features) != 1:
        raise UserError("give one set of features: ehr-eval join puts several side by side")
    from ehr_eval.explain.shap import explain_shap
    from ehr_tracking.report import text_table

    ((name, path),) = features.items()
    found = explain_shap(labels, name, path, out, config, subjects=subjects, overwrite=overwrite)
    click.echo(text_table(found))
    click.echo(f"report: {out / 'report.html'}")
