"""`ehr-models`. Configs are imported where they are used: pydantic takes its time over them."""

import json
from typing import TYPE_CHECKING

import click

import ehr_models
from ehr_tracking.errors import Group, UserError
from ehr_tracking.options import set_option

if TYPE_CHECKING:
    from ehr_models.config import ModelConfig

VOCAB_SIZE = click.option(
    "--vocab-size", type=click.IntRange(min=1), default=1000, show_default=True, help="Tokens."
)


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(ehr_models.__version__, package_name="ehr-models")
def main() -> None:
    """Models of health records: what there is, and how large it truly is.

    Example: ehr-models list
    """


@main.command("list")
@VOCAB_SIZE
def list_command(vocab_size: int) -> None:
    """Print every preset with its sizes and true parameter count.

    Example: ehr-models list --vocab-size 39818
    """
    from ehr_models.describe import count_parameters
    from ehr_models.kinds import KINDS
    from ehr_tracking.report import text_table

    rows = []
    for kind in KINDS.values():
        for name, size in kind.sizes.items():
            counts = count_parameters(_preset(f"{kind.name}-{name}", ()), vocab_size)
            rows.append(
                {
                    "name": f"{kind.name}-{name}",
                    "objective": kind.pretraining,
                    "embedding": size.embedding or size.hidden,
                    "hidden": size.hidden,
                    "layers": size.layers,
                    "heads": size.heads,
                    "MLP": size.intermediate,
                    "positions": size.max_positions,
                    "parameters": f"{counts['total']:,}",
                }
            )
    click.echo(text_table(rows))
    click.echo(f"{len(rows)} presets of {len(KINDS)} kinds; parameters at {vocab_size:,} tokens")


@main.command()
@click.argument("name")
@VOCAB_SIZE
@set_option("layers=4")
def describe(name: str, vocab_size: int, overrides: tuple[str, ...]) -> None:
    """Print the configuration of a preset and its true parameter counts by part.

    Example: ehr-models describe behrt-small --vocab-size 1000 -s layers=4
    """
    config = _preset(name, overrides)
    from ehr_models.describe import count_parameters
    from ehr_models.registry import architecture
    from ehr_tracking.config import to_dict

    resolved = architecture(config, vocab_size).to_diff_dict()
    counts = count_parameters(config, vocab_size)
    given = {key: value for key, value in to_dict(config).items() if value is not None}
    click.echo(type(config).__doc__)
    click.echo(f"config: {json.dumps(given)}")
    click.echo(f"architecture: {json.dumps(resolved)}")
    click.echo(f"parameters at {vocab_size:,} tokens:")
    for part, count in counts.items():
        click.echo(f"  {part:<12}{count:>16,}")


def _preset(name: str, overrides: tuple[str, ...]) -> "ModelConfig":
    from ehr_models.kinds import KINDS
    from ehr_tracking.config import load_config

    presets = {f"{k.name}-{size}": (k, size) for k in KINDS.values() for size in k.sizes}
    if name not in presets:
        raise UserError(f"no preset {name}; choose one of {', '.join(presets)}")
    kind, size = presets[name]
    return load_config(kind.config, None, (*overrides, f"size={size}"))
