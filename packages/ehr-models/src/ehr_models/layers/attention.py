"""Exact isolation of packed subjects, for any architecture that looks its attention up by name.

`ehr_packed` is one more attention implementation of transformers. Called with `cu_seq_lens_q`, it
attends within each span alone and builds no mask, so nothing is spent on pairs of different
subjects; called without, it is scaled dot product attention over a padded batch, mask and all.

T tokens, S spans, H heads, G key/value heads (H = G but for grouped queries), D width of a head.
"""
# torch leaves some functions untyped
# mypy: allow-untyped-calls, allow-untyped-decorators

import inspect
from itertools import groupby
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention.varlen import varlen_attn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "ehr_packed"
"""The value of `attn_implementation`."""

GROUPS = "enable_gqa" in inspect.signature(varlen_attn).parameters
"""Whether the fused kernel takes fewer heads of keys than of queries: from torch 2.12 on."""
SHORT = 1024
"""Spans up to here train faster with fp32 attention on a CPU, whatever the type of the rest."""
LOCAL_BLOCK = 256
"""Queries of one product where a layer sees a window alone, at least."""


def no_mask(device: torch.device) -> Tensor:
    """What to pass as `attention_mask` with a packed batch.

    Architectures hand a mask of four dimensions through as it is, so none is built; and since this
    one fits nothing, an attention implementation that does not know of spans fails on it.
    """
    return torch.empty(0, 0, 0, 0, dtype=torch.bool, device=device)


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **kwargs: Any,  # noqa: ANN401 -- whatever the architecture hands through
) -> tuple[Tensor, None]:
    """The attention function that transformers calls in every layer.

    Args:
        module: The layer; its `is_causal` says what a token may see.
        query: [1, H, T, D] packed, or [B, H, L, D] padded.
        key: The same with G heads.
        value: The same with G heads.
        attention_mask: Of a padded batch; for a packed one `no_mask`.
        **kwargs: `dropout`, `scaling`, `sliding_window` W where a layer sees tokens at a distance below
            that alone, and for a packed batch `cu_seq_lens_q` [S + 1] int32 and `max_length_q`, the
            longest span; or `decoding`, a cache that attends to what it holds.

    Returns:
        [1, T, H, D] or [B, L, H, D], and no weights.
    """
    decoding, window = kwargs.get("decoding"), kwargs.get("sliding_window")
    if decoding is not None:
        return decoding.attend(module.layer_idx, query, kwargs.get("scaling"), window), None
    cu_seqlens = kwargs.get("cu_seq_lens_q")
    if cu_seqlens is None:
        out, _ = sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
        return out, None
    causal = kwargs.get("is_causal")
    causal = bool(getattr(module, "is_causal", True) if causal is None else causal)
    query, key, value = _lower(query, key, value)
    scaling, dropout = kwargs.get("scaling"), float(kwargs.get("dropout") or 0.0)
    longest, dtype = int(kwargs["max_length_q"]), query.dtype
    if window is not None and window >= longest:
        window = None
    if query.is_cuda and dtype in (torch.float16, torch.bfloat16) and not dropout:
        return _varlen(query, key, value, cu_seqlens, longest, scaling, causal, window), None
    if query.device.type == "cpu" and query.requires_grad and longest <= SHORT:
        # measured: the bf16 backward kernel takes 1.3 to 3 times as long, casts included
        query, key, value = query.float(), key.float(), value.float()
        with torch.autocast("cpu", enabled=False):  # which would undo that
            out = _by_span(query, key, value, cu_seqlens, dropout, scaling, causal, window)
        return out.to(dtype), None
    return _by_span(query, key, value, cu_seqlens, dropout, scaling, causal, window), None


def _lower(*tensors: Tensor) -> list[Tensor]:
    """Rotary embeddings leave fp32 queries under autocast; bring all to its type."""
    device = tensors[0].device.type
    if not torch.is_autocast_enabled(device):
        return list(tensors)
    return [t.to(torch.get_autocast_dtype(device)) for t in tensors]


def _for_each(query: Tensor, *tensors: Tensor) -> list[Tensor]:
    """Keys and values of groups of heads, repeated for each head of the queries."""
    heads = query.shape[1]
    return [
        t if t.shape[1] == heads else t.repeat_interleave(heads // t.shape[1], 1) for t in tensors
    ]


@torch.compiler.disable  # the spans differ from batch to batch: compiled, each would be a new graph
def _by_span(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cu_seqlens: Tensor,
    dropout: float,
    scaling: float | None,
    causal: bool,
    window: int | None,
) -> Tensor:
    """One call for neighbours of one length, as those are that were sorted.

    By `split`, whose gradient is one concatenation; slices would cost T each.
    """
    tensors = (query, *_for_each(query, key, value))
    runs = [(n, len([*same])) for n, same in groupby(cu_seqlens.diff().tolist())]
    options: dict[str, Any] = {"dropout_p": dropout, "scale": scaling}
    pieces = []
    for (length, n), *qkv in zip(
        runs, *(t.squeeze(0).split([a * b for a, b in runs], 1) for t in tensors), strict=True
    ):
        q, k, v = (t.unflatten(1, (n, length)).transpose(0, 1) for t in qkv)  # [n, H, L, D]
        if window is None or length <= window:
            out = F.scaled_dot_product_attention(q, k, v, is_causal=causal, **options)
        else:
            out = _within(q, k, v, window, causal, **options)
        pieces.append(out.transpose(1, 2).flatten(0, 1))
    return torch.cat(pieces)[None]


def _within(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    window: int,
    causal: bool,
    **options: Any,  # noqa: ANN401 -- of the product
) -> Tensor:
    """Attention of spans [n, H, L, D] to tokens at a distance below `window`, block by block.

    A block of queries is given the keys that any of them sees: L (block + 2 window) products, not L L.
    """
    length, block = query.shape[2], max(window, LOCAL_BLOCK)
    place = torch.arange(length, device=query.device)
    pieces = []
    for start in range(0, length, block):
        stop = min(start + block, length)
        first, last = max(0, start - window + 1), stop if causal else min(length, stop + window - 1)
        ahead = place[first:last] - place[start:stop, None]
        seen = (ahead > -window) & (ahead < (1 if causal else window))
        k, v = key[:, :, first:last], value[:, :, first:last]
        pieces.append(
            F.scaled_dot_product_attention(query[:, :, start:stop], k, v, attn_mask=seen, **options)
        )
    return torch.cat(pieces, 2)


def _varlen(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cu_seqlens: Tensor,
    longest: int,
    scaling: float | None,
    causal: bool,
    window: int | None,
) -> Tensor:
    """One fused kernel for all spans, on a GPU."""
    grouped: dict[str, Any] = {}
    if key.shape[1] != query.shape[1]:
        if GROUPS:
            grouped = {"enable_gqa": True}
        else:
            key, value = _for_each(query, key, value)
    q, k, v = (t[0].transpose(0, 1).contiguous() for t in (query, key, value))
    behind = -1 if window is None else window - 1
    out = varlen_attn(
        q,
        k,
        v,
        cu_seqlens,
        cu_seqlens,
        longest,
        longest,
        scale=scaling,
        window_size=(behind, 0 if causal else behind),
        **grouped,
    )
    assert isinstance(out, Tensor)  # it is a pair only where auxiliary outputs are asked for
    return out[None]


AttentionInterface.register(NAME, packed_attention)
AttentionMaskInterface.register(NAME, sdpa_mask)  # for whatever is not packed
