"""Embeddings of ages, times and positions, each computed rather than stored where it is fixed.

This file is copied beside checkpoints as their remote code: it needs torch and transformers only.

Sources: Kazemi et al. 2019, Time2Vec; Vaswani et al. 2017 (sinusoids); Su et al. 2021, RoPE.

B batch, L length, D width, H heads, K features of a time.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from transformers import initialization

DAYS_PER_YEAR = 365.25
ORIGIN_US = 1_577_836_800_000_000
"""2020-01-01T00:00: zero of the absolute time."""
DAYS_1900_TO_2020 = 43_829
DAY_US = 86_400_000_000
STATIC = torch.iinfo(torch.int64).min
"""The `time` of a token that is always known."""
SHORTEST_PERIOD, LONGEST_PERIOD = 1 / 12, 100.0
"""Years; the initial periods of Time2Vec lie between them."""


class Time2Vec(nn.Module):
    """One linear and K - 1 periodic features of a time in years, projected to the width.

    t2v(t)[0] = w_0 t + b_0, t2v(t)[i] = sin(w_i t + b_i) (Kazemi et al. 2019, eq. 1). The periods
    start between a month and a century, so no frequency has to be found from noise.
    """

    def __init__(self, features: int, width: int) -> None:
        super().__init__()
        self.frequency = nn.Parameter(torch.empty(features))
        self.phase = nn.Parameter(torch.empty(features))
        self.projection = nn.Linear(features, width, bias=False)

    def features(self, days: Tensor) -> Tensor:
        """Days [...] to features [..., K] in float32, whatever the model's type.

        Angles are float64: in float32 a minute would be lost in the turns of a century.
        """
        years = days.double()[..., None] / DAYS_PER_YEAR
        angle = years * self.frequency.double() + self.phase.double()
        return torch.cat([angle[..., :1], angle[..., 1:].sin()], -1).float()

    def forward(self, days: Tensor) -> Tensor:
        """Days [...] to [..., D]."""
        projected: Tensor = self.projection(self.features(days).to(self.projection.weight.dtype))
        return projected

    @torch.no_grad()
    def reset(self, std: float) -> None:
        """Initial values; the output has about the given standard deviation."""
        k = len(self.frequency)
        periods = torch.logspace(
            math.log10(LONGEST_PERIOD), math.log10(SHORTEST_PERIOD), k - 1, dtype=torch.float64
        )
        frequency = torch.cat([torch.tensor([1 / LONGEST_PERIOD]), 2 * math.pi / periods])
        initialization.copy_(self.frequency, frequency.to(self.frequency))
        initialization.uniform_(self.phase, -math.pi, math.pi)
        initialization.normal_(self.projection.weight, 0.0, std * math.sqrt(2 / k))


class Waves(nn.Linear):
    """Sines and cosines of fixed periods, projected to the width.

    They are divided by their number 2 P, so that a step of Adam moves the sum of all no further than the
    embedding of a code. Undivided they outgrow what they are added to at once, and a model learns late
    which code is which; periods that are learned (Time2Vec) would run round within a few steps.
    """

    def __init__(self, periods: tuple[float, ...], width: int) -> None:
        super().__init__(2 * len(periods), width, bias=False)
        self.periods = periods

    def forward(self, days: Tensor) -> Tensor:
        """Days [...] to [..., D]; angles are float64."""
        turns = torch.stack([days.double() / period for period in self.periods], -1)
        angle = ((turns - turns.floor()) * (2 * math.pi)).float()
        features = torch.cat([angle.cos(), angle.sin()], -1) / self.in_features
        return super().forward(features.to(self.weight.dtype))

    @torch.no_grad()
    def reset(self, std: float) -> None:
        """Initial values; the output has about the given standard deviation."""
        initialization.normal_(self.weight, 0.0, std * math.sqrt(2 * self.in_features))


class BinnedDays(nn.Embedding):
    """A learned table of equal parts of a year; what lies outside shares its first or last row."""

    def __init__(self, bins: int, per_year: int, width: int) -> None:
        super().__init__(bins, width)
        self.per_year = per_year

    def forward(self, days: Tensor) -> Tensor:
        """Days [...] to [..., D]."""
        number = (days * self.per_year / DAYS_PER_YEAR).long()
        return super().forward(number.clamp(0, self.num_embeddings - 1))


def days_since_2020(time: Tensor) -> Tensor:
    """Microseconds since 1970 as int64 to days since 2020-01-01 as float64.

    The difference comes first, so that nothing is rounded but to the microsecond; static tokens
    give 0.

    Examples:
        >>> days_since_2020(torch.tensor([ORIGIN_US + DAY_US // 2, STATIC])).tolist()
        [0.5, 0.0]
    """
    return torch.where(time == STATIC, 0, time - ORIGIN_US).double() / DAY_US


def sinusoid(ordinal: Tensor, width: int) -> Tensor:
    """The fixed encoding of Vaswani et al. 2017, [...] to [..., D], sines and cosines interleaved.

    Of ordinals, or of days, where its waves last from 6.3 days to some 170 years. Computed, not stored: no initialiser can overwrite it and no checkpoint can lose it.
    """
    exponent = torch.arange(0, width, 2, device=ordinal.device, dtype=torch.float32) / width
    angle = ordinal[..., None] * 10_000.0**-exponent
    return torch.stack([angle.sin(), angle.cos()], -1).flatten(-2)[..., :width]


def waves(at: Tensor, like: Tensor, std: float) -> Tensor:
    """A sinusoid [..., D] as large as its fellow summands `like` at first, not 35 times that."""
    return std * math.sqrt(2) * sinusoid(at, like.shape[-1]).to(like.dtype)


def rotary(position_ids: Tensor, dim: int, theta: float) -> tuple[Tensor, Tensor]:
    """Cosine and sine [B, 1, L, dim] of RoPE in float32; computed from positions, not stored."""
    exponent = torch.arange(0, dim, 2, device=position_ids.device, dtype=torch.float32) / dim
    angle = position_ids[:, None, :, None] * theta**-exponent
    angle = torch.cat([angle, angle], -1)
    return angle.cos(), angle.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate pairs (i, i + dim / 2) of [B, H, L, dim], in float32; the type of `x` is kept.

    One operation to autograd, since the gradient is turned back: of its parts each would keep a tensor.
    """
    turned: Tensor = _Rotation.apply(x, cos, sin)
    return turned


class _Rotation(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:  # noqa: ANN401 -- torch's
        ctx.save_for_backward(cos, sin)
        return _turned(x, cos, sin)

    @staticmethod
    def backward(ctx: Any, *gradient: Tensor) -> tuple[Tensor, None, None]:  # noqa: ANN401 -- torch's
        cos, sin = ctx.saved_tensors
        return _turned(gradient[0], cos, -sin), None, None


def _turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    (first, second), half = x.float().chunk(2, -1), x.shape[-1] // 2
    cos, sin = cos[..., :half], sin[..., :half]
    out = torch.empty_like(x)
    out[..., :half] = first * cos - second * sin
    out[..., half:] = second * cos + first * sin
    return out
