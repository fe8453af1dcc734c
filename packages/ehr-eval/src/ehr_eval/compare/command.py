"""`ehr-eval compare`."""

from pathlib import Path

import click

from ehr_tracking.errors import UserError
from ehr_tracking.options import PATH, named_option, overwrite_option

_ONE = "results"
"""What results are called that were given without a name."""


@click.command()
@click.option(
    "--results",
    "given",
    multiple=True,
    required=True,
    metavar="[NAME=]PATH",
    help="Results of `ehrshot`; given again, with names, for others, e.g. of another data set.",
)
@named_option("--run", "Training run of a model (MODEL, or MODEL@SEED); may be given again.")
@named_option("--features", "Features of a model: how they were made; may be given again.")
@named_option("--predictions", "Predictions of a model: how they were made; may be given again.")
@named_option("--tokens", "Tokens that models were trained on; may be given again.")
@click.option("--labels", type=PATH, multiple=True, help="Labels that the results are of.")
@click.option("--audit", type=PATH, multiple=True, help="What `audit` said of them.")
@click.option("--costs", type=PATH, help="CSV file: stage, name, seconds, memory_mb.")
@click.option("--title", default="Comparison", show_default=True, help="Of the page.")
@click.option("--out", type=PATH, required=True, help="Where page and tables shall be.")
@overwrite_option("a comparison")
def compare(
    given: tuple[str, ...],
    run: dict[str, Path],
    features: dict[str, Path],
    predictions: dict[str, Path],
    tokens: dict[str, Path],
    labels: tuple[Path, ...],
    audit: tuple[Path, ...],
    costs: Path | None,
    title: str,
    out: Path,
    overwrite: bool,
) -> None:
    """One page and one table of models over tasks, and the facts that a methods section needs.

    Models called MODEL@SEED are seeds of one model. Whatever is given must be of the lineage of the results.

    Example: ehr-eval compare --results demo/results --run behrt=demo/runs/behrt --labels demo/labels --out demo/comparison
    """
    results = _named(given)
    from ehr_eval.compare.run import run_compare
    from ehr_tracking.report import text_table

    leaders = run_compare(
        results,
        out,
        runs=run,
        features=features,
        predictions=predictions,
        tokens=tokens,
        labels=labels,
        audits=audit,
        costs=costs,
        title=title,
        overwrite=overwrite,
    )
    click.echo(text_table(leaders))
    click.echo(f"methods: {out / 'methods.md'}")
    click.echo(f"page: {out / 'page.html'}")


def _named(given: tuple[str, ...]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for item in given:
        name, equals, path = item.partition("=") if not Path(item).exists() else (_ONE, "=", item)
        if not equals:
            name, path = _ONE, item
        if not name or not path:
            raise UserError(f"--results {item!r} is not of the form NAME=PATH")
        if name in found:
            raise UserError(f"--results: the name {name} is given twice")
        found[name] = Path(path)
    return found
