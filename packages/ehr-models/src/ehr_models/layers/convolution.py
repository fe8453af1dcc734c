"""Causal convolution with filters as long as the sequence, of sequences laid end to end.

This file is copied beside checkpoints as their remote code: it needs torch only.

A convolution by one Fourier transform over a whole sequence mixes rounding errors of later tokens into
earlier states. Here halves are convolved into the halves behind them, again and again (relaxed
multiplication, van der Hoeven 1997; for models of long convolutions Oncescu et al. 2024), so that not one
bit of a state depends on a later token. It takes O(L log^2 L) operations and O(L) memory.

B rows of L tokens, N sequences, P places of the longest (a power of two), C channels.
"""
# torch leaves some functions untyped
# mypy: allow-untyped-calls

import torch
from torch import Tensor

BASE = 32
"""Tokens that are convolved by a product with a triangular matrix."""


class Spans:
    """Where the sequences of a batch begin and end: wherever a position is 0, and in each row.

    Sequences of like lengths are laid into rows of one power of two, so that fewer than half of
    these are padding.

    Args:
        position_ids: [B, L]
    """

    def __init__(self, position_ids: Tensor) -> None:
        device, width = position_ids.device, position_ids.shape[-1]
        begins = position_ids == 0
        begins[..., 0] = True
        start = begins.flatten().nonzero()[:, 0].cpu()
        total = position_ids.numel()
        length = torch.cat([start[1:], torch.tensor([total])]) - start
        size = length.double().log2().ceil().exp2().long()
        self.longest = int(size.max())
        """P"""
        self.rows: list[Tensor] = []
        """For each power of two [N, it], which token lies where; the number of tokens for none"""
        back = torch.empty(total, dtype=torch.int64)
        offset = 0
        for each in size.unique().tolist():
            chosen = size == each
            index = start[chosen, None] + torch.arange(each)
            real = torch.arange(each) < length[chosen, None]
            back[index[real]] = offset + real.flatten().nonzero()[:, 0]
            self.rows.append(index.masked_fill(~real, total).to(device))
            offset += real.numel()
        self.back = back.to(device)
        """[B L] where each token lies behind one another in `rows`"""
        self.shape = (-1, width)

    def convolve(self, x: Tensor, filters: Tensor) -> Tensor:
        """Each sequence alone, in float32.

        Args:
            x: [B, L, C]
            filters: [C, P]

        Returns:
            [B, L, C] sum over s <= t of x_s filter_(t - s).
        """
        channels = x.shape[-1]
        with torch.autocast(x.device.type, enabled=False):
            flat = torch.cat([x.float().reshape(-1, channels), x.new_zeros(1, channels)])
            pieces = [
                causal_convolution(
                    flat[index].permute(2, 0, 1), filters[:, : index.shape[1]].float()
                )
                .permute(1, 2, 0)
                .reshape(-1, channels)
                for index in self.rows
            ]
            out = torch.cat(pieces).index_select(0, self.back)
        return out.view(*self.shape, channels)


def causal_convolution(x: Tensor, filters: Tensor) -> Tensor:
    """Convolve rows of a power of two with filters of that length.

    Args:
        x: [C, N, P]
        filters: [C, P]

    Returns:
        [C, N, P]

    Examples:
        >>> x, k = torch.tensor([[[1.0, 0, 2, 0]]]), torch.tensor([[1.0, 10, 100, 1000]])
        >>> causal_convolution(x, k).tolist()
        [[[1.0, 10.0, 102.0, 1020.0]]]
    """
    channels, rows, places = x.shape
    base = min(places, BASE)
    ahead = torch.arange(base, device=x.device)
    lag = ahead - ahead[:, None]  # [from, to]
    triangle = filters[:, lag.clamp(min=0)].masked_fill(lag < 0, 0.0)
    x = x.contiguous()
    out = (x.view(channels, -1, base) @ triangle).view(channels, rows, places)
    half = base
    while half < places:
        wide = 2 * half
        halves = x.view(channels, rows, places // wide, 2, half)
        spectrum = torch.fft.rfft(filters[:, :wide])[:, None, None]
        # outputs of the second half alone: what wraps around falls into the first
        behind = torch.fft.irfft(torch.fft.rfft(halves[..., 0, :], wide) * spectrum, wide)
        second = out.view(channels, rows, places // wide, 2, half)[..., 1, :]
        second += behind[..., half:]
        half = wide
    return out
