"""`ehr-eval privacy`."""

from pathlib import Path

import click

from ehr_tracking.options import PATH, config_options, overwrite_option


@click.command()
@click.option("--checkpoint", type=PATH, help="A run or checkpoint of a causal model.")
@click.option("--tokens", type=PATH, help="Tokens that it was trained on.")
@click.option(
    "--generated", type=PATH, help="Records that a model made: futures, or a MEDS data set."
)
@click.option("--meds", type=PATH, help="MEDS data set that this model learnt from.")
@click.option("--out", type=PATH, required=True, help="Where the tests shall be.")
@config_options("PrivacyConfig", "gram=6")
@overwrite_option("tests")
def privacy(
    checkpoint: Path | None,
    tokens: Path | None,
    generated: Path | None,
    meds: Path | None,
    out: Path,
    config_file: Path | None,
    overrides: tuple[str, ...],
    overwrite: bool,
) -> None:
    """Test what a model, or records that it made, give away of those it was trained on.

    Membership inference needs --checkpoint and --tokens; nearest training neighbours and rare sequences that were learnt by
    heart need --generated and --meds.

    Example: ehr-eval privacy --checkpoint demo/runs/gpt2 --tokens demo/tokens --generated demo/futures --meds demo/meds --out demo/privacy
    """
    from ehr_eval.explain.config import PrivacyConfig
    from ehr_tracking.config import load_config

    config = load_config(PrivacyConfig, config_file, overrides)
    from ehr_eval.explain.privacy import probe_privacy
    from ehr_tracking.report import text_table

    rows = probe_privacy(
        out,
        config,
        checkpoint=checkpoint,
        tokens=tokens,
        generated=generated,
        meds=meds,
        overwrite=overwrite,
    )
    click.echo(text_table(rows))
    click.echo(f"report: {out / 'report.html'}")
