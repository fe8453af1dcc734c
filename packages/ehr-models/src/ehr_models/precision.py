"""In which floating-point type a model is run: one rule for training and for reading."""

from typing import Literal, TypeAlias

import torch

Precision: TypeAlias = Literal["fp32", "bf16"]
"""`bf16` is autocast: weights and residual stream stay float32."""


def resolve_precision(
    precision: Literal["auto", "fp32", "bf16"], device: torch.device | str
) -> Precision:
    """What `auto` means here: bf16 where the hardware multiplies it faster than fp32.

    That is every GPU with bf16, and CPUs with AMX. AVX-512 bf16 alone makes one large product faster,
    but not a step, which was 1.24 to 1.5 times slower than in fp32 where it was measured.

    Examples:
        >>> resolve_precision("fp32", "cpu")
        'fp32'
    """
    if precision != "auto":
        return precision
    if torch.device(device).type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported() else "fp32"
    return "bf16" if torch.cpu.get_capabilities().get("amx_bf16") else "fp32"


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """The context in which a model computes."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")
