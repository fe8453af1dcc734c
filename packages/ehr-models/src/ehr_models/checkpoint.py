"""`checkpoint/1` out and in: a Hugging Face directory with its vocabulary, sealed."""
# transformers leaves some methods untyped
# mypy: allow-untyped-calls

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import Tensor
from transformers import AutoConfig, PreTrainedModel
from transformers.utils import logging

from ehr_models import __version__, behrt, embeddings, pooled
from ehr_models.attention import NAME
from ehr_models.data.tokens import TokenSet
from ehr_models.registry import CLASSIFIERS, PRETRAINING
from ehr_tracking.checkpoints import resolve
from ehr_tracking.contracts import CHECKPOINT, ContractError
from ehr_tracking.manifest import Manifest, Source, check_file, read_manifest, seal, source

Task = Literal["mlm", "clm", "classification"]

VOCABULARY = ("vocab.parquet", "tokenizer.json")
TRAINING_STATE = "training_state"


@dataclass(frozen=True, slots=True)
class LoadedCheckpoint:
    """A model and where it came from."""

    model: PreTrainedModel
    """In evaluation mode, with packed attention."""
    objective: Task
    """What its head is for."""
    vocab_size: int
    """Rows of the vocabulary it was trained with."""
    vocab_sha256: str
    """Of that `vocab.parquet`."""
    directory: Path
    """The checkpoint itself, where a run was given."""
    manifest: Manifest
    source: Source
    """To be named as an input of what is made from it."""


def save_checkpoint(  # noqa: PLR0913 -- the identity card of an artifact
    directory: Path,
    model: PreTrainedModel,
    tokens: Path,
    *,
    metrics: Mapping[str, float],
    producer: str,
    config: Mapping[str, Any],
    seed: int | None,
    inputs: Mapping[str, Source],
    weights: dict[str, Tensor] | None = None,
    training_state: Callable[[Path], None] | None = None,
) -> None:
    """Write and seal a checkpoint.

    Args:
        directory: Exists and is empty, e.g. from `CheckpointStore.save` or `new_artifact`.
        model: Of the zoo, not wrapped.
        tokens: Token data set whose vocabulary the model was trained with.
        metrics: At this step.
        producer: Distribution and version.
        config: Resolved configuration of the training.
        seed: Of the training.
        inputs: Role -> source.
        weights: Of the model, where it does not hold them whole itself (it is sharded).
        training_state: Writes what training needs to go on into the directory it is given.
    """
    if _remote_code(model):
        model.config.auto_map = _auto_map(model)
    with _quiet():
        model.save_pretrained(directory, state_dict=weights)
    for module in _remote_code(model):
        shutil.copyfile(str(module.__file__), directory / Path(str(module.__file__)).name)
    for name in VOCABULARY:
        shutil.copyfile(tokens / name, directory / name)
    (directory / "metrics.json").write_text(
        json.dumps(dict(metrics), indent=1, sort_keys=True) + "\n", encoding="utf-8"
    )
    if training_state is not None:
        (directory / TRAINING_STATE).mkdir()
        training_state(directory / TRAINING_STATE)
    seal(directory, CHECKPOINT, producer=producer, config=config, seed=seed, inputs=inputs)


def load_checkpoint(path: Path, *, task: Task | None = None) -> LoadedCheckpoint:
    """Load a model that `save_checkpoint` wrote; no code of the directory is run.

    Args:
        path: A run (its best checkpoint, else its latest) or a checkpoint.
        task: What its head must be for, where the caller needs one.

    Raises:
        ContractError: If it is unfinished, changed, or not such a checkpoint.
    """
    directory = resolve(path)
    manifest = read_manifest(directory, CHECKPOINT, reader=f"ehr-models {__version__}")
    for name in manifest.files:
        if not name.startswith(f"{TRAINING_STATE}/"):
            check_file(directory, manifest, name)
    config = AutoConfig.from_pretrained(directory)
    name = (config.architectures or [""])[0]
    if name not in _CLASSES:
        raise ContractError(
            f"{directory / 'config.json'}: architecture {name!r} is none of the zoo: "
            f"{', '.join(_CLASSES)}"
        )
    cls, objective = _CLASSES[name]
    if task is not None and task != objective:
        raise ContractError(f"{directory} holds a model for {objective}, not for {task}")
    with _quiet():
        model = cls.from_pretrained(directory, config=config, attn_implementation=NAME)
    for parameter in model.parameters():
        # out of the memory-mapped file: its alignment can change the last bit of a product
        parameter.data = parameter.data.clone()
    return LoadedCheckpoint(
        model=model.eval(),
        objective=objective,
        vocab_size=config.true_vocab_size,
        vocab_sha256=manifest.files["vocab.parquet"].sha256,
        directory=directory,
        manifest=manifest,
        source=source(directory),
    )


def require_same_vocabulary(checkpoint: LoadedCheckpoint, tokens: TokenSet) -> None:
    """Raise unless a token id means the same to both.

    Raises:
        ContractError: Saying how to make such tokens.
    """
    if checkpoint.vocab_sha256 != tokens.vocab_sha256:
        raise ContractError(
            f"{checkpoint.directory} was trained with another vocabulary than {tokens.directory}; "
            f"tokenise again with --tokenizer {checkpoint.directory}"
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' progress bars over files that take milliseconds."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _remote_code(model: PreTrainedModel) -> list[Any]:
    if model.config.model_type == "behrt":
        return [behrt, embeddings, pooled]
    return [pooled] if type(model) in CLASSIFIERS.values() else []


def _auto_map(model: PreTrainedModel) -> dict[str, str]:
    if model.config.model_type == "behrt":
        return {
            "AutoConfig": "behrt.BehrtConfig",
            "AutoModel": "behrt.BehrtModel",
            "AutoModelForMaskedLM": "behrt.BehrtForMaskedLM",
            "AutoModelForSequenceClassification": "behrt.BehrtForSequenceClassification",
        }
    return {"AutoModelForSequenceClassification": f"pooled.{type(model).__name__}"}


_CLASSES: dict[str, tuple[type[PreTrainedModel], Task]] = {
    **{PRETRAINING[kind].__name__: (PRETRAINING[kind], "mlm") for kind in ("behrt", "bert")},
    **{PRETRAINING[kind].__name__: (PRETRAINING[kind], "clm") for kind in ("gpt2", "llama")},
    **{cls.__name__: (cls, "classification") for cls in CLASSIFIERS.values()},
}
