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

    MODEL is a directory as hf_ehr puts them on a hub (gpt2, bert, llama, mamba...: config.json, weights and
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


@click.command()
@click.argument("export", type=PATH)
@click.option("--repo", required=True, metavar="ORG/NAME", help="Repository of the hub.")
@click.option(
    "--private/--public",
    default=True,
    show_default=True,
    help="Of a repository that is made; one that is there stays as it is.",
)
@click.option("--revision", help="Branch, made where there is none.  [default: main]")
@click.option("--endpoint", help="URL of the hub.  [default: HF_ENDPOINT, else the public one]")
@click.option(
    "--token-file", type=PATH, help="Holds the token.  [default: HF_TOKEN, or your login]"
)
@click.option("--dry-run", is_flag=True, help="Say what would be sent, and contact nobody.")
def push(
    export: Path,
    repo: str,
    private: bool,
    revision: str | None,
    endpoint: str | None,
    token_file: Path | None,
    dry_run: bool,
) -> None:
    """Send an export to a repository of a Hugging Face hub, as one commit.

    Nothing leaves that `ehr-models export` did not write, nor any table with rows of subjects.

    Example: ehr-models push demo/export --repo my-org/gpt2-demo --dry-run
    """
    from ehr_models.exchange.push import find_token, pack_up, require_repository, summary
    from ehr_models.exchange.push import push as send

    require_repository(repo)
    parcel = pack_up(export)
    click.echo("\n".join(summary(parcel)))
    where = f"{repo}{f' at {revision}' if revision else ''} ({'private' if private else 'public'} if new)"
    if dry_run:
        click.echo(f"nothing was sent; without --dry-run it would go to {where}")
        return
    token = find_token(token_file)
    url = send(parcel, repo, endpoint=endpoint, token=token, private=private, revision=revision)
    click.echo(f"sent to {where}: {url}")
