"""A model as it is decoded with: its weights shared, but matrices in the type they are multiplied in."""
# torch and transformers leave some functions untyped
# mypy: allow-untyped-calls

from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from ehr_models.kinds import kind_of
from ehr_models.layers.attention import NAME
from ehr_models.layers.experts import Experts


def lean(model: PreTrainedModel, device: torch.device, dtype: torch.dtype) -> PreTrainedModel:
    """The same model for inference on a device, which leaves the one that is given as it is.

    Autocast rounds matrices anew in every forward; of a step that would be most of the work. So the
    matrices of the backbone and of the head over tokens are rounded here once, the same way. What is
    computed in float32 (norms, embeddings, routers, other heads) keeps its weights.

    Args:
        model: Any of the zoo.
        device: Where it shall lie.
        dtype: Of products: float32, or what autocast is set to.

    Returns:
        In evaluation mode; parameters that already lie there in that type are shared.
    """
    # a copy that already knows what to put for each parameter copies none
    memo: dict[int, Any] = {id(p): _as(p, device, p.dtype) for p in model.parameters()}
    copy: PreTrainedModel = deepcopy(model, memo)
    for buffered in copy.modules():
        for name, buffer in buffered.named_buffers(recurse=False):
            setattr(buffered, name, buffer.to(device))
    heads = [getattr(copy, name, None) for name in kind_of(model.config).token_head]
    parts = [copy.base_model, *(head for head in heads if head is not None)]
    for module in (module for part in parts for module in part.modules()):
        if isinstance(module, nn.Linear | Conv1D | Experts):
            for name, parameter in module.named_parameters(recurse=False):
                # an embedding tied to it keeps its own
                setattr(module, name, _as(parameter, device, dtype))
    copy.set_attn_implementation(NAME)
    copy.eval()
    return copy


def _as(parameter: Tensor, device: torch.device, dtype: torch.dtype) -> nn.Parameter:
    return nn.Parameter(parameter.detach().to(device, dtype), requires_grad=False)
