"""`ehr-models`. Configs are imported where they are used: pydantic takes its time over them."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

import ehr_models
from ehr_models.exchange.command import export, import_, push
from ehr_tracking.errors import Group, UserError
from ehr_tracking.options import PATH, overwrite_option, set_option

if TYPE_CHECKING:
    from ehr_models.config import ModelConfig

VOCAB_SIZE = click.option(
    "--vocab-size", type=click.IntRange(min=1), default=1000, show_default=True, help="Tokens."
)


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(ehr_models.__version__, package_name="ehr-models")
def main() -> None:
    """Models of health records: what there is, how large it truly is, and where its codes start.

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
    kinds = sum(bool(kind.sizes) for kind in KINDS.values())
    click.echo(f"{len(rows)} presets of {kinds} kinds; parameters at {vocab_size:,} tokens")


@main.command()
@click.argument("name")
@VOCAB_SIZE
@set_option("layers=4")
def describe(name: str, vocab_size: int, overrides: tuple[str, ...]) -> None:
    """Print the configuration of a preset and its true parameter counts by part.

    `auto` is that of a local directory of transformers: ehr-models describe auto -s path=DIR

    Example: ehr-models describe behrt-small --vocab-size 1000 -s layers=4
    """
    config = _preset(name, overrides)
    from ehr_models.describe import count_parameters
    from ehr_models.kinds import kind_for
    from ehr_models.kinds.record import ISOLATION
    from ehr_models.registry import architecture
    from ehr_tracking.config import to_dict

    resolved = architecture(config, vocab_size).to_diff_dict()
    counts = count_parameters(config, vocab_size)
    given = {key: value for key, value in to_dict(config).items() if value is not None}
    click.echo(type(config).__doc__)
    click.echo(f"config: {json.dumps(given)}")
    kind = kind_for(config)
    click.echo(f"subjects apart: {kind.isolates}, {ISOLATION[kind.isolates]}")
    click.echo(f"architecture: {json.dumps(resolved)}")
    click.echo(f"parameters at {vocab_size:,} tokens:")
    for part, count in counts.items():
        click.echo(f"  {part:<12}{count:>16,}")


@main.command()
@click.option("--kind", required=True, help="Kind of model: `ehr-models list`.")
@click.option("--size", required=True, help="Of that kind.")
@click.option("--tokens", type=PATH, required=True, help="Token data set (tokens/1).")
@click.option(
    "--codes",
    multiple=True,
    metavar="[VOCABULARY=]PATH",
    help="Vectors by code: a ClinVec directory, or a .csv, .txt, .vec, .safetensors or .pt file; "
    "VOCABULARY= says what bare codes are of. May be repeated.",
)
@click.option(
    "--descriptions", type=PATH, help="Vectors by description, for codes that --codes lacks."
)
@click.option("--out", type=PATH, required=True, help="Checkpoint to write (checkpoint/1).")
@click.option("--vocabularies", help="Of ClinVec, e.g. icd10cm,atc,cpt; all that are there.")
@click.option(
    "--resize",
    "method",
    default="auto",
    show_default=True,
    type=click.Choice(["auto", "truncate", "pca", "learned_projection", "pad_smart", "pad_random"]),
    help="From the width of the vectors to that of the embedding.",
)
@click.option(
    "--hierarchy/--no-hierarchy",
    default=True,
    show_default=True,
    help="Start codes without a vector from one above them.",
)
@click.option("--freeze-codes", is_flag=True, help="Keep the embedding out of training.")
@click.option(
    "--noise",
    type=click.FloatRange(0),
    default=0.1,
    show_default=True,
    help="Of vectors that are not a token's own, as a share of the embedding's deviation.",
)
@click.option("--mapping", type=PATH, help="YAML of patterns: what MEDS codes stand for.")
@click.option("--rxnorm-atc", type=PATH, help="CSV with columns rxcui and atc.")
@click.option(
    "--seed",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    help="Of the model and of noise.",
)
@set_option("layers=4")
@overwrite_option("a checkpoint")
def init(
    kind: str,
    size: str,
    tokens: Path,
    codes: tuple[str, ...],
    descriptions: Path | None,
    out: Path,
    vocabularies: str | None,
    method: str,
    hierarchy: bool,
    freeze_codes: bool,
    noise: float,
    mapping: Path | None,
    rxnorm_atc: Path | None,
    seed: int,
    overrides: tuple[str, ...],
    overwrite: bool,
) -> None:  # fmt: skip
    """Write a new model whose codes start from vectors that others trained.

    `ehr-train --init` goes on from it. docs/codes.md tells the forms of tables.

    Example: ehr-models init --kind behrt --size large --tokens demo/tokens --codes ClinVec --out demo/start
    """
    config = _preset(f"{kind}-{size}", overrides)
    from ehr_models.codes.command import init, lines
    from ehr_models.codes.config import CodesConfig
    from ehr_models.codes.mapping import MappingConfig
    from ehr_tracking.config import load_config, validate

    chosen = None if vocabularies is None else [v.strip() for v in vocabularies.split(",")]
    given = {
        "vocabularies": chosen, "mapping": load_config(MappingConfig, mapping), "resize": method,
        "hierarchy": hierarchy, "freeze": freeze_codes, "noise": noise, "seed": seed,
    }  # fmt: skip
    done = init(
        tokens, out, config, validate(CodesConfig, given, where="options"), codes=codes,
        descriptions=descriptions, rxnorm_atc=rxnorm_atc, overwrite=overwrite,
    )  # fmt: skip
    for line in lines(done):
        click.echo(line)
    click.echo(f"wrote {out}; see {out / 'codes.parquet'} and {out / 'codes.png'}")


