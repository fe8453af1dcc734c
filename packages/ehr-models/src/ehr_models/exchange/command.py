"""`ehr-models export`, `push` and `import`."""

from pathlib import Path

import click

from ehr_tracking.options import PATH, named_option, overwrite_option, set_option


@click.command()
@click.option(
    "--checkpoint", type=PATH, required=True, help="Run, checkpoint or adapter (checkpoint/1)."
)
@click.option("--out", type=PATH, required=True, help="Directory to write.")
@click.option("--card", type=PATH, help="YAML file of CardConfig: licence, contacts, limits...")
@named_option(
    "--results", "Results (results/1), by the name that the model has there; may be given again."
)
@click.option("--base", type=PATH, help="What an adapter adapts, where that lies elsewhere.")
@set_option("licence=apache-2.0")
@overwrite_option("an export")
def export(
    checkpoint: Path,
    out: Path,
    card: Path | None,
    results: dict[str, Path],
    base: Path | None,
    overrides: tuple[str, ...],
    overwrite: bool,
) -> None:
    """Write a model for others: weights, tokenizer, code and a card with what manifests know.

    The directory loads with transformers and with Tokenizer.from_pretrained, and every command of ours
    takes it as a checkpoint. docs/exchange.md tells what the card says.

    Example: ehr-models export --checkpoint demo/runs/gpt2 --results gpt2=demo/results --out demo/export
    """
    from ehr_models.exchange.config import CardConfig
    from ehr_tracking.config import load_config

    words = load_config(CardConfig, card, overrides)
    from ehr_models.exchange.export import export as write

    facts = write(checkpoint, out, card=words, results=results, base=base, overwrite=overwrite)
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    click.echo(
        f"wrote {out}: {facts.kind}, {facts.parameters:,} parameters, {len(facts.words):,} tokens, "
        f"{size:,} bytes"
    )
    if not words.licence:
        click.echo("the card says that no licence was given; name one with -s licence=...")
    if (facts.fitted.get("min_subjects") or 1) < 2:
        click.echo("no minimum of subjects per code was set: see Privacy in the card")


@click.command("import")
@click.argument("model", type=PATH)
@click.option("--out", type=PATH, required=True, help="Checkpoint to write (checkpoint/1).")
@click.option(
    "--vocabulary",
    type=PATH,
    help="Of hf_ehr: what `ehr-tokenize dictionary MODEL/tokenizer_config.json` wrote.",
)
@overwrite_option("a checkpoint")
def import_(model: Path, out: Path, vocabulary: Path | None, overwrite: bool) -> None:
    """Take a model of hf_ehr or EHR_FM as a checkpoint of ours; none of its code is run.

    MODEL is a directory as hf_ehr puts them on a hub (gpt2, bert, llama: config.json, weights and
    tokenizer_config.json), or a .pt file of EHR_FM. docs/exchange.md tells what differs.

    Example: ehr-models import gpt-base-512-clmbr --vocabulary clmbr --out checkpoints/gpt-base-512
    """
    from ehr_models.exchange.take import take

    done = take(model, out, vocabulary=vocabulary, overwrite=overwrite)
    click.echo(
        f"wrote {out}: {done.kind} of {done.form}, {done.parameters:,} parameters, {done.tokens:,} tokens"
    )
    if done.left_out:
        click.echo(
            f"{done.left_out:,} rows of its vocabulary are no token of ours and were left out"
        )
