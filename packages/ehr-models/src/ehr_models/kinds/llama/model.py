"""Llama by size: the torch half."""

from typing import Any

from transformers import LlamaConfig, LlamaForCausalLM, LlamaModel, PreTrainedConfig

from ehr_models.kinds.llama import LlamaModelConfig
from ehr_models.kinds.record import Size, grouped, without_dropout
from ehr_tracking.contracts import BOS_ID, EOS_ID

BACKBONE, TOKEN = LlamaModel, LlamaForCausalLM

KV_HEADS = {"1b": 8, "clues": 4}
"""Sizes with grouped-query attention."""
UNTIED = ("clues",)
"""Sizes whose decoder has a table of its own."""


def architecture(config: LlamaModelConfig, size: Size, common: dict[str, Any]) -> PreTrainedConfig:
    """Llama; embeddings are tied where the size is not another's, since vocabularies of codes are large for such widths.

    Raises:
        ConfigError: If it shall have dropout where Llama has none, or the heads do not fit.
    """
    without_dropout(config)
    kv_heads = config.kv_heads or KV_HEADS.get(config.size, size.heads)
    return LlamaConfig(
        hidden_size=size.hidden,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        num_key_value_heads=grouped(size.heads, kv_heads),
        intermediate_size=size.intermediate,
        max_position_embeddings=size.max_positions,
        attention_dropout=config.attention_dropout or 0.0,
        bos_token_id=BOS_ID,
        eos_token_id=EOS_ID,
        tie_word_embeddings=config.size not in UNTIED,
        **common,
    )