@main.command()
@click.argument("adapter", type=PATH)
@click.option("--out", type=PATH, required=True, help="Checkpoint directory to write.")
@click.option("--base", type=PATH, help="What it adapts, where that lies elsewhere than it did.")
@overwrite_option("a checkpoint")
def merge(adapter: Path, out: Path, base: Path | None, overwrite: bool) -> None:
    """Work an adapter into its base: a plain checkpoint that needs neither.

    ADAPTER is an adapter directory or a run that trained one. The checkpoint answers as the two do to
    1e-5, and loads with transformers alone.

    Example: ehr-models merge demo/runs/long_stay_lora --out demo/long_stay_merged
    """
    from ehr_models.merge import merge_adapter

    merge_adapter(adapter, out, base=base, overwrite=overwrite)
    click.echo(f"wrote {out}")


@main.command()
@click.argument("paths", type=PATH, nargs=-1, required=True)
@click.option("--base", type=PATH, help="What an adapter adapts, where that lies elsewhere.")
@click.option("--price", type=click.FloatRange(min=0), help="Of an hour of the device.")
@click.option(
    "--tasks", type=click.IntRange(min=1), default=1, show_default=True, help="Tasks to train."
)
def parameters(paths: tuple[Path, ...], base: Path | None, price: float | None, tasks: int) -> None:
    """Print what runs, checkpoints or adapters hold, take on disk and cost, side by side.

    Time is what the runs measured, validation included. Cost = tasks x hours of the run x price of
    an hour; bytes of several tasks = the base once + tasks x what each keeps.

    Example: ehr-models parameters demo/runs/long_stay demo/runs/long_stay_lora --price 0.40 --tasks 5
    """
    from ehr_models.cost import cost_table, measure
    from ehr_tracking.report import text_table

    costs = [(str(path), measure(path, base=base)) for path in paths]
    click.echo(text_table(cost_table(costs, tasks=tasks, price=price)))


def _preset(name: str, overrides: tuple[str, ...]) -> "ModelConfig":
    from ehr_models.kinds import KINDS
    from ehr_models.kinds.auto import AUTO
    from ehr_tracking.config import load_config

    if name == AUTO.name:
        return load_config(AUTO.config, None, overrides)
    presets = {f"{k.name}-{size}": (k, size) for k in KINDS.values() for size in k.sizes}
    if name not in presets:
        raise UserError(f"no preset {name}; choose one of {', '.join(presets)}")
    kind, size = presets[name]
    return load_config(kind.config, None, (*overrides, f"size={size}"))


main.add_command(export)
main.add_command(import_)
main.add_command(push)
