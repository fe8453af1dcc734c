"""GPT-2 by size: the torch half."""

from typing import Any

from transformers import GPT2Config, GPT2LMHeadModel, GPT2Model, PreTrainedConfig

from ehr_models.kinds.gpt2 import Gpt2ModelConfig
from ehr_models.kinds.record import Size
from ehr_tracking.contracts import BOS_ID, EOS_ID

BACKBONE, TOKEN = GPT2Model, GPT2LMHeadModel


def architecture(config: Gpt2ModelConfig, size: Size, common: dict[str, Any]) -> PreTrainedConfig:
    """GPT-2 with dropout where the config says, our special tokens and a fused activation.

    `gelu_pytorch_tanh` is the formula of `gelu_new` in one operation. A checkpoint keeps the one that
    its own config names.
    """
    return GPT2Config(
        n_embd=size.hidden,
        n_layer=size.layers,
        n_head=size.heads,
        n_inner=size.intermediate,
        n_positions=size.max_positions,
        activation_function="gelu_pytorch_tanh",
        resid_pdrop=config.dropout or 0.0,
        embd_pdrop=config.dropout or 0.0,
        attn_pdrop=config.attention_dropout or 0.0,
        bos_token_id=BOS_ID,
        eos_token_id=EOS_ID,
        **common,
    )
