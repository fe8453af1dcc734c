"""Rotary positions over real time: how far two tokens turn apart says how long lies between them.

This file is copied beside checkpoints as their remote code: it needs torch, transformers and
`embeddings.py` only.

Source: Su et al. 2021, RoFormer, with the time of a token in place of its ordinal.

B batch, L length, P pairs of a head's dimensions.
"""

import math

import torch
from torch import Tensor

from ehr_models.layers.embeddings import DAYS_PER_YEAR, STATIC, days_since_2020

SHORTEST_DAYS, LONGEST_DAYS = 10 / 1440, 100 * DAYS_PER_YEAR
"""What the fastest and the slowest pair take for a turn: ten minutes and a century."""


def periods(pairs: int, device: torch.device | str = "cpu") -> Tensor:
    """[P] float64 days, evenly spaced in their logarithm; made on the device.

    Examples:
        >>> [round(p, 4) for p in periods(3).tolist()]
        [0.0069, 15.9263, 36525.0]
    """
    ends = math.log(SHORTEST_DAYS), math.log(LONGEST_DAYS)
    return torch.linspace(*ends, pairs, dtype=torch.float64, device=device).exp()


def time_rotary(age: Tensor, time: Tensor, pairs: int) -> tuple[Tensor, Tensor]:
    """Cosine and sine [B, L, P] float32 of the angle of each token, which depends on no other.

    Pairs that take less than a day turn with `time`, in float64 until the turn is known: what is
    left of a difference is right to the microsecond, and a shift of all times cancels. A static
    token has no such time: there it is 0, so that these pairs say nothing of it. Pairs that take a
    day or more turn with `age`, whose float32 is off by 1.4 minutes at 80 years (0.006 of a radian
    of a day): there static tokens stand at birth.

    Args:
        age: [B, L] days since birth, 0 for static tokens.
        time: [B, L] int64 microseconds since 1970, `STATIC` for static tokens.
        pairs: P, from the fastest.
    """
    period = periods(pairs, age.device)
    short = period < 1
    at = torch.where(short, days_since_2020(time)[..., None], age.double()[..., None])
    turns = at / period
    angle = ((turns - turns.floor()) * (2 * math.pi)).float()
    known = ~((time == STATIC)[..., None] & short)
    return angle.cos() * known, angle.sin() * known


def order_rotary(position_ids: Tensor, pairs: int, theta: float) -> tuple[Tensor, Tensor]:
    """Cosine and sine [B, L, P] float32 of ordinals [B, L], as in transformers' Llama."""
    ordinal = torch.arange(0, 2 * pairs, 2, device=position_ids.device, dtype=torch.float32)
    angle = position_ids[..., None].float() * (1.0 / theta ** (ordinal / (2 * pairs)))
    return angle.cos(), angle.sin()
