"""Llama by size: the torch half."""

from typing import Any

from transformers import LlamaConfig, LlamaForCausalLM, LlamaModel, PreTrainedConfig

from ehr_models.kinds.llama import LlamaModelConfig
from ehr_models.kinds.record import Size
from ehr_tracking.config import ConfigError
from ehr_tracking.contracts import BOS_ID, EOS_ID

BACKBONE, TOKEN = LlamaModel, LlamaForCausalLM

KV_HEADS = {"1b": 8}
"""Sizes with grouped-query attention (Llama 3.2 1B)."""


def architecture(config: LlamaModelConfig, size: Size, common: dict[str, Any]) -> PreTrainedConfig:
    """Llama with tied embeddings, since vocabularies of codes are large for such widths.

    Raises:
        ConfigError: If it shall have dropout where Llama has none, or the heads do not fit.
    """
    kv_heads = config.kv_heads or KV_HEADS.get(config.size, size.heads)
    if size.heads % kv_heads:
        raise ConfigError(f"heads = {size.heads} must be a multiple of kv_heads = {kv_heads}")
    if config.dropout:
        raise ConfigError("model kind llama has no dropout; attention_dropout is what it has")
    return LlamaConfig(
        hidden_size=size.hidden,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        num_key_value_heads=kv_heads,
        intermediate_size=size.intermediate,
        max_position_embeddings=size.max_positions,
        attention_dropout=config.attention_dropout or 0.0,
        bos_token_id=BOS_ID,
        eos_token_id=EOS_ID,
        tie_word_embeddings=True,
        **common,
    )
