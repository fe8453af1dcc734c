"""Attention over keys in parts: each part says how much it weighs, so that parts can be put together.

A softmax over two sets of keys is the mean of the two softmaxes, weighed by the exponentials of their
logarithmic sums (Rabe and Staats 2021). So what many rows share is attended once for all of them, and
what each has of its own beside it.

N sequences, H heads, Q queries, K keys, D width of a head.
"""
# torch leaves some functions untyped
# mypy: allow-untyped-calls

import torch
from torch import Tensor


def attend(
    query: Tensor, key: Tensor, value: Tensor, scale: float, mask: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Attention over one part of the keys.

    Args:
        query: [N, H, Q, D]
        key: [N, H, K, D], of the same type.
        value: [N, H, K, D]
        scale: Of the logits.
        mask: Added to the logits; [N, 1, 1 or Q, K] of the same type. At least one key of each is free,
            or the numbers are finite.

    Returns:
        What is attended to [N, H, Q, D], and the logarithm of the sum of exponentials [N, H, Q] float32.

    Examples:
        >>> q, k, v = torch.randn(3, 2, 4, 5, 8).unbind()
        >>> whole, _ = attend(q, k, v, 0.3)
        >>> first, last = (attend(q, k[:, :, s], v[:, :, s], 0.3) for s in (slice(2), slice(2, 5)))
        >>> torch.allclose(join(first, last), whole, atol=1e-6)
        True
    """
    if query.device.type == "cpu" and query.dtype == torch.bfloat16:
        # what scaled_dot_product_attention calls here; that keeps the sums to itself
        kernel = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default
        out, total = kernel(query, key, value, 0.0, False, attn_mask=mask, scale=scale)
        return out, total
    # in place: with few queries a pass over the logits costs as much as a product
    logits = (query * scale @ key.mT).float()
    if mask is not None:
        logits += mask
    top = logits.amax(-1, keepdim=True)
    total = logits.sub_(top).exp_().sum(-1, keepdim=True)
    out = (logits.to(value.dtype) @ value) / total
    return out, (total.log_() + top).squeeze(-1)


def join(one: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor]) -> Tensor:
    """Attention over both of two parts, [..., D] and [...] each, in float32."""
    share = torch.sigmoid(other[1] - one[1])
    return torch.lerp(one[0].float(), other[0].float(), share[..., None])
