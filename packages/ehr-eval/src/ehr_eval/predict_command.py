"""`ehr-eval predict`."""

from pathlib import Path

import click

from ehr_tracking.options import PATH, config_options, overwrite_option


@click.command()
@click.option("--checkpoint", type=PATH, required=True, help="A run, checkpoint or adapter.")
@click.option("--tokens", type=PATH, required=True, help="Tokens of the same vocabulary.")
@click.option(
    "--labels",
    type=PATH,
    help="Labels of its task, or of all of a multi-label head; or a CSV file (see -s labels.subject).",
)
@click.option(
    "--shots",
    type=PATH,
    help="In place of labels, where --checkpoint holds the runs of `ehr-train --shots`: a prediction of each.",
)
@click.option("--out", type=PATH, required=True, help="Where the predictions shall be.")
@config_options("FeaturesConfig", "batch_tokens=4096")
@click.option("--device", default="cpu", show_default=True, help="As torch names it: cpu, cuda.")
@overwrite_option("predictions")
def predict(
    checkpoint: Path,
    tokens: Path,
    labels: Path | None,
    shots: Path | None,
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
    from ehr_tracking.imports import loading

    with loading():
        from ehr_eval.predict import predict as run

    if (labels is None) == (shots is None):
        raise click.UsageError("give either --labels or --shots")
    if labels is None:
        from ehr_eval.shot_labels import shot_runs

        assert shots is not None
        for draw, path in shot_runs(checkpoint).items():
            part = out / draw.task / f"k={draw.k}" / f"replicate={draw.replicate}"
            if overwrite or not (part / "manifest.json").is_file():
                run(
                    path, tokens, shots, part, config, device=device, overwrite=overwrite, draw=draw
                )
            click.echo(f"{part}")
        return
    done = run(checkpoint, tokens, labels, out, config, device=device, overwrite=overwrite)
    for task, rows in done.rows.items():
        threshold = done.thresholds[task]
        at = "" if threshold is None else f"; positive from {threshold:.3g} on"
        click.echo(f"{out}: {rows:,} held-out rows of {task}, {done.problem}{at}")
