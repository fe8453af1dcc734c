"""`ehr-eval features` and `ehr-eval join`."""

from pathlib import Path

import click

from ehr_tracking.options import PATH, config_options, overwrite_option


@click.command()
@click.option(
    "--checkpoint",
    type=PATH,
    required=True,
    help="A run or checkpoint; for texts, a model of transformers.",
)
@click.option("--tokens", type=PATH, help="Tokens of the same vocabulary.")
@click.option("--narratives", type=PATH, help="Texts in place of tokens, for a language model.")
@click.option(
    "--labels", type=PATH, help="Labels: who is represented, and when. Texts have their own."
)
@click.option("--out", type=PATH, required=True, help="Where the features shall be.")
@config_options("FeaturesConfig", "pooling=mean")
@click.option("--device", default="cpu", show_default=True, help="As torch names it: cpu, cuda.")
@click.option("--store", type=PATH, help="Folder that keeps what is read: no row is read twice.")
@click.option(
    "--workers", type=click.IntRange(1), default=1, show_default=True,
    help="Processes; with cuda a GPU each. One uses all cores as well.",
)  # fmt: skip
@overwrite_option("features")
def features(
    checkpoint: Path,
    tokens: Path | None,
    narratives: Path | None,
    labels: Path | None,
    out: Path,
    config_file: Path | None,
    overrides: tuple[str, ...],
    device: str,
    store: Path | None,
    workers: int,
    overwrite: bool,
) -> None:
    """Read one vector per (subject, prediction time) from a pretrained model.

    A model sees what was known at the prediction time, that time included, and nothing later. With --narratives
    it is a language model in a directory of transformers, which reads texts of ehr-tokenize narrate. A run that
    was killed goes on when the same command is given again.

    Example: ehr-eval features --checkpoint demo/runs/behrt --tokens demo/tokens --labels demo/labels --out demo/features/behrt
    """
    from ehr_eval.features.config import FeaturesConfig
    from ehr_tracking.config import load_config
    from ehr_tracking.errors import UserError

    config = load_config(FeaturesConfig, config_file, overrides)
    if (tokens is None) == (narratives is None):
        raise UserError("give either --tokens or --narratives")
    if tokens is not None and labels is None:
        raise UserError("--tokens needs --labels: who is represented, and when")
    from ehr_tracking.imports import loading

    with loading():
        from ehr_eval.features.extract import extract_features, extract_text_features

    if tokens is not None and labels is not None:
        done = extract_features(
            checkpoint, tokens, labels, out, config,
            device=device, store=store, workers=workers, overwrite=overwrite,
        )  # fmt: skip
    else:
        assert narratives is not None
        done = extract_text_features(
            checkpoint, narratives, out, config,
            labels=labels, device=device, store=store, workers=workers, overwrite=overwrite,
        )  # fmt: skip
    there = done.rows - done.read
    note = f"; read {done.read:,} of {done.rows:,} rows"
    if store or there:
        note += f", {there:,} from {'the store' if store else 'the run before'}"
    if done.blind:
        note += f"; {done.blind:,} rows see nothing and are all zeros"
    click.echo(f"{out}: {done.rows:,} rows{note}")


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
