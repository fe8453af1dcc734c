"""Codes that keep their vectors: said in the configuration, so that it holds for whoever trains on."""

from typing import cast

from torch import Tensor, nn
from transformers import PreTrainedModel

FIELD = "freeze_codes"
"""Of the Hugging Face configuration."""


def code_rows(model: PreTrainedModel) -> Tensor:
    """[V, W], the embedding of codes of a model of any kind, with any head."""
    return cast("nn.Embedding", model.get_input_embeddings()).weight


def freeze_codes(model: PreTrainedModel, frozen: bool | None = None) -> bool:
    """Take the embedding of codes out of training, where it shall be.

    All of its rows are: specials and codes without a vector as well. A decoder that is tied to it is
    the same tensor, so it is frozen with it; its bias is not, nor is the layer that projects an
    embedding of another width.

    Args:
        model: Of any kind, with any head.
        frozen: Whether; by default what its configuration says.

    Returns:
        Whether it is.
    """
    if frozen is None:
        frozen = bool(getattr(model.config, FIELD, False))
    if frozen:
        code_rows(model).requires_grad_(False)
    return frozen
