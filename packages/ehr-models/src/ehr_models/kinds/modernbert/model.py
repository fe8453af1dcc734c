"""ModernBERT by size: the torch half."""

from typing import Any

from transformers import (
    ModernBertConfig,
    ModernBertForMaskedLM,
    ModernBertModel,
    PreTrainedConfig,
)

from ehr_models.kinds.modernbert import ModernBertModelConfig
from ehr_models.kinds.record import Size
from ehr_tracking.contracts import BOS_ID, CLS_ID, EOS_ID, SEP_ID

BACKBONE, TOKEN = ModernBertModel, ModernBertForMaskedLM


def architecture(
    config: ModernBertModelConfig, size: Size, common: dict[str, Any]
) -> PreTrainedConfig:
    """ModernBERT with dropout where the config says, and our special tokens."""
    dropout = config.dropout or 0.0
    options: dict[str, Any] = {"global_attn_every_n_layers": config.every}
    return ModernBertConfig(
        hidden_size=size.hidden,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        intermediate_size=size.intermediate,
        max_position_embeddings=size.max_positions,
        local_attention=config.window,
        embedding_dropout=dropout,
        mlp_dropout=dropout,
        attention_dropout=config.attention_dropout or 0.0,
        bos_token_id=BOS_ID,
        eos_token_id=EOS_ID,
        cls_token_id=CLS_ID,
        sep_token_id=SEP_ID,
        **options,
        **common,
    )
