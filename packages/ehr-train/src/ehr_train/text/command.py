"""`ehr-train text`."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ehr_tracking.options import PATH, config_options, overwrite_option
from ehr_train.options import device_option, nproc_option, resume_option

if TYPE_CHECKING:
    from ehr_train.config import TrainConfig

_DEFAULTS = {
    "objective.kind": "classification",
    "optim.lr": "2e-5",
    "optim.betas": "[0.9, 0.999]",
}
"""Where neither file nor setting says otherwise: those of fine-tuning a language model."""
_NATIVE = ("classification", "multiclass", "multilabel", "regression")


@click.command()
@click.option("--narratives", type=PATH, required=True, help="Texts (narratives/1).")
@click.option(
    "--model",
    required=True,
    metavar="PATH|ID",
    help="A model of transformers with its tokenizer, a run of ours on texts, or a name in the local cache.",
)
@click.option("--revision", help="Of a model of the hub: branch, tag or commit.")
@click.option("--task", help="Which of the narratives, where they hold several.")
@click.option("--out", type=PATH, required=True, help="Run directory to write (run/1).")
@config_options("TrainConfig", "objective.kind=label_words")
@click.option(
    "--predictions",
    type=PATH,
    help="Write what the best checkpoint says of held-out and tuning rows (predictions/1).",
)
@nproc_option
@device_option
@click.option("--track", multiple=True, metavar="NAME[:WHERE]", help="As of ehr-train.")
@resume_option
@overwrite_option("a run")
def text(
    narratives: Path,
    model: str,
    revision: str | None,
    task: str | None,
    out: Path,
    config_file: Path | None,
    overrides: tuple[str, ...],
    predictions: Path | None,
    nproc: int,
    device: str | None,
    track: tuple[str, ...],
    resume: bool,
    overwrite: bool,
) -> None:
    """Train a language model on narratives: classify, go on with pretraining, or answer with a word.

    Example: ehr-train text --narratives demo/text --model models/pubmedbert --out demo/runs/bert
    --predictions demo/predictions/bert -c configs/text/bert.yaml
    """
    from ehr_tracking.backends import check_trackers

    check_trackers(track)
    config = load(config_file, overrides)
    from ehr_tracking.imports import loading

    with loading():
        from ehr_train.text.run import train_text

    train_text(
        narratives,
        out,
        config,
        model=model,
        revision=revision,
        task=task,
        predictions=predictions,
        nproc=nproc,
        resume=resume,
        overwrite=overwrite,
        device=device,
        track=track,
    )
    click.echo((out / "SUMMARY.txt").read_text(encoding="utf-8"), nl=False)
    click.echo(f"wrote {out}; see {out / 'report.html'}")
    if predictions is not None:
        click.echo(f"wrote {predictions}")


def load(config_file: Path | None, overrides: tuple[str, ...] = ()) -> "TrainConfig":
    """The config of a run on texts: what is not said is as of fine-tuning a language model.

    Raises:
        ConfigError: As of `load_config`.
    """
    from ehr_tracking.config import load_config, read_yaml
    from ehr_train.config import TrainConfig

    said = read_yaml(config_file) if config_file else {}
    given = dict(item.partition("=")[::2] for item in overrides)

    def named(key: str) -> object:
        section, _, name = key.partition(".")
        return given.get(key) or (said.get(section) or {}).get(name)

    added = {key: value for key, value in _DEFAULTS.items() if named(key) is None}
    kind = named("objective.kind") or _DEFAULTS["objective.kind"]
    if kind in _NATIVE and named("objective.shape") is None:
        added["objective.shape"] = "native"
    if kind in ("clm", "mlm") and named("data.window") is None:
        added["data.window"] = "all"
    if "text" not in said and not any(key.startswith("text.") for key in given):
        added["text.framework"] = "peft"
    return load_config(
        TrainConfig, config_file, (*(f"{k}={v}" for k, v in added.items()), *overrides)
    )
