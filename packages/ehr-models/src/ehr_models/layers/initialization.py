"""How the matrices of a new model are drawn, for any architecture."""
# torch and transformers leave some functions untyped
# mypy: allow-untyped-calls

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from ehr_models.layers.embeddings import Time2Vec

METHODS: dict[str, Callable[..., Any]] = {
    "orthogonal": nn.init.orthogonal_,  # Saxe et al. 2014
    "xavier": nn.init.xavier_uniform_,  # Glorot and Bengio 2010
    "kaiming": nn.init.kaiming_normal_,  # He et al. 2015, fan-in, gain of ReLU
}
"""`normal` is what every kind does of itself."""


@torch.no_grad()
def redraw(model: nn.Module, method: str) -> None:
    """Draw every matrix of a new model again, from torch's global generator.

    Tables of embeddings and the decoder tied to one stay as they are, and so does Time2Vec, which
    begins as large as they are; biases are zero and norms one in every kind.

    Args:
        model: New, on any device; nothing is drawn on `meta`.
        method: A key of `METHODS`.

    Examples:
        >>> layer = nn.Linear(3, 2)
        >>> redraw(layer, "orthogonal")
        >>> torch.allclose(layer.weight @ layer.weight.T, torch.eye(2), atol=1e-6)
        True
    """
    modules = list(model.modules())
    tables = [m for m in modules if isinstance(m, nn.Embedding | Time2Vec)]
    kept = {id(p) for table in tables for p in table.parameters()}
    for module in modules:
        matrix = _matrix(module)
        if matrix is not None and id(module.weight) not in kept and not matrix.is_meta:
            METHODS[method](matrix)


def _matrix(module: nn.Module) -> Tensor | None:
    """[out, in] of a linear module; that of GPT-2 stores it the other way round."""
    if isinstance(module, nn.Linear):
        return module.weight
    return module.weight.T if isinstance(module, Conv1D) else None
