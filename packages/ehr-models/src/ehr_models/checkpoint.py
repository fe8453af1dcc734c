"""`checkpoint/1` out and in: a Hugging Face directory with its vocabulary, sealed."""
# transformers leaves some methods untyped
# mypy: allow-untyped-calls

import json
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import Tensor
from transformers import AutoConfig, PreTrainedModel
from transformers.utils import logging

from ehr_models import __version__
from ehr_models.data.tokens import TokenSet
from ehr_models.heads import losses, modeling, pooling
from ehr_models.kinds import KINDS
from ehr_models.kinds.record import HeadName, Kind
from ehr_models.layers.attention import NAME
from ehr_models.registry import TOKEN_CLASSES, model_class, torch_half
from ehr_tracking.checkpoints import reading
from ehr_tracking.contracts import CHECKPOINT, ContractError
from ehr_tracking.files import PathLike
from ehr_tracking.manifest import Manifest, Source, check_file, read_manifest, seal, source

VOCABULARY = ("vocab.parquet", "tokenizer.json")
TRAINING_STATE = "training_state"
POOLED_CLASSES = {
    "AutoModelForSequenceClassification": modeling.PooledForSequenceClassification,
    "AutoModelForPreTraining": modeling.PooledForPreTraining,
}
"""What transformers calls a model with a pooled head, and one with that beside the head over tokens."""


@dataclass(frozen=True, slots=True)
class LoadedCheckpoint:
    """A model and where it came from."""

    model: PreTrainedModel
    """In evaluation mode, with packed attention."""
    kind: Kind
    head: HeadName
    """Over tokens, over pooled states, or both."""
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
    files, classes = _own_code(model)
    if classes:
        model.config.auto_map = classes
    with _quiet():
        model.save_pretrained(directory, state_dict=weights)
    for name, text in files.items():
        (directory / name).write_text(text, encoding="utf-8")
    for name in VOCABULARY:
        shutil.copyfile(tokens / name, directory / name)
    (directory / "metrics.json").write_text(
        json.dumps(dict(metrics), indent=1, sort_keys=True) + "\n", encoding="utf-8"
    )
    if training_state is not None:
        (directory / TRAINING_STATE).mkdir()
        training_state(directory / TRAINING_STATE)
    seal(directory, CHECKPOINT, producer=producer, config=config, seed=seed, inputs=inputs)


def load_checkpoint(path: PathLike, *, head: HeadName | None = None) -> LoadedCheckpoint:
    """Load a model that `save_checkpoint` wrote; no code of the directory is run.

    Args:
        path: A run (its best checkpoint, else its latest) or a checkpoint.
        head: What it must have, where the caller needs one.

    Raises:
        ContractError: If it is unfinished, changed, or not such a checkpoint.
    """
    with reading(path) as directory:
        return _load(directory, head)


def _load(directory: Path, head: HeadName | None) -> LoadedCheckpoint:
    manifest = read_manifest(directory, CHECKPOINT, reader=f"ehr-models {__version__}")
    for name in manifest.files:
        if not name.startswith(f"{TRAINING_STATE}/"):
            check_file(directory, manifest, name)
    kind, found = _which(directory / "config.json")
    if head is not None and head != found:
        raise ContractError(
            f"{directory} holds a model with {_named(found)}, not with {_named(head)}"
        )
    cls = model_class(kind, found)
    config = AutoConfig.from_pretrained(directory)
    with _quiet():
        model = cls.from_pretrained(directory, config=config, attn_implementation=NAME)
    for parameter in model.parameters():
        # out of the memory-mapped file: its alignment can change the last bit of a product
        parameter.data = parameter.data.clone()
    return LoadedCheckpoint(
        model=model.eval(),
        kind=kind,
        head=found,
        vocab_size=config.true_vocab_size,
        vocab_sha256=manifest.files["vocab.parquet"].sha256,
        directory=directory,
        manifest=manifest,
        source=source(directory),
    )


def _named(head: HeadName) -> str:
    return "both heads" if head == "both" else f"a {head} head"


def _which(path: Path) -> tuple[Kind, HeadName]:
    """The kind and the head that a config.json names.

    Raises:
        ContractError: If it is none of the zoo.
    """
    config = json.loads(path.read_bytes())
    kind, name = KINDS.get(config.get("model_type")), (config.get("architectures") or [""])[0]
    if kind is None:
        raise ContractError(
            f"{path}: model_type {config.get('model_type')!r} is no kind of the zoo: "
            f"{', '.join(KINDS)}"
        )
    classes = {model_class(kind, head).__name__: head for head in kind.heads}
    if name not in classes:
        raise ContractError(
            f"{path}: architecture {name!r} is none of kind {kind.name}: {', '.join(classes)}"
        )
    return kind, classes[name]


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


def _own_code(model: PreTrainedModel) -> tuple[dict[str, str], dict[str, str]]:
    """The files that a model needs where no package of ours is, and which class is which there.

    Returns:
        File name -> text, and `auto_map`; both empty where transformers has the class itself.
    """
    kind, config = KINDS[model.config.model_type], type(model.config).__name__
    half = torch_half(kind)
    files, classes = {}, {}
    for name in kind.files:
        module = import_module(name)
        stem = kind.name if module is half else name.rpartition(".")[2]
        files[f"{stem}.py"] = _flat(_text(module))
    if kind.files:
        token = TOKEN_CLASSES[kind.pretraining].__name__
        names = {"AutoConfig": config, "AutoModel": half.BACKBONE.__name__}
        names[token] = half.TOKEN.__name__
        classes = {auto: f"{kind.name}.{name}" for auto, name in names.items()}
    if kind.files or isinstance(model, modeling.PooledPreTrainedModel):
        for module in (modeling, pooling, losses):
            files[f"{module.__name__.rpartition('.')[2]}.py"] = _flat(_text(module))
        # transformers takes a class for one configuration only
        origin = f".{kind.name}" if kind.files else "transformers"
        files["modeling.py"] += f"\n\nfrom {origin} import {config}\n"
        for auto, cls in POOLED_CLASSES.items():
            classes[auto] = f"modeling.{cls.__name__}"
            files["modeling.py"] += f"\n{cls.__name__}.config_class = {config}\n"
    return files, classes


def _text(module: ModuleType) -> str:
    return Path(str(module.__file__)).read_text(encoding="utf-8")


def _flat(text: str) -> str:
    """Code whose modules lie side by side.

    Examples:
        >>> _flat("from ehr_models.layers.embeddings import Time2Vec")
        'from .embeddings import Time2Vec'
    """
    return re.sub(
        r"^from ehr_models\.(?:\w+\.)*(\w+) import", r"from .\1 import", text, flags=re.MULTILINE
    )
