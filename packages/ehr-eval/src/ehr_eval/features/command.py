"""`ehr-eval features` and `ehr-eval join`."""

from pathlib import Path

import click

from ehr_tracking.options import PATH, config_options, overwrite_option


@click.command()
@click.option("--checkpoint", type=PATH, required=True, help="A run or checkpoint directory.")
@click.option("--tokens", type=PATH, required=True, help="Tokens of the same vocabulary.")
@click.option("--labels", type=PATH, required=True, help="Labels: who is represented, and when.")
@click.option("--out", type=PATH, required=True, help="Where the features shall be.")
@config_options("FeaturesConfig", "pooling=mean")
@click.option("--device", default="cpu", show_default=True, help="As torch names it: cpu, cuda.")
@overwrite_option("features")
def features(
    checkpoint: Path,
    tokens: Path,
    labels: Path,
    out: Path,
    config_file: Path | None,
    overrides: tuple[str, ...],
    device: str,
    overwrite: bool,
) -> None:
    """Read one vector per (subject, prediction time) from a pretrained model.

    A model sees what was known at the prediction time, that time included, and nothing later.

    Example: ehr-eval features --checkpoint demo/runs/behrt --tokens demo/tokens --labels demo/labels --out demo/features/behrt
    """
    from ehr_eval.features.config import FeaturesConfig
    from ehr_tracking.config import load_config

    config = load_config(FeaturesConfig, config_file, overrides)
    from ehr_eval.features.extract import extract_features
    from ehr_tracking.manifest import load_manifest

    extract_features(checkpoint, tokens, labels, out, config, device=device, overwrite=overwrite)
    manifest = load_manifest(out)
    blind = manifest.config["rows_without_tokens"]
    note = f"; {blind} rows see no token and are all zeros" if blind else ""
    click.echo(f"{out}: {manifest.files['index.parquet'].rows} rows{note}")


@click.command()
@click.option(
    "--features",
    "parts",
    type=PATH,
    multiple=True,
    required=True,
    help="Features of the same labels; given twice or more.",
)
@click.option("--out", type=PATH, required=True, help="Where the features shall be.")
@overwrite_option("features")
def join(parts: tuple[Path, ...], out: Path, overwrite: bool) -> None:
    """Put features side by side as those of one more model: a representation and counts.

    Example: ehr-eval join --features demo/features/gpt2 --features demo/features/counts --out demo/features/both
    """
    from ehr_eval.features.join import join_features
    from ehr_tracking.manifest import load_manifest

    join_features(parts, out, overwrite=overwrite)
    manifest = load_manifest(out)
    widths = " + ".join(f"{width:,}" for width in manifest.config["widths"])
    click.echo(f"{out}: {manifest.files['index.parquet'].rows:,} rows of {widths} columns")
