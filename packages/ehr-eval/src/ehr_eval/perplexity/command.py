"""`ehr-eval perplexity`."""

from pathlib import Path

import click

from ehr_tracking.options import PATH, config_options, named_option, overwrite_option


@click.command()
@named_option(
    "--checkpoint",
    "Run or checkpoint of a causal model; may be given again, to be drawn beside it.",
    required=True,
)
@click.option("--tokens", type=PATH, required=True, help="Token data set with their vocabulary.")
@click.option("--out", type=PATH, required=True, help="Where the table, plot and page shall be.")
@config_options("PerplexityConfig", "stride=32")
@click.option("--device", default="cpu", show_default=True, help="As torch names it, e.g. cuda.")
@overwrite_option("an artifact")
def perplexity(
    checkpoint: dict[str, Path],
    tokens: Path,
    out: Path,
    config_file: Path | None,
    overrides: tuple[str, ...],
    device: str,
    overwrite: bool,
) -> None:
    """Perplexity of the next token by its place in the record, median over held-out subjects.

    Each window is as long as in training; it slides on by `stride` tokens, and each token is asked for
    once. [PAD], [UNK] and static tokens are not asked for, as in training.

    Example: ehr-eval perplexity --checkpoint gpt2=demo/runs/gpt2 --tokens demo/tokens --out demo/perplexity
    """
    from ehr_eval.perplexity.config import PerplexityConfig
    from ehr_tracking.config import load_config

    config = load_config(PerplexityConfig, config_file, overrides)
    from ehr_tracking.imports import loading

    with loading():
        from ehr_eval.perplexity.run import run_perplexity
    from ehr_tracking.report import text_table

    rows = run_perplexity(checkpoint, tokens, out, config, device=device, overwrite=overwrite)
    click.echo(text_table(rows))
    click.echo(f"report: {out / 'report.html'}")
