"""`ehr-track`: look at artifacts and runs, check them, trace them to the raw data.

Modules that need pydantic are imported inside the commands: it takes longer to load than `--help`
may take.
"""

import json
from pathlib import Path

import click

import ehr_tracking
from ehr_tracking.errors import Group, UserError
from ehr_tracking.options import PATH
from ehr_tracking.report import text_table


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(ehr_tracking.__version__, package_name="ehr-tracking")
def main() -> None:
    """Look at artifacts and runs, check them, trace them to the raw data.

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

    Example: ehr-track lineage demo/results
    """
    from ehr_tracking.lineage import lineage_lines

    click.echo("\n".join(lineage_lines(artifact, roots or (artifact.resolve().parent,))))


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


def _artifacts(root: Path) -> list[Path]:
    from ehr_tracking.lineage import find_artifacts

    paths = find_artifacts(root)
    if not paths:
        raise UserError(f"{root}: no artifact there (no directory with a manifest.json)")
    return paths
