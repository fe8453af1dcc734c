"""Directories as hf_ehr puts them on a hub: a configuration and weights of transformers, and its vocabulary.

W rows of theirs.
"""
# transformers leaves some methods untyped
# mypy: allow-untyped-calls

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import CONFIG_MAPPING, AutoConfig, PreTrainedConfig, PreTrainedModel

from ehr_models.exchange.weights import read_weights
from ehr_models.heads.token import attention_of
from ehr_models.kinds import KINDS
from ehr_models.kinds.auto import FIELD, sees
from ehr_models.kinds.auto.model import CLASSES, kind_of_model
from ehr_models.kinds.record import Kind
from ehr_models.registry import torch_half
from ehr_models.vocabulary import Word
from ehr_tracking.contracts import SPECIALS
from ehr_tracking.errors import UserError

CONFIG, VOCABULARY = "config.json", "tokenizer_config.json"
THEIR_SPECIALS = ("[BOS]", "[EOS]", "[UNK]", "[SEP]", "[PAD]", "[CLS]", "[MASK]")
"""The first tokens of its vocabularies; the place of each is its id."""
_COMPUTED = re.compile(r"(^|\.)(attn\.(masked_)?bias|inv_freq|position_ids)$")
"""Tensors that older versions wrote and none reads."""


def read_model(directory: Path) -> PreTrainedModel:
    """The model as transformers has it; no code of the directory is run.

    Raises:
        UserError: If it is of a kind that cannot be taken, or weights are missing or do not fit.
    """
    tree = _config(directory)
    name = tree.get("model_type")
    ours = KINDS.get(str(name))
    if tree.get("auto_map") or name not in CONFIG_MAPPING or (ours and ours.files):
        raise UserError(
            f"{directory / CONFIG}: model_type {name!r} is none of transformers; code that lies in a "
            "directory is not run"
        )
    try:
        config = AutoConfig.from_pretrained(directory)
        model = _empty(directory, tree, config, ours)
    except UserError:
        raise
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as e:
        raise UserError(f"{directory / CONFIG}: {str(e).splitlines()[0]}") from None
    _load(model, read_weights(directory), directory)
    if ours is None:
        setattr(model.config, FIELD, kind_of_model(model, directory))
    return model


def _empty(
    directory: Path, tree: dict[str, Any], config: PreTrainedConfig, ours: Kind | None
) -> PreTrainedModel:
    """The architecture, of the zoo's kind where there is one; else of kind `auto`."""
    model: PreTrainedModel
    if ours is None:
        model = CLASSES[sees(directory, tree)].from_config(config)
    else:
        model = torch_half(ours).TOKEN._from_config(config, attn_implementation=attention_of(ours))
    return model


def _config(directory: Path) -> dict[str, Any]:
    path = directory / CONFIG
    if not path.is_file():
        raise UserError(f"{directory} has no {CONFIG}")
    try:
        tree = json.loads(path.read_bytes())
    except ValueError as e:
        raise UserError(f"{path}: not JSON: {e}") from None
    if not isinstance(tree, dict):
        raise UserError(f"{path}: expected an object")
    return tree


def _load(model: PreTrainedModel, state: dict[str, Tensor], directory: Path) -> None:
    own = model.state_dict()
    tied = set(model.all_tied_weights_keys) if model.config.tie_word_embeddings else set()
    missing = sorted(own.keys() - state.keys() - tied)
    unknown = sorted(n for n in state.keys() - own.keys() if not _COMPUTED.search(n))
    if missing or unknown:
        what = f"lack {missing[0]}" if missing else f"hold {unknown[0]}, which it has not"
        raise UserError(f"{directory}: the weights {what}: not of the model that {CONFIG} tells")
    for name in sorted(own.keys() & state.keys()):
        if own[name].shape != state[name].shape:
            raise UserError(
                f"{directory}: {name} is {list(state[name].shape)}, but by {CONFIG} it is "
                f"{list(own[name].shape)}"
            )
    model.load_state_dict({n: v for n, v in state.items() if n in own}, strict=False)
    model.tie_weights()
    model.eval()


def origins(directory: Path, words: Sequence[Word], rows: int, vocabulary: Path) -> list[int]:
    """The row of theirs that each token of ours is.

    Args:
        directory: Theirs.
        words: Of a tokenizer that `ehr-tokenize dictionary` made of their vocabulary.
        rows: Of their embedding.
        vocabulary: Where `words` are from, for messages.

    Raises:
        UserError: If the embedding or the words are of another vocabulary.
    """
    path = directory / VOCABULARY
    entries = _entries(path)
    if rows != len(THEIR_SPECIALS) + len(entries):
        raise UserError(
            f"{directory}: the embedding has {rows:,} rows, but {path} names {len(entries):,} tokens "
            f"and {len(THEIR_SPECIALS)} are special: not the vocabulary of these weights"
        )
    found = [THEIR_SPECIALS.index(special) for special in SPECIALS]
    for word in words[len(SPECIALS) :]:
        at = word.origin
        if at is None or at >= len(entries) or entries[at].get("code") != word.code:
            raise UserError(
                f"{vocabulary} was not made of {path}: token {word.token!r} is not in it; make it with "
                f"ehr-tokenize dictionary {path} --out DIR"
            )
        found.append(len(THEIR_SPECIALS) + at)
    return found


def _entries(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        raise UserError(f"{path}: no such file; it holds the vocabulary, as hf_ehr writes it")
    try:
        entries = json.loads(path.read_bytes()).get("tokens")
    except (ValueError, AttributeError) as e:
        raise UserError(f"{path}: not JSON as hf_ehr writes it: {e}") from None
    if not isinstance(entries, list) or not all(isinstance(e, dict) for e in entries):
        raise UserError(f"{path}: expected {{'tokens': [...]}}, as hf_ehr writes it")
    return entries
