"""`ehr-tokenize`: from MEDS health records to sealed token data sets."""

import os
from pathlib import Path

import click

import ehr_tokenize
from ehr_tokenize.narrative.command import narrate
from ehr_tokenize.sources.command import from_
from ehr_tokenize.synthetic.command import synth
from ehr_tracking.errors import Failure, Group
from ehr_tracking.options import PATH, config_options, overwrite_option

_MOST = 8
"""Threads unless asked for: each holds a row group in memory."""


@click.group(
    cls=Group,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(ehr_tokenize.__version__, package_name="ehr-tokenize")
@click.option("--meds", type=PATH, help="MEDS 0.4 data set: data/**/*.parquet, metadata/.")
@click.option("--out", type=PATH, help="Token data set to write.")
@config_options("TokenizeConfig", "scheme.kind=visits")
@click.option("--tokenizer", type=PATH, help="Fit nothing: use that of a token set or checkpoint.")
@click.option(
    "--workers", type=click.IntRange(1), help=f"Threads.  [default: one a core, at most {_MOST}]"
)
@overwrite_option("a token data set")
@click.pass_context
def main(
    ctx: click.Context,
    meds: Path | None,
    out: Path | None,
    config_file: Path | None,
    overrides: tuple[str, ...],
    tokenizer: Path | None,
    workers: int | None,
    overwrite: bool,
) -> None:
    """Turn a MEDS data set into tokens; everything is fitted on its train split.

    Example: ehr-tokenize --meds demo/meds --out demo/tokens -s scheme.kind=visits
    """
    if ctx.invoked_subcommand:
        return
    if meds is None and out is None:
        click.echo(ctx.get_help())
        return
    if meds is None or out is None:
        raise click.UsageError("both --meds and --out are needed")
    from ehr_tokenize.build.build import tokenize
    from ehr_tokenize.config import TokenizeConfig
    from ehr_tracking.config import load_config

    settings = load_config(TokenizeConfig, config_file, overrides)
    workers = workers or min(os.cpu_count() or 1, _MOST)
    done = tokenize(meds, out, settings, tokenizer=tokenizer, workers=workers, overwrite=overwrite)
    click.echo("\n".join(done.lines()))


@main.command()
@click.argument("path", type=PATH)
@click.option("--repair", type=PATH, metavar="OUT", help="Write a copy with what is safe mended.")
@click.option(
    "--split",
    "splits",
    multiple=True,
    metavar="NAME=SPLIT",
    help="With --repair: what a split of another name is, e.g. val=tuning; may be repeated.",
)
def check(path: Path, repair: Path | None, splits: tuple[str, ...]) -> None:
    """Report what is wrong with the MEDS data set at PATH; exit code 2 if it would be refused.

    --repair mends types, order, rows without code and missing metadata in a copy; it refuses what
    would need a guess.

    Example: ehr-tokenize check demo/meds
    """
    from ehr_tokenize.meds.check import check as check_meds

    if splits and not repair:
        raise Failure("--split says how --repair names splits; give both")
    report = check_meds(path)
    click.echo("\n".join(report.lines()))
    if repair:
        from ehr_tokenize.meds.repair import repair as mend

        named = dict(item.partition("=")[::2] for item in splits)
        click.echo("\n".join(mend(path, repair, splits=named).lines()))
    elif report.refused:
        raise Failure(f"{path} would be refused")


@main.command()
@click.argument("tokens", type=PATH)
@click.option("--subject", type=int, help="Print the timeline of this subject.")
@click.option("--html", type=PATH, help="Write the same as one HTML page.")
def inspect(tokens: Path, subject: int | None, html: Path | None) -> None:
    """Show counts, lengths, coverage and, of one subject, the timeline in the data set TOKENS.

    Example: ehr-tokenize inspect demo/tokens --subject 12
    """
    from ehr_tokenize.build import inspection
    from ehr_tracking.files import write_whole
    from ehr_tracking.report import text_table

    found = inspection.inspect(tokens)
    rows = [] if subject is None else inspection.record(tokens, subject)
    click.echo(text_table(rows) if rows else found.text())
    if html:
        try:
            write_whole(html, found.html(rows))
        except OSError as e:
            raise Failure(f"{html}: cannot be written: {e.strerror}") from e
        click.echo(f"wrote {html}")


@main.command()
@click.argument("source", type=PATH)
@click.option("--out", type=PATH, required=True, help="Directory of the tokenizer to write.")
@click.option("--size", type=click.IntRange(min=1), help="Read that many entries, the first ones.")
def dictionary(source: Path, out: Path, size: int | None) -> None:
    """Make a tokenizer of a dictionary that others fitted: FEMR's for CLMBR, or hf_ehr's.

    Use it with --tokenizer: nothing is fitted then.

    Example: ehr-tokenize dictionary clmbr_v8_original_dictionary.json --out clmbr --size 39818
    """
    from ehr_tokenize.fit.dictionary import from_dictionary

    click.echo("\n".join(from_dictionary(source, out, size=size).lines()))


main.add_command(narrate)
main.add_command(synth)
main.add_command(from_)
