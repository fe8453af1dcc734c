"""From a config to a freshly initialised model."""
# transformers leaves some methods untyped
# mypy: allow-untyped-calls

from collections.abc import Callable, Mapping
from typing import Any

from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    BertForMaskedLM,
    GPT2LMHeadModel,
    LlamaForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
)

from ehr_models import hf
from ehr_models.attention import NAME
from ehr_models.behrt import (
    BehrtConfig,
    BehrtForMaskedLM,
    BehrtForSequenceClassification,
    BehrtModel,
)
from ehr_models.config import ModelConfig
from ehr_models.data.tokens import PAD
from ehr_models.pooled import (
    BertForPooledClassification,
    GPT2ForPooledClassification,
    LlamaForPooledClassification,
)
from ehr_models.presets import BEHRT_ORIGINAL, OBJECTIVES, SIZES, Objective, Size
from ehr_tracking.config import ConfigError

VOCABULARY_MULTIPLE = 64
"""Embedding rows are padded to a multiple of this: the output product runs faster so."""

PRETRAINING: Mapping[str, type[PreTrainedModel]] = {
    "behrt": BehrtForMaskedLM,
    "bert": BertForMaskedLM,
    "gpt2": GPT2LMHeadModel,
    "llama": LlamaForCausalLM,
}
"""kind -> class with its language-modelling head."""
CLASSIFIERS: Mapping[str, type[PreTrainedModel]] = {
    "behrt": BehrtForSequenceClassification,
    "bert": BertForPooledClassification,
    "gpt2": GPT2ForPooledClassification,
    "llama": LlamaForPooledClassification,
}
"""kind -> class with a pooled classification head."""


def presets() -> dict[str, tuple[str, ...]]:
    """The sizes of each kind."""
    return {kind: tuple(sizes) for kind, sizes in SIZES.items()}


def build(config: ModelConfig, vocab_size: int, objective: Objective) -> PreTrainedModel:
    """A model with new weights, drawn from torch's global generator.

    Args:
        config: Kind, size and overrides.
        vocab_size: Rows of `vocab.parquet`; embeddings get a multiple of 64.
        objective: `mlm` for encoders, `clm` for decoders.

    Raises:
        ConfigError: If the kind cannot be trained for the objective, or sizes do not fit together.
    """
    if OBJECTIVES[config.kind] != objective:
        raise ConfigError(
            f"model kind {config.kind} cannot be pretrained with objective {objective}; "
            f"it takes {OBJECTIVES[config.kind]}"
        )
    model: PreTrainedModel = PRETRAINING[config.kind]._from_config(
        architecture(config, vocab_size), attn_implementation=NAME
    )
    if model.can_generate():  # rows that only pad the embedding are no tokens
        padding = list(range(vocab_size, model.config.vocab_size))
        model.generation_config.suppress_tokens = padding or None
    return model


def architecture(config: ModelConfig, vocab_size: int) -> PreTrainedConfig:
    """The resolved configuration as transformers has it.

    Raises:
        ConfigError: If sizes do not fit together.
    """
    size = _size(config)
    if size.hidden % size.heads or (size.hidden // size.heads) % 2:
        raise ConfigError(
            f"hidden = {size.hidden} must be an even multiple of heads = {size.heads}"
        )
    common: dict[str, Any] = {
        "vocab_size": -(-vocab_size // VOCABULARY_MULTIPLE) * VOCABULARY_MULTIPLE,
        "true_vocab_size": vocab_size,
        "pad_token_id": PAD,
    }
    return _ARCHITECTURES[config.kind](config, size, common)


def _size(config: ModelConfig) -> Size:
    size = SIZES[config.kind][config.size]
    given = {name: getattr(config, name) for name in Size._fields}
    return size._replace(**{name: value for name, value in given.items() if value is not None})


_BEHRT_CHOICES = (
    *("age", "time", "static", "position", "segment", "visit", "mlp", "norm"),
    *("dropout", "attention_dropout"),
)


def _behrt(config: Any, size: Size, common: dict[str, Any]) -> PreTrainedConfig:  # noqa: ANN401
    choices = dict(BEHRT_ORIGINAL) if config.size == "original" else {}
    for name in _BEHRT_CHOICES:
        if getattr(config, name) is not None:
            choices[name] = getattr(config, name)
    return BehrtConfig(
        hidden_size=size.hidden,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        intermediate_size=size.intermediate,
        max_position_embeddings=size.max_positions,
        **choices,
        **common,
    )


_ARCHITECTURES: Mapping[str, Callable[[Any, Size, dict[str, Any]], PreTrainedConfig]] = {
    "behrt": _behrt,
    "gpt2": hf.gpt2,
    "bert": hf.bert,
    "llama": hf.llama,
}

AutoConfig.register("behrt", BehrtConfig)
AutoModel.register(BehrtConfig, BehrtModel)
AutoModelForMaskedLM.register(BehrtConfig, BehrtForMaskedLM)
AutoModelForSequenceClassification.register(BehrtConfig, BehrtForSequenceClassification)
