"""Mamba-2 by size: the torch half."""

from typing import Any

from transformers import Mamba2Config, Mamba2ForCausalLM, Mamba2Model, PreTrainedConfig

from ehr_models.kinds.mamba2 import Mamba2ModelConfig
from ehr_models.kinds.record import Size, without_dropout
from ehr_tracking.config import ConfigError
from ehr_tracking.contracts import BOS_ID, EOS_ID

BACKBONE, TOKEN = Mamba2Model, Mamba2ForCausalLM


def architecture(config: Mamba2ModelConfig, size: Size, common: dict[str, Any]) -> PreTrainedConfig:
    """Mamba-2 with tied embeddings, one group of B and C, and the authors' deviation of embeddings.

    Raises:
        ConfigError: If it shall have dropout, or widths do not fit.
    """
    without_dropout(config, "attention_dropout")
    if size.intermediate % size.hidden or size.intermediate % size.heads:
        raise ConfigError(
            f"intermediate = {size.intermediate} must be a multiple of hidden = {size.hidden} and "
            f"of heads = {size.heads}"
        )
    options: dict[str, Any] = {"max_position_embeddings": size.max_positions}
    return Mamba2Config(
        hidden_size=size.hidden,
        num_hidden_layers=size.layers,
        num_heads=size.heads,
        head_dim=size.intermediate // size.heads,
        expand=size.intermediate // size.hidden,
        state_size=config.state,
        chunk_size=config.chunk,
        n_groups=1,
        initializer_range=0.02,
        rescale_prenorm_residual=False,  # transformers 5.23 would divide loaded weights as well
        use_cache=False,
        bos_token_id=BOS_ID,
        eos_token_id=EOS_ID,
        tie_word_embeddings=True,
        **options,
        **common,
    )
