"""Qwen3 by size: the torch half."""

from typing import Any

from transformers import PreTrainedConfig, Qwen3Config, Qwen3ForCausalLM, Qwen3Model

from ehr_models.kinds.qwen3 import Qwen3ModelConfig
from ehr_models.kinds.record import Size, grouped, without_dropout
from ehr_tracking.contracts import BOS_ID, EOS_ID

BACKBONE, TOKEN = Qwen3Model, Qwen3ForCausalLM

PUBLISHED = ("0.6b", "1.7b", "4b")
"""Sizes with heads of 128, eight of them of keys and values, and frequencies of base 1,000,000."""


def architecture(config: Qwen3ModelConfig, size: Size, common: dict[str, Any]) -> PreTrainedConfig:
    """Qwen3 with tied embeddings.

    Raises:
        ConfigError: If it shall have dropout where Qwen3 has none, or the heads do not fit.
    """
    without_dropout(config)
    published = config.size in PUBLISHED
    return Qwen3Config(
        hidden_size=size.hidden,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        num_key_value_heads=grouped(size.heads, config.kv_heads or (8 if published else None)),
        head_dim=config.head_width or (128 if published else size.hidden // size.heads),
        intermediate_size=size.intermediate,
        max_position_embeddings=size.max_positions,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6 if published else 1e4},
        attention_dropout=config.attention_dropout or 0.0,
        bos_token_id=BOS_ID,
        eos_token_id=EOS_ID,
        tie_word_embeddings=True,
        **common,
    )
