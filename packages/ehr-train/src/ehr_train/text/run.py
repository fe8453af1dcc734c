"""`train_text`: from narratives and a language model to a sealed run directory."""

import hashlib
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import click
import numpy as np
import torch

from ehr_models.adapters.unsloth import require_unsloth
from ehr_models.adopt import adopt, locate, view_of
from ehr_models.checkpoint import LANGUAGE
from ehr_models.data.store import open_split
from ehr_models.data.tokens import TokenSet, open_tokens
from ehr_tracking.checkpoints import reading
from ehr_tracking.config import ConfigError
from ehr_tracking.contracts import ContractError
from ehr_tracking.errors import UserError
from ehr_tracking.files import PathLike
from ehr_tracking.manifest import MANIFEST
from ehr_train.config import TextConfig, TrainConfig
from ehr_train.job import Job
from ehr_train.objectives.clm import CLM
from ehr_train.objectives.label_words import PROMPT, LabelWords
from ehr_train.objectives.mlm import MLM
from ehr_train.run import train
from ehr_train.text.language import Encoder, read_tokenizer, word_ids
from ehr_train.text.predict import predict, require_binary
from ehr_train.text.tokens import narratives_of, require_labels, text_tokens

_ROOM = ".text"
"""Beside the run: texts as tokens, and models as they were found, which other runs there share."""


class Ready(NamedTuple):
    """What `train` is given."""

    tokens: Path
    init: Path
    labels: Path | None
    config: TrainConfig


def train_text(  # noqa: PLR0913 -- what the command's options say
    narratives: PathLike,
    out: PathLike,
    config: TrainConfig,
    *,
    model: str,
    revision: str | None = None,
    task: str | None = None,
    predictions: PathLike | None = None,
    nproc: int = 1,
    resume: bool = False,
    overwrite: bool = False,
    device: str | None = None,
    track: Sequence[str] = (),
) -> Path:
    """Train a language model on narratives, and write a sealed `run/1` directory.

    Args:
        narratives: `narratives/1`.
        out: The run directory.
        config: What to do: objective `clm` goes on with pretraining, of an encoder `mlm`; any that learns from
            labels classifies, `label_words` by the next word.
        model: A directory of transformers, a run, checkpoint or adapter of ours, or the name of a model of
            the hub that is in the local cache.
        revision: Of a model of the hub.
        task: Of the narratives, where they hold several.
        predictions: Where to write what the best checkpoint says of held-out and tuning rows.
        nproc: As of `train`.
        resume: As of `train`.
        overwrite: As of `train`; predictions are replaced as well.
        device: As of `train`.
        track: As of `train`.

    Returns:
        `out`.

    Raises:
        UserError: For bad input, in one line.
    """
    narratives, out = Path(narratives), Path(out)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if predictions is not None:
        require_binary(config)
    ready = prepare(
        narratives, out, config, model=model, revision=revision, task=task, device=device
    )
    train(
        ready.tokens,
        out,
        ready.config,
        nproc=nproc,
        init=ready.init,
        labels=ready.labels,
        resume=resume,
        overwrite=overwrite,
        device=device,
        track=track,
    )
    if predictions is not None:
        job = Job(tokens=ready.tokens, out=out, init=None, labels=ready.labels, device=device)
        assert ready.labels is not None
        name = ready.labels.parent.relative_to(narratives).as_posix()
        predict(job, job.config(), Path(predictions), name, overwrite=overwrite)
    return out


def prepare(
    narratives: Path,
    out: Path,
    config: TrainConfig,
    *,
    model: str,
    revision: str | None,
    task: str | None,
    device: str,
) -> Ready:
    """Tokens, a checkpoint to start from, and the config in full; what was made before is taken as it is.

    Raises:
        UserError: If model, narratives and config do not fit together.
    """
    text = config.text or TextConfig()
    _require_framework(text, config, device)
    found = locate(model, revision or text.revision)
    path = narratives_of(narratives, task)
    labelled = config.objective.labelled is not None
    if labelled:
        require_labels(path, config.objective.kind)
    ours = (found.directory / MANIFEST).is_file() or (found.directory / "checkpoints").is_dir()
    with reading(found.directory) if ours else nullcontext(found.directory) as directory:
        if ours and not (directory / LANGUAGE[0]).is_file():
            raise ContractError(
                f"{directory} was not trained on texts: it has no tokenizer of such"
            )
        tokenizer = read_tokenizer(directory)
        causal, masked = (isinstance(config.objective, o) for o in (CLM | LabelWords, MLM))
        if not ours:
            _require_view(directory, config.objective.kind, causal=causal, masked=masked)
        words = isinstance(config.objective, LabelWords)
        prompt = (PROMPT if words else "") if text.prompt is None else text.prompt
        text = replace(text, prompt=prompt, model=model, revision=found.revision)
        config = replace(config, text=text, objective=_asked(config, tokenizer, prompt))
        encode = Encoder(
            tokenizer, prompt=prompt, end=isinstance(config.objective, CLM), open_ended=causal
        )
        room = out.absolute().parent / _ROOM
        room.mkdir(parents=True, exist_ok=True)
        made = text_tokens(narratives, path, directory, encode, room, {"prompt": prompt})
        tokens = open_tokens(made, texts=True)
        if config.objective.cut:
            _tell_long(tokens, config.data.context, text)
        init = (
            found.directory
            if ours
            else _adopted(directory, tokens, room, tokenizer.pad_token_id, masked=masked)
        )
    return Ready(made, init, path if labelled else None, config)


