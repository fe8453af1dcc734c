"""`checkpoint/1` and `adapter/1` out and in: a model or what was trained of it, with its vocabulary, sealed."""
# transformers leaves some methods untyped
# mypy: allow-untyped-calls

import json
import os
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel

from ehr_models import __version__
from ehr_models.adapters.files import find_base, read_adapter, write_adapter
from ehr_models.adapters.inject import is_adapted, merge
from ehr_models.data.tokens import TokenSet
from ehr_models.heads import losses, modeling, pooling
from ehr_models.heads.token import attention_of
from ehr_models.kinds import KINDS, kind_of
from ehr_models.kinds.auto import FIELD, told
from ehr_models.kinds.auto.model import quiet, require_code
from ehr_models.kinds.record import HeadName, Kind
from ehr_models.registry import TOKEN_CLASSES, model_class, torch_half
from ehr_tracking.checkpoints import reading
from ehr_tracking.contracts import ADAPTER, CHECKPOINT, Contract, ContractError
from ehr_tracking.files import PathLike
from ehr_tracking.manifest import (
    Manifest,
    Source,
    check_file,
    load_manifest,
    read_manifest,
    seal,
    source,
)

VOCABULARY = ("vocab.parquet", "tokenizer.json")
LANGUAGE = (
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
)
"""What else transformers wants of the tokenizer of a language model."""
TRAINING_STATE = "training_state"
POOLED_CLASSES = {
    "AutoModelForSequenceClassification": modeling.PooledForSequenceClassification,
    "AutoModelForPreTraining": modeling.PooledForPreTraining,
}
"""What transformers calls a model with a pooled head, and one with that beside the head over tokens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenedCheckpoint:
    """What a checkpoint says of itself: all but the weights."""

    config: PreTrainedConfig
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


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedCheckpoint(OpenedCheckpoint):
    """A model and where it came from."""

    model: PreTrainedModel
    """In evaluation mode, with packed attention."""


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
    base: Path | None = None,
) -> None:
    """Write and seal a checkpoint; of a model with an adapter that alone and its heads, as `adapter/1`.

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
        base: The checkpoint that an adapter adapts; where it lies is kept relative to `directory`.
    """
    contract = ADAPTER if is_adapted(model) else CHECKPOINT
    if is_adapted(model):
        if base is None:
            raise AssertionError("an adapter is of a base")
        where = os.path.relpath(base.resolve(), directory.resolve())
        write_adapter(directory, model, weights or dict(model.named_parameters()), where)
        inputs = {**inputs, "base": source(base)}
    else:
        _write_model(directory, model, weights)
    for name in (*VOCABULARY, *(name for name in LANGUAGE if (tokens / name).is_file())):
        shutil.copyfile(tokens / name, directory / name)
    (directory / "metrics.json").write_text(
        json.dumps(dict(metrics), indent=1, sort_keys=True) + "\n", encoding="utf-8"
    )
    if training_state is not None:
        (directory / TRAINING_STATE).mkdir()
        training_state(directory / TRAINING_STATE)
    seal(directory, contract, producer=producer, config=config, seed=seed, inputs=inputs)


def _write_model(
    directory: Path, model: PreTrainedModel, weights: dict[str, Tensor] | None
) -> None:
    files, classes = _own_code(model)
    if classes:
        model.config.auto_map = classes
    with quiet():
        model.save_pretrained(directory, state_dict=weights)
    for name, text in files.items():
        (directory / name).write_text(text, encoding="utf-8")


def open_checkpoint(path: PathLike) -> OpenedCheckpoint:
    """What there is to know of a checkpoint, or of an adapter, before its weights are read.

    Args:
        path: A run (its best checkpoint, else its latest) or a checkpoint.

    Raises:
        ContractError: As `load_checkpoint`.
    """
    with reading(path) as directory:
        contract = ADAPTER if load_manifest(directory).contract == ADAPTER.tag else CHECKPOINT
        return _opened(directory, contract, None)


def load_checkpoint(
    path: PathLike, *, head: HeadName | None = None, base: PathLike | None = None
) -> LoadedCheckpoint:
    """Load a model that `save_checkpoint` wrote; no code of the directory is run.

    An adapter comes as the whole model, worked into its base: of `qlora` into what 4 bits hold of it.

    Args:
        path: A run (its best checkpoint, else its latest) or a checkpoint.
        head: What it must have, where the caller needs one.
        base: Of an adapter, see `load_adapter`.

    Raises:
        ContractError: If it is unfinished, changed, or not such a checkpoint.
    """
    with reading(path) as directory:
        if load_manifest(directory).contract == ADAPTER.tag:
            loaded = _load_adapter(directory, head, base, rounded=True)
            merge(loaded.model)
            return loaded
        return _load(directory, head)


def load_adapter(path: PathLike, *, base: PathLike | None = None) -> LoadedCheckpoint:
    """A model with its adapter in it, as it was trained: what is not trained is frozen.

    Args:
        path: An `adapter/1` directory, or a run that holds such.
        base: The checkpoint that it adapts, or the run that has it; None looks where it lay.

    Raises:
        ContractError: If either is unfinished or changed, or the base is another one.
    """
    with reading(path) as directory:
        return _load_adapter(directory, None, base, rounded=False)


def _load_adapter(
    directory: Path, head: HeadName | None, base: PathLike | None, *, rounded: bool
) -> LoadedCheckpoint:
    opened = _opened(directory, ADAPTER, head)
    with reading(find_base(directory, opened.manifest, base)) as below:
        weights = _load(below, None).model.state_dict()
    model: PreTrainedModel = _class_of(opened)._from_config(
        opened.config, attn_implementation=attention_of(opened.kind)
    )
    own = model.state_dict()
    shared = {n: w for n, w in weights.items() if n in own and w.shape == own[n].shape}
    model.load_state_dict(shared, strict=False)
    missing = own.keys() - shared.keys() - read_adapter(directory, model, rounded=rounded)
    if missing:
        raise ContractError(f"{directory} and its base lack {', '.join(sorted(missing)[:3])}")
    return _loaded(opened, model)


def _load(directory: Path, head: HeadName | None) -> LoadedCheckpoint:
    opened = _opened(directory, CHECKPOINT, head)
    with quiet():
        model = _class_of(opened).from_pretrained(
            directory,
            config=opened.config,
            dtype=torch.float32,
            attn_implementation=attention_of(opened.kind),
        )
    for parameter in model.parameters():
        # out of the memory-mapped file: its alignment can change the last bit of a product
        parameter.data = parameter.data.clone()
    return _loaded(opened, model)


def _class_of(opened: OpenedCheckpoint) -> type[PreTrainedModel]:
    return model_class(opened.kind, opened.head, opened.config)


def _opened(directory: Path, contract: Contract, head: HeadName | None) -> OpenedCheckpoint:
    """A checkpoint whose files are as they were sealed, and what it holds."""
    manifest = read_manifest(directory, contract, reader=f"ehr-models {__version__}")
    for name in manifest.files:
        if not name.startswith(f"{TRAINING_STATE}/"):
            check_file(directory, manifest, name)
    kind, found, config = _which(directory / "config.json")
    if head is not None and head != found:
        raise ContractError(
            f"{directory} holds a model with {_named(found)}, not with {_named(head)}"
        )
    return OpenedCheckpoint(
        config=config,
        kind=kind,
        head=found,
        vocab_size=config.true_vocab_size,
        vocab_sha256=manifest.files["vocab.parquet"].sha256,
        directory=directory,
        manifest=manifest,
        source=source(directory),
    )


def _loaded(opened: OpenedCheckpoint, model: PreTrainedModel) -> LoadedCheckpoint:
    about = {field.name: getattr(opened, field.name) for field in fields(opened)}
    return LoadedCheckpoint(**about, model=model.eval())


def _named(head: HeadName) -> str:
    return "both heads" if head == "both" else f"a {head} head"


def _which(path: Path) -> tuple[Kind, HeadName, PreTrainedConfig]:
    """The kind and the head that a config.json names, and that configuration.

    Raises:
        ContractError: If it is none of the zoo.
    """
    tree = json.loads(path.read_bytes())
    kind, name = KINDS.get(tree.get("model_type")), (tree.get("architectures") or [""])[0]
    if FIELD in tree:
        kind = told(tree[FIELD])
        require_code(path.parent, tree)
    if kind is None:
        raise ContractError(
            f"{path}: model_type {tree.get('model_type')!r} is no kind of the zoo: "
            f"{', '.join(KINDS)}"
        )
    torch_half(kind)  # so that its configuration is known
    config = AutoConfig.from_pretrained(path.parent)
    classes = {model_class(kind, head, config).__name__: head for head in kind.heads}
    if name not in classes:
        raise ContractError(
            f"{path}: architecture {name!r} is none of kind {kind.name}: {', '.join(classes)}"
        )
    return kind, classes[name], config


def require_same_vocabulary(checkpoint: OpenedCheckpoint, tokens: TokenSet) -> None:
    """Raise unless a token id means the same to both.

    Raises:
        ContractError: Saying how to make such tokens.
    """
    if checkpoint.vocab_sha256 != tokens.vocab_sha256:
        raise ContractError(
            f"{checkpoint.directory} was trained with another vocabulary than {tokens.directory}; "
            f"tokenise again with --tokenizer {checkpoint.directory}"
        )


def _own_code(model: PreTrainedModel) -> tuple[dict[str, str], dict[str, str]]:
    """The files that a model needs where no package of ours is, and which class is which there.

    Returns:
        File name -> text, and `auto_map`; both empty where transformers has the class itself.
    """
    kind, config = kind_of(model.config), type(model.config).__name__
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
