"""The states of any layer of a backbone, not of its last alone.

T tokens, D width, K layers asked for.
"""

import threading
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from ehr_tracking.config import ConfigError


class Layers:
    """Which layers are read: kept as they go by, by each thread for itself."""

    def __init__(self, model: PreTrainedModel, layers: Sequence[int]) -> None:
        """Begin to look on at a model.

        Args:
            model: Of the zoo; from now on it keeps what is asked for of each of its passes.
            layers: 0 the embeddings, n what the n-th block gives, -1 the last states (behind the
                final norm, where there is one), -2 those of the block before, and so on.

        Raises:
            ConfigError: If it has no such layer.
        """
        blocks = _blocks(model)
        for layer in layers:
            if not -len(blocks) - 1 <= layer <= len(blocks):
                raise ConfigError(
                    f"layer {layer}: this {model.config.model_type} has layers 0 (embeddings) to "
                    f"{len(blocks)}, or -1 (the last) to {-len(blocks) - 1}"
                )
        self.layers = [layer % (len(blocks) + 1) for layer in layers]
        self._last, self._kept = len(blocks), threading.local()
        for layer in {n for n in self.layers if n < len(blocks)}:
            block = blocks[layer]
            block.register_forward_pre_hook(self._keep(layer), with_kwargs=True)

    def _keep(self, layer: int) -> Any:  # noqa: ANN401 -- a hook, as torch calls it
        """What goes into the next block is what this layer gives."""

        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            state = args[0] if args else kwargs["hidden_states"]
            setattr(self._kept, f"of{layer}", state)

        return hook

    def of(self, last: Tensor) -> Tensor:
        """[..., K * D] of the pass that this thread made just now.

        Args:
            last: [..., D] its last states.
        """
        found = [
            last if layer == self._last else getattr(self._kept, f"of{layer}")
            for layer in self.layers
        ]
        return torch.cat([state.reshape(last.shape) for state in found], dim=-1)


def _blocks(model: PreTrainedModel) -> nn.ModuleList:
    count = model.config.num_hidden_layers
    found = (
        m for m in model.base_model.modules() if isinstance(m, nn.ModuleList) and len(m) == count
    )
    blocks = next(found, None)
    if blocks is None:
        raise ConfigError(
            f"no list of {count} blocks was found in this {model.config.model_type}: take layer -1"
        )
    return blocks