def _require_view(directory: Path, objective: str, *, causal: bool, masked: bool) -> None:
    """Refuse an encoder that shall tell what comes next, and a decoder that shall fill in what is hidden.

    Raises:
        ConfigError: Saying what to take.
    """
    view = view_of(directory)
    if causal and view == "all":
        raise ConfigError(
            f"{directory} is an encoder: objective {objective} needs a model that sees the past alone; take "
            "objective.kind=classification, or mlm"
        )
    if masked and view == "past":
        raise ConfigError(
            f"{directory} is a decoder: objective {objective} needs a model that sees all of a text; take "
            "objective.kind=clm"
        )


def _asked(config: TrainConfig, tokenizer: Any, prompt: str) -> Any:  # noqa: ANN401 -- any tokenizer, any objective
    """The objective, in terms of a tokenizer."""
    objective: Any = config.objective
    if isinstance(objective, CLM):
        return replace(objective, unasked=())
    if isinstance(objective, MLM):
        if tokenizer.mask_token_id is None:
            raise ConfigError(
                f"{tokenizer.name_or_path}: its tokenizer has no token that hides another, which objective mlm needs"
            )
        special = tuple(sorted(tokenizer.all_special_ids))
        return replace(objective, mask_id=tokenizer.mask_token_id, special=special)
    if isinstance(objective, LabelWords):
        return replace(objective, ids=word_ids(tokenizer, prompt, objective.words))
    if objective.labelled is None:
        raise ConfigError(
            f"objective.kind = {objective.kind} is of records: texts have clm, mlm, label_words, and those that "
            "learn from labels with a pooled head"
        )
    return objective


def _adopted(directory: Path, tokens: TokenSet, room: Path, pad: int, *, masked: bool) -> Path:
    """The checkpoint of a directory of transformers, made the first time it is asked for."""
    weights = sorted(directory.glob("*.safetensors"))
    stats = [(p.name, p.stat().st_size, p.stat().st_mtime_ns) for p in weights]
    config = (directory / "config.json").read_bytes()
    parts = repr((config, stats, tokens.vocab_sha256, pad, masked))
    out = room / f"model-{hashlib.sha256(parts.encode()).hexdigest()[:16]}"
    if (out / MANIFEST).is_file():
        return out
    return adopt(directory, tokens, out, pad=pad, masked=masked)


def _tell_long(tokens: TokenSet, context: int, text: TextConfig) -> None:
    """Say how many texts will lose their oldest tokens.

    Raises:
        UserError: If that shall not be.
    """
    lengths = np.concatenate([np.diff(open_split(tokens, s).offsets) for s in tokens.splits])
    long = int((lengths > context).sum())
    if not long:
        return
    what = f"{long:,} of {len(lengths):,} texts are longer than {context} tokens, up to {lengths.max():,}"
    if text.long == "refuse":
        raise UserError(
            f"{what}: raise data.context, write them shorter (ehr-tokenize narrate -s max_words=...), or "
            "take text.long=truncate"
        )
    click.echo(f"{what}: their oldest tokens are left out", err=True)


def _require_framework(text: TextConfig, config: TrainConfig, device: str) -> None:
    """Refuse unsloth where it cannot do what is asked for.

    Raises:
        UserError: Saying what to take.
    """
    if text.framework == "peft":
        return
    if device != "cuda":
        raise UserError("text.framework = unsloth needs a GPU, and there is none: take peft")
    if not isinstance(config.objective, CLM | LabelWords):
        raise UserError(
            f"text.framework = unsloth trains a decoder for clm or label_words, not {config.objective.kind}: "
            "take peft"
        )
    require_unsloth(config.adapter)
