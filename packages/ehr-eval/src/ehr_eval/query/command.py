"""`ehr-eval query`, the command."""

from pathlib import Path
from typing import Literal

import click

from ehr_tracking.errors import UserError
from ehr_tracking.options import PATH, config_options, overwrite_option


@click.command()
@click.option("--checkpoint", type=PATH, required=True, help="A run or checkpoint with the head.")
@click.option("--tokens", type=PATH, required=True, help="Tokens of the same vocabulary.")
@click.option("--labels", type=PATH, required=True, help="Labels: who is asked about, and when.")
@click.option("--out", type=PATH, required=True, help="Where the answers shall be.")
@click.option("--ask", "files", type=PATH, multiple=True, help="YAML of queries; may be repeated.")
@click.option(
    "--task",
    "tasks",
    type=PATH,
    multiple=True,
    help="A task, its name in the library or a file: its outcome and horizon are asked.",
)
@click.option(
    "--code",
    "codes",
    multiple=True,
    metavar="REGEX",
    help="Ask for codes in which it is found; repeated: for any of them.",
)
@click.option("--above", type=float, help="Of --code only values above it.")
@click.option("--below", type=float, help="Of --code only values below it.")
@click.option("--name", help="Of the query by --code; a task's name predicts it.  [default: query]")
@click.option(
    "--horizon",
    "horizons",
    multiple=True,
    help="A number with m, h, d, w or y, for queries that name none; may be repeated.",
)
@click.option(
    "--head",
    type=click.Choice(["query", "events"]),
    default="query",
    show_default=True,
    help="Which head answers: events knows single codes, whatever their value.",
)
@config_options("FeaturesConfig", "batch_tokens=4096")
@click.option("--device", default="cpu", show_default=True, help="As torch names it: cpu, cuda.")
@overwrite_option("answers")
def query(
    checkpoint: Path,
    tokens: Path,
    labels: Path,
    out: Path,
    files: tuple[Path, ...],
    tasks: tuple[Path, ...],
    codes: tuple[str, ...],
    above: float | None,
    below: float | None,
    name: str | None,
    horizons: tuple[str, ...],
    head: Literal["query", "events"],
    config_file: Path | None,
    overrides: tuple[str, ...],
    device: str,
    overwrite: bool,
) -> None:
    """Ask a model whether any of a set of codes comes within a horizon, at every labelled prediction time.

    Any number of queries takes one forward pass a subject. Writes answers/1: the probability that it comes,
    and that the record ends before. Queries called like a task of the labels also give predictions/1 of
    its held-out rows, in OUT/predictions, for `ehr-eval ehrshot --predictions NAME=PATH`.

    Example: ehr-eval query --checkpoint demo/runs/query --tokens demo/tokens --labels demo/labels/mortality_1y --code ^MEDS_DEATH --horizon 30d --horizon 365d --out demo/answers
    """
    from ehr_eval.features.config import FeaturesConfig
    from ehr_eval.query.ask import collect, from_options
    from ehr_tracking.config import load_config

    if not codes and (above is not None or below is not None or name is not None):
        raise UserError("--above, --below and --name are of the query by --code: give that")
    config = load_config(FeaturesConfig, config_file, overrides)
    asks = (
        [from_options(name or "query", codes, horizons, above=above, below=below)] if codes else []
    )
    queries = collect(asks, files, tasks, horizons)
    from ehr_eval.query.run import PREDICTED
    from ehr_eval.query.run import query as run
    from ehr_tracking.report import text_table

    done = run(
        checkpoint, tokens, labels, queries, out, config, head=head, device=device, overwrite=overwrite
    )  # fmt: skip
    click.echo(text_table(done.asked))
    for task, rows in done.predicted.items():
        click.echo(f"{out / PREDICTED}: {rows:,} held-out rows of {task}")
    click.echo(f"{out}: {len(done.asked)} answers at each of {done.rows:,} prediction times")
