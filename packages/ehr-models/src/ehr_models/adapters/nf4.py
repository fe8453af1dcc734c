"""Weights in 4 bits (NF4; Dettmers et al. 2023), by bitsandbytes, on a CPU as well."""
# bitsandbytes leaves some functions untyped
# mypy: allow-untyped-calls, implicit-reexport

from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from ehr_models.adapters.linears import linears
from ehr_tracking.errors import UserError

_OPTIONS: dict[str, Any] = {"quant_type": "nf4", "compress_statistics": True}


def quantised(compute: str) -> dict[str, Any]:
    """What `config.json` says of such a model, in the words of transformers.

    Args:
        compute: fp32 or bf16.
    """
    return {
        "quant_method": "bitsandbytes",
        "load_in_4bit": True,
        "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_use_double_quant": True,
        "bnb_4bit_compute_dtype": {"fp32": "float32", "bf16": "bfloat16"}[compute],
    }


def require_bitsandbytes() -> None:
    """Refuse where it is not installed.

    Raises:
        UserError: Saying how to install it.
    """
    if find_spec("bitsandbytes") is None:
        raise UserError(
            "weights in 4 bits (qlora, quantised) need bitsandbytes: pip install 'ehr-models[qlora]'"
        )


def quantise(backbone: nn.Module, compute: torch.dtype = torch.float32) -> None:
    """Put the linear modules of the blocks into 4 bits, in place; nothing of them can be trained.

    Args:
        backbone: Of a model.
        compute: Type of products with them.
    """
    from bitsandbytes.nn.modules import Linear4bit, Params4bit

    for name, module in linears(backbone).items():
        weight = _upright(module)
        packed = Linear4bit(
            weight.shape[1], weight.shape[0], bias=False, compute_dtype=compute, **_OPTIONS
        )
        packed.weight = Params4bit(weight, requires_grad=False, **_OPTIONS)
        packed.bias = module.bias
        # its kernel for evaluation computes in bf16: what is validated would not be what was trained
        packed.support_avx512bf16_for_cpu = False
        parent, _, last = name.rpartition(".")
        setattr(backbone.get_submodule(parent), last, packed.to(weight.device))


@torch.no_grad()
def round_to_4_bits(backbone: nn.Module) -> None:
    """Give the linear modules of the blocks the values that 4 bits hold, in place and in full precision."""
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    for module in linears(backbone).values():
        held = dequantize_4bit(*quantize_4bit(_upright(module), **_OPTIONS))
        module.weight.copy_(held.T if isinstance(module, Conv1D) else held)


def _upright(module: nn.Module) -> Tensor:
    """The weight of a linear module as [out, in]."""
    weight: Tensor = module.weight.data  # type: ignore[assignment]
    return weight.T.contiguous() if isinstance(module, Conv1D) else weight
