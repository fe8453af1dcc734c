"""`ehr-track`: look at artifacts, trace them to the raw data; compare, pack and thin runs.

Modules that need pydantic are imported inside the commands: it takes longer to load than `--help`
may take.
"""

import json
from pathlib import Path
from typing import Literal

import click

import ehr_tracking
from ehr_tracking.errors import Group, UserError
from ehr_tracking.options import PATH, overwrite_option
from ehr_tracking.report import text_table


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(ehr_tracking.__version__, package_name="ehr-tracking")
def main() -> None:
    """Look at artifacts, trace them to the raw data; compare, pack and thin runs.

    Example: ehr-track verify demo
    """


@main.command("list")
@click.argument("root", type=PATH, default=Path())
def list_artifacts(root: Path) -> None:
    """List every artifact below ROOT.

    Example: ehr-track list demo
    """
    from ehr_tracking.manifest import load_manifest, sha256

    rows = []
    for path in _artifacts(root):
        manifest = load_manifest(path)
        rows.append(
            {
                "artifact": str(path),
                "contract": manifest.contract,
                "producer": manifest.producer,
                "files": len(manifest.files),
                "MB": round(sum(f.bytes for f in manifest.files.values()) / 1e6, 1),
                "fingerprint": sha256(path / "manifest.json")[:12],
            }
        )
    click.echo(text_table(rows))


@main.command()
@click.argument("artifact", type=PATH)
def show(artifact: Path) -> None:
    """Print the manifest of ARTIFACT; of a run, its summary too.

    Example: ehr-track show demo/tokens
    """
    from dataclasses import asdict

    from ehr_tracking.manifest import load_manifest

    click.echo(json.dumps(asdict(load_manifest(artifact)), indent=1))
    summary = artifact / "SUMMARY.txt"
    if summary.is_file():
        click.echo("\n" + summary.read_text(encoding="utf-8"), nl=False)


@main.command("verify")
@click.argument("root", type=PATH)
def verify_artifacts(root: Path) -> None:
    """Check every artifact below ROOT against its manifest, file by file.

    Example: ehr-track verify demo
    """
    from ehr_tracking.manifest import verify

    paths = _artifacts(root)
    problems = []
    for path in paths:
        found = verify(path)
        click.echo(f"{'changed' if found else 'holds':<8} {path}")
        problems += found
    if problems:
        raise UserError("; ".join(problems))
    click.echo(f"{len(paths)} artifacts hold")


@main.command()
@click.argument("artifact", type=PATH)
@click.option(
    "--in",
    "roots",
    type=PATH,
    multiple=True,
    help="Where the inputs may lie, to check them by hash; default: beside ARTIFACT.",
)
def lineage(artifact: Path, roots: tuple[Path, ...]) -> None:
    """Trace ARTIFACT to the raw data; inputs at hand are checked by hash.

    Of several directories with the same bytes all are named: which was read is not recorded.

    Example: ehr-track lineage demo/results
    """
    from ehr_tracking.lineage import lineage_lines

    beside = artifact.absolute().parent  # of a link, not of where it leads
    click.echo("\n".join(lineage_lines(artifact, roots or (beside,))))


@main.command()
def contracts() -> None:
    """Print the contracts that this version knows, with the columns of all their tables.

    Example: ehr-track contracts
    """
    from ehr_tracking.contracts import CONTRACTS

    for contract in CONTRACTS.values():
        click.echo(f"{contract.tag}\n  {contract.doc}")
        for table, columns in {"": contract.columns, **contract.beside}.items():
            if table:
                click.echo(f"  {table}")
            for column in columns:
                optional = " (optional)" if column.optional else ""
                click.echo(f"    {column.name:<30} {column.dtype}{optional}: {column.doc}")


_RUNS = click.argument("runs", type=PATH, nargs=-1, required=True)


