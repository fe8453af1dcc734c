"""Mistral by size: the torch half."""

from typing import Any

from transformers import MistralConfig, MistralForCausalLM, MistralModel, PreTrainedConfig

from ehr_models.kinds.mistral import MistralModelConfig
from ehr_models.kinds.record import Size, grouped, without_dropout
from ehr_tracking.contracts import BOS_ID, EOS_ID

BACKBONE, TOKEN = MistralModel, MistralForCausalLM

KV_HEADS, WINDOWS = {"7b": 8}, {"7b": 4096}
"""As published."""


def architecture(
    config: MistralModelConfig, size: Size, common: dict[str, Any]
) -> PreTrainedConfig:
    """Mistral with tied embeddings.

    Raises:
        ConfigError: If it shall have dropout where Mistral has none, or the heads do not fit.
    """
    without_dropout(config)
    window = config.window or WINDOWS.get(config.size) or max(1, size.max_positions // 4)
    return MistralConfig(
        hidden_size=size.hidden,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        num_key_value_heads=grouped(size.heads, config.kv_heads or KV_HEADS.get(config.size)),
        head_dim=size.hidden // size.heads,
        intermediate_size=size.intermediate,
        max_position_embeddings=size.max_positions,
        sliding_window=window,
        attention_dropout=config.attention_dropout or 0.0,
        bos_token_id=BOS_ID,
        eos_token_id=EOS_ID,
        tie_word_embeddings=True,
        **common,
    )
