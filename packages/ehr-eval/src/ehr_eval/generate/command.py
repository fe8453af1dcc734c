"""`ehr-eval generate`."""

from pathlib import Path

import click

from ehr_tracking.options import PATH, config_options, overwrite_option


@click.command()
@click.option("--checkpoint", type=PATH, required=True, help="A run or checkpoint directory.")
@click.option("--tokens", type=PATH, required=True, help="Tokens of the same vocabulary.")
@click.option("--labels", type=PATH, required=True, help="Labels: whose futures, and from when on.")
@click.option("--out", type=PATH, required=True, help="Where the futures shall be.")
@click.option("--samples", type=click.IntRange(1), help="Futures of each row.  [default: 20]")
@click.option("--horizon", help="How far they go: a number with m, h, d, w or y.  [default: 365d]")
@click.option("--per-sample", is_flag=True, help="Also write one table a sample.")
@config_options("GenerateConfig", "temperature=0.9")
@click.option("--device", default="cpu", show_default=True, help="As torch names it: cpu, cuda.")
@click.option("--workers", type=click.IntRange(1), help="Processes.  [default: one a core or GPU]")
@overwrite_option("futures")
def generate(
    checkpoint: Path,
    tokens: Path,
    labels: Path,
    out: Path,
    samples: int | None,
    horizon: str | None,
    per_sample: bool,
    config_file: Path | None,
    overrides: tuple[str, ...],
    device: str,
    workers: int | None,
    overwrite: bool,
) -> None:
    """Simulate the future of every labelled prediction time, as MEDS events with dates.

    A causal model goes on with the record as it was known then, token by token, until the horizon, a
    death, the end of the record, a code of `stop`, or its budget of tokens; why is kept of each. Writes
    trajectories/1. A run that was killed goes on where it was when the same command is given again.

    Example: ehr-eval generate --checkpoint demo/runs/chrono --tokens demo/tokens --labels demo/labels/mortality_1y --out demo/futures --samples 20 --horizon 365d
    """
    from ehr_eval.generate.config import GenerateConfig
    from ehr_tracking.config import load_config
    from ehr_tracking.report import text_table

    given = {"samples": samples, "horizon": horizon, "per_sample": per_sample or None}
    named = [f"{name}={value}" for name, value in given.items() if value is not None]
    config = load_config(GenerateConfig, config_file, [*overrides, *named])
    from ehr_tracking.imports import loading

    with loading():
        from ehr_eval.generate.run import generate as run

    done = run(
        checkpoint, tokens, labels, out, config, device=device, workers=workers, overwrite=overwrite
    )
    click.echo(text_table([{"ends by": why, "futures": n} for why, n in done.reasons.items()]))
    click.echo(
        f"{out}: {done.futures:,} futures of {done.prediction_times:,} prediction times, "
        f"{done.events:,} events, {done.tokens:,} tokens"
    )
