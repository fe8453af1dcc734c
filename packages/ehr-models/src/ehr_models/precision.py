"""In which floating-point type a model is run: one rule for training and for reading."""

from typing import Literal, TypeAlias

import torch

Precision: TypeAlias = Literal["fp32", "bf16", "fp16"]
"""`bf16` and `fp16` are autocast: weights and residual stream stay float32."""

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
"""In which matrix products are done."""


def resolve_precision(
    precision: Literal["auto", "fp32", "bf16", "fp16"],
    device: torch.device | str,
    *,
    training: bool = False,
) -> Precision:
    """What `auto` means here: bf16 where the hardware multiplies it faster than fp32.

    That is every GPU with units for bf16, and CPUs with AMX. AVX-512 bf16 alone makes one large product
    faster, but not a step, which was 1.24 to 1.5 times slower than in fp32 where it was measured.
    In training, where a scaled loss holds gradients in its range, a GPU without such units takes fp16.

    Examples:
        >>> resolve_precision("fp32", "cpu")
        'fp32'
    """
    if precision != "auto":
        return precision
    if torch.device(device).type == "cuda":
        # torch calls bf16 supported where it is emulated, which is slower than fp32
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return "bf16"
        return "fp16" if training else "fp32"
    return "bf16" if torch.cpu.get_capabilities().get("amx_bf16") else "fp32"


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """The context in which a model computes."""
    return torch.autocast(device.type, DTYPES[precision], enabled=precision != "fp32")