@main.command()
@_RUNS
def compare(runs: tuple[Path, ...]) -> None:
    """Print RUNS beside each other: best metrics, parameters, tokens, seconds, settings that differ.

    A run is a directory of ehr-train, finished or not, or of an ExperimentTracker.

    Example: ehr-track compare demo/runs/behrt demo/runs/gpt2
    """
    from ehr_tracking.comparison import compare as comparison
    from ehr_tracking.comparison.records import read_records

    records = read_records(runs)
    click.echo(text_table(comparison.compare(records)))
    if best := comparison.best_runs(records):
        click.echo("\n" + text_table(best))
    if different := comparison.differences(records):
        click.echo("\n" + text_table(different))


@main.command()
@_RUNS
@click.option("--metric", default="val_loss", show_default=True, help="Which metric to draw.")
@click.option("--out", type=PATH, required=True, help="PNG file to write.")
@overwrite_option("a file")
def plot(runs: tuple[Path, ...], metric: str, out: Path, overwrite: bool) -> None:
    """Draw a metric of RUNS in one plot.

    Example: ehr-track plot demo/runs/behrt demo/runs/gpt2 --metric val_loss --out loss.png
    """
    from ehr_tracking.comparison import compare as comparison
    from ehr_tracking.comparison.records import read_records

    records = read_records(runs)
    comparison.plot(records, metric, comparison.free_file(out, overwrite=overwrite))
    click.echo(f"wrote {out}")


@main.command()
@_RUNS
@click.option("--out", type=PATH, required=True, help="HTML file to write.")
@overwrite_option("a file")
def report(runs: tuple[Path, ...], out: Path, overwrite: bool) -> None:
    """Write one self-contained HTML page of RUNS: tables, curves, summaries.

    Example: ehr-track report demo/runs/behrt demo/runs/gpt2 --out runs.html
    """
    from ehr_tracking.comparison.compare import write_page

    click.echo(f"wrote {write_page(runs, out, overwrite=overwrite)}")


@main.command()
@click.argument("run", type=PATH)
@click.option("--out", type=PATH, required=True, help="Archive to write: *.tar.gz or *.zip.")
@click.option(
    "--without-checkpoints", "checkpoints", flag_value="none", help="Only logs, plots and reports."
)
@click.option("--best-only", "checkpoints", flag_value="best", help="Of the checkpoints the best.")
@overwrite_option("a file")
def export(
    run: Path, out: Path, checkpoints: Literal["best", "none"] | None, overwrite: bool
) -> None:
    """Pack RUN into one archive, to fetch from a machine that goes away.

    What is unpacked verifies, and the same run gives the same bytes.

    Example: ehr-track export demo/runs/behrt --out behrt.tar.gz --best-only
    """
    from ehr_tracking.comparison.archive import export as pack

    files, size = pack(run, out, checkpoints=checkpoints or "all", overwrite=overwrite)
    click.echo(f"wrote {out}: {files:,} files, {size / 1e6:,.1f} MB")


@main.command()
@click.argument("run", type=PATH)
@click.option(
    "--in",
    "roots",
    type=PATH,
    multiple=True,
    help="Where artifacts may lie that were made from its checkpoints; default: beside RUN.",
)
@click.option("--keep", type=int, default=1, show_default=True, help="How many of the newest.")
@click.option("--dry-run", is_flag=True, help="Remove nothing; print what would go.")
def prune(run: Path, roots: tuple[Path, ...], keep: int, dry_run: bool) -> None:
    """Remove checkpoints of RUN, but for the best, the newest and those that artifacts were made from.

    Example: ehr-track prune demo/runs/behrt --in demo --dry-run
    """
    from ehr_tracking.comparison.prune import prune as thin

    choices = thin(run, roots, keep=keep, dry_run=dry_run)
    goes = "would go" if dry_run else "removed"
    rows = [{"checkpoint": c.name, "MB": c.bytes / 1e6, "": c.why or goes} for c in choices]
    click.echo(text_table(rows) or f"{run} has no checkpoints")
    freed = sum(c.bytes for c in choices if not c.why)
    click.echo(f"{sum(not c.why for c in choices)} {goes}, {freed / 1e6:,.1f} MB")


def _artifacts(root: Path) -> list[Path]:
    from ehr_tracking.lineage import find_artifacts

    paths = find_artifacts(root)
    if not paths:
        raise UserError(f"{root}: no artifact there (no directory with a manifest.json)")
    return paths
