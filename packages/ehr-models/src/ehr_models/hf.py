"""Architectures of transformers, by size: from our config to theirs."""

from typing import Any

from transformers import BertConfig, GPT2Config, LlamaConfig, PreTrainedConfig

from ehr_models.config import BertModelConfig, Gpt2ModelConfig, LlamaModelConfig
from ehr_models.data.tokens import BOS, EOS
from ehr_models.presets import KV_HEADS, Size
from ehr_tracking.config import ConfigError


def gpt2(config: Gpt2ModelConfig, size: Size, common: dict[str, Any]) -> PreTrainedConfig:
    """GPT-2 with dropout where the config says and our special tokens."""
    return GPT2Config(
        n_embd=size.hidden,
        n_layer=size.layers,
        n_head=size.heads,
        n_inner=size.intermediate,
        n_positions=size.max_positions,
        resid_pdrop=config.dropout or 0.0,
        embd_pdrop=config.dropout or 0.0,
        attn_pdrop=config.attention_dropout or 0.0,
        bos_token_id=BOS,
        eos_token_id=EOS,
        **common,
    )


def bert(config: BertModelConfig, size: Size, common: dict[str, Any]) -> PreTrainedConfig:
    """BERT; its segment embedding is that of the visits."""
    return BertConfig(
        hidden_size=size.hidden,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        intermediate_size=size.intermediate,
        max_position_embeddings=size.max_positions,
        hidden_dropout_prob=config.dropout or 0.0,
        attention_probs_dropout_prob=config.attention_dropout or 0.0,
        **common,
    )


def llama(config: LlamaModelConfig, size: Size, common: dict[str, Any]) -> PreTrainedConfig:
    """Llama with tied embeddings, since vocabularies of codes are large for such widths.

    Raises:
        ConfigError: If it shall have dropout where Llama has none, or the heads do not fit.
    """
    kv_heads = config.kv_heads or KV_HEADS.get(("llama", config.size), size.heads)
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
        bos_token_id=BOS,
        eos_token_id=EOS,
        tie_word_embeddings=True,
        **common,
    )
