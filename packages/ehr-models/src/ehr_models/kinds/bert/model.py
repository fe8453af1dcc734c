"""BERT by size: the torch half."""

from typing import Any

from transformers import BertConfig, BertForMaskedLM, BertModel, PreTrainedConfig

from ehr_models.kinds.bert import BertModelConfig
from ehr_models.kinds.record import Size

BACKBONE, TOKEN = BertModel, BertForMaskedLM


def architecture(config: BertModelConfig, size: Size, common: dict[str, Any]) -> PreTrainedConfig:
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
