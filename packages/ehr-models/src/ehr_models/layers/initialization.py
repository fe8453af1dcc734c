"""How the matrices of a new model are drawn, for any architecture."""
# torch and transformers leave some functions untyped
# mypy: allow-untyped-calls

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from ehr_models.layers.embeddings import Time2Vec, Waves
from ehr_models.layers.experts import Experts

METHODS: dict[str, Callable[..., Any]] = {
    "orthogonal": nn.init.orthogonal_,  # Saxe et al. 2014
    "xavier": nn.init.xavier_uniform_,  # Glorot and Bengio 2010
    "kaiming": nn.init.kaiming_normal_,  # He et al. 2015, fan-in, gain of ReLU
}
"""`normal` is what every kind does of itself."""


@torch.no_grad()
def redraw(model: nn.Module, method: str) -> None:
    """Draw every matrix of a new model again, from torch's global generator.

    Tables of embeddings and the decoder tied to one stay as they are, and so do Time2Vec
    and Waves, which begin as large as they are, and routers, which begin undecided; biases are zero and norms one in every kind.

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
    tables = [m for m in modules if isinstance(m, nn.Embedding | Time2Vec | Waves)]
    kept = {id(p) for table in tables for p in table.parameters()}
    for module in modules:
        for matrix in _matrices(module, kept):
            if not matrix.is_meta:
                METHODS[method](matrix)


def _matrices(module: nn.Module, kept: set[int]) -> list[Tensor]:
    """[out, in] of a linear module, or of each expert; GPT-2 and experts store them the other way round."""
    if isinstance(module, Experts):
        return [matrix.T for stack in (module.up, module.down) for matrix in stack]
    if not isinstance(module, nn.Linear | Conv1D) or id(module.weight) in kept:
        return []
    return [module.weight if isinstance(module, nn.Linear) else module.weight.T]
