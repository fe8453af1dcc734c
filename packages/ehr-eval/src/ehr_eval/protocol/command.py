"""`ehr-eval ehrshot`."""

from pathlib import Path

import click

from ehr_tracking.options import PATH, config_options, named_option, overwrite_option


@click.command()
@click.option(
    "--labels", type=PATH, required=True, help="Labels of one or more tasks; benchmark/ of EHRSHOT."
)
@named_option(
    "--features",
    "Features of a model; may be given again. Name the count baseline `counts`.",
    required=True,
)
@named_option(
    "--predictions",
    "Held-out predictions of a model that was trained elsewhere; may be given again.",
)
@click.option("--risks", type=PATH, help="Best possible risks, as `synth --risks` writes them.")
@click.option(
    "--splits",
    type=PATH,
    help="CSV file with the split of each subject: EHRSHOT's person_id_map.csv.",
)
@click.option(
    "--shots-from",
    type=PATH,
    help="Rows of each draw to use as they stand: EHRSHOT's all_shots_data.json, or benchmark/ with one a task; or shots/1.",
)
@click.option("--out", type=PATH, required=True, help="Where the results shall be.")
@click.option("--shots", type=PATH, help="Where the rows of each draw shall be, as shots/1.")
@click.option(
    "--store",
    type=PATH,
    help="Folder that keeps what is fitted: no model's cell is fitted twice, whatever it is compared with.",
)
@config_options("EhrshotConfig", "replicates=3")
@click.option(
    "--compare",
    nargs=2,
    multiple=True,
    metavar="A B",
    help="A further pair, each MODEL or MODEL/HEAD; every two models are compared at the same head as it is.",
)
@click.option(
    "--compat",
    type=click.Choice(["original"]),
    help="Refit as EHRSHOT's own code does: without its seed, solver and max_iter.",
)
@click.option("--workers", type=click.IntRange(1), help="Processes.  [default: one a core]")
@overwrite_option("results")
def ehrshot(
    labels: Path,
    features: dict[str, Path],
    predictions: dict[str, Path],
    risks: Path | None,
    splits: Path | None,
    shots_from: Path | None,
    out: Path,
    shots: Path | None,
    store: Path | None,
    config_file: Path | None,
    overrides: tuple[str, ...],
    compare: tuple[tuple[str, str], ...],
    compat: str | None,
    workers: int | None,
    overwrite: bool,
) -> None:
    """Run EHRSHOT's few-shot protocol and write results, predictions and one HTML report.

    A run that was killed goes on where it was when the same command is given again.

    Example: ehr-eval ehrshot --labels demo/labels --features behrt=demo/features/behrt --features counts=demo/features/counts --out demo/results
    """
    import json
    import os

    from ehr_eval.protocol.config import EhrshotConfig
    from ehr_tracking.config import load_config

    named = [f"compare={json.dumps(compare)}"] if compare else []
    named += [f"compat={compat}"] if compat else []
    config = load_config(EhrshotConfig, config_file, (*overrides, *named))
    from ehr_tracking.imports import loading

    with loading():
        from ehr_eval.protocol.ehrshot import run_ehrshot
    from ehr_eval.protocol.results import group_summary, summary
    from ehr_tracking.report import text_table

    run_ehrshot(
        labels,
        features,
        out,
        config,
        predictions=predictions,
        risks=risks,
        shots=shots,
        splits=splits,
        shots_from=shots_from,
        store=store,
        workers=workers or os.cpu_count() or 1,
        overwrite=overwrite,
    )
    click.echo("AUROC on the held-out split, fitted on the most shots")
    click.echo(text_table(summary(out)))
    click.echo("AUROC, means over tasks")
    click.echo(text_table(group_summary(out)))
    if shots:
        click.echo(f"shots: {shots / 'shots.parquet'}")
    click.echo(f"as Markdown: {out / 'report.md'}")
    click.echo(f"report: {out / 'report.html'}")
