"""From a config to a freshly initialised model."""
# transformers leaves some methods untyped
# mypy: allow-untyped-calls

from collections.abc import Sequence
from copy import deepcopy
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, cast

import torch
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    PreTrainedConfig,
    PreTrainedModel,
)

from ehr_models.config import ModelConfig
from ehr_models.data.tokens import TokenSet
from ehr_models.heads.modeling import PooledForPreTraining, PooledForSequenceClassification
from ehr_models.heads.native import native_class
from ehr_models.heads.token import attention_of
from ehr_models.kinds import KINDS, kind_for, kind_of
from ehr_models.kinds.auto import AUTO, FIELD, AutoModelConfig
from ehr_models.kinds.auto.model import from_directory, kind_of_model
from ehr_models.kinds.record import HeadName, Kind, Size, size_of
from ehr_models.layers.initialization import redraw
from ehr_models.vocabulary import read_vocabulary
from ehr_tracking.config import ConfigError
from ehr_tracking.contracts import PAD_ID

VOCABULARY_MULTIPLE = 64
"""Embedding rows are padded to a multiple of this: the output product runs faster so."""
TOKEN_CLASSES: dict[str, Any] = {"mlm": AutoModelForMaskedLM, "clm": AutoModelForCausalLM}
"""What transformers calls a model of each way of pretraining."""


class TorchHalf(Protocol):
    """What the module of a kind defines."""

    BACKBONE: type[PreTrainedModel]
    """From inputs to states."""
    TOKEN: type[PreTrainedModel]
    """With a head over tokens."""

    def architecture(self, config: Any, size: Size, common: dict[str, Any]) -> PreTrainedConfig:  # noqa: ANN401 -- the kind's own config
        """The Hugging Face configuration of a config, its size and what all kinds have."""
        ...


def torch_half(kind: Kind) -> TorchHalf:
    """The part of a kind that needs torch; its classes are made known to transformers."""
    half = cast("TorchHalf", import_module(kind.module))
    config = half.BACKBONE.config_class if kind.files else None
    if config is not None:
        AutoConfig.register(kind.name, config, exist_ok=True)
        AutoModel.register(config, half.BACKBONE, exist_ok=True)
        TOKEN_CLASSES[kind.pretraining].register(config, half.TOKEN, exist_ok=True)
    return half


def model_class(kind: Kind, head: HeadName, config: PreTrainedConfig) -> type[PreTrainedModel]:
    """The class of a kind with a head; of `auto`, and of a head of transformers, by its configuration."""
    if head == "pooled":
        native = native_class(config)
        if native is not None and native.__name__ in (config.architectures or ()):
            return native
    if head == "token" and kind.name == AUTO.name:
        found: type[PreTrainedModel] = TOKEN_CLASSES[kind.pretraining]._model_mapping[type(config)]
        return found
    if head == "token":
        return torch_half(kind).TOKEN
    return PooledForPreTraining if head == "both" else PooledForSequenceClassification


def build(
    config: ModelConfig, vocabulary: TokenSet | int, head: HeadName = "token"
) -> PreTrainedModel:
    """A model with new weights, drawn from torch's global generator.

    Args:
        config: Kind, size and overrides.
        vocabulary: Of these tokens; or its number of rows, which leaves a kind that goes by what
            codes mean (`Kind.lookups`) without it. Embeddings get a multiple of 64 rows.
        head: Over tokens, over pooled states, or both.

    Raises:
        ConfigError: If sizes do not fit together, or the vocabulary does not fit the config.
        ContractError: If the vocabulary cannot be read.
    """
    rows = vocabulary if isinstance(vocabulary, int) else vocabulary.vocab_size
    if isinstance(config, AutoModelConfig):
        return _from_directory(config, rows)
    model = from_architecture(architecture(config, rows), head)
    if config.initialization != "normal":
        redraw(model, config.initialization)
    if KINDS[config.kind].lookups is not None and not isinstance(vocabulary, int):
        words = read_vocabulary(vocabulary.directory)
        look_up(model, config, [word.code or word.token for word in words])
    return model


def look_up(model: PreTrainedModel, config: ModelConfig, codes: Sequence[str]) -> None:
    """Tell a model what its kind takes from the vocabulary.

    Args:
        model: New, of a kind with `lookups`.
        config: It was built from.
        codes: The code of each token, or its text where it stands for none.

    Raises:
        ConfigError: If they do not fit the config.
    """
    lookups = KINDS[config.kind].lookups
    assert lookups is not None
    for name, values in lookups(config, codes).items():
        buffer = model.base_model.get_buffer(name)
        buffer[: len(values)] = torch.tensor(values, dtype=buffer.dtype)


def without_pooled(model: PreTrainedModel) -> PreTrainedModel:
    """A model with both heads as one with that over tokens alone; its weights are copied."""
    alone = from_architecture(deepcopy(model.config), "token")
    names = alone.state_dict().keys()
    alone.load_state_dict({n: v for n, v in model.state_dict().items() if n in names})
    alone.train(model.training)
    return alone


def from_architecture(config: PreTrainedConfig, head: HeadName) -> PreTrainedModel:
    """A model with new weights of a resolved configuration of the zoo."""
    kind = kind_of(config)
    model: PreTrainedModel = model_class(kind, head, config)._from_config(
        config, attn_implementation=attention_of(kind)
    )
    return _suppressing(model)


def _suppressing(model: PreTrainedModel) -> PreTrainedModel:
    """Rows that only pad the embedding are no tokens."""
    if model.can_generate():
        padding = list(range(model.config.true_vocab_size, model.config.vocab_size))
        model.generation_config.suppress_tokens = padding or None
    return model


def _from_directory(config: AutoModelConfig, rows: int) -> PreTrainedModel:
    """A model with the weights that lie there, but for a new vocabulary."""
    kind = kind_for(config)
    model = from_directory(config, rows, _padded(rows), attention_of(kind))
    if kind.name == AUTO.name:
        setattr(model.config, FIELD, kind_of_model(model, Path(config.path)))
    return _suppressing(model)


def _padded(rows: int) -> int:
    return -(-rows // VOCABULARY_MULTIPLE) * VOCABULARY_MULTIPLE


def architecture(config: ModelConfig, vocab_size: int) -> PreTrainedConfig:
    """The resolved configuration as transformers has it.

    Raises:
        ConfigError: If sizes do not fit together.
    """
    if isinstance(config, AutoModelConfig):
        with torch.device("meta"):
            found: PreTrainedConfig = _from_directory(config, vocab_size).config
        return found
    kind = KINDS[config.kind]
    size = size_of(kind, config)
    if size.hidden % size.heads or (size.hidden // size.heads) % 2:
        raise ConfigError(
            f"hidden = {size.hidden} must be an even multiple of heads = {size.heads}"
        )
    common: dict[str, Any] = {
        "vocab_size": _padded(vocab_size),
        "true_vocab_size": vocab_size,
        "pad_token_id": PAD_ID,
    }
    return torch_half(kind).architecture(config, size, common)
