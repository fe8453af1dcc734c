"""Random numbers that depend on what they are for alone: not on the batch, the order or the device.

Each is a hash of (seed, subject, prediction time, sample, step, purpose): SplitMix64 (Steele, Lea and
Flood 2014) over 64-bit integers, which wrap around alike in NumPy and torch. So a future is the same
whatever else is drawn beside it, and can be drawn again alone.
"""

from typing import Literal

import torch
from torch import Tensor

Purpose = Literal["token", "gap", "place"]
_PURPOSES: dict[Purpose, int] = {"token": 1, "gap": 2, "place": 3}
_STEP = -0x61C8864680B583EB
"""The golden ratio of SplitMix64, as a signed integer."""
_FIRST, _SECOND = -0x40A7B892E31B1A47, -0x6B2FB644ECCEEE15


def _mixed(x: Tensor) -> Tensor:
    """A bijection of 64-bit integers that no bit of comes through unmixed."""
    x = (x ^ _shifted(x, 30)) * _FIRST
    x = (x ^ _shifted(x, 27)) * _SECOND
    return x ^ _shifted(x, 31)


def _shifted(x: Tensor, bits: int) -> Tensor:
    """To the right, zeros coming in; torch's own shift keeps the sign."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def keys(seed: int, subject: Tensor, time: Tensor, sample: Tensor) -> Tensor:
    """A key of each future.

    Args:
        seed: Of the run.
        subject: [R] int64.
        time: [R] int64, the prediction time.
        sample: [R] int64.

    Returns:
        [R] int64.

    Examples:
        >>> one, two = torch.tensor([7]), torch.tensor([8])
        >>> keys(0, one, one, one).tolist() == keys(0, one, one, two).tolist()
        False
    """
    key = torch.full_like(subject, _signed(seed))
    for part in (subject, time, sample):
        key = _mixed(key + _STEP) ^ part
    return _mixed(key + _STEP)


def uniform(key: Tensor, step: Tensor, purpose: Purpose) -> Tensor:
    """One number of each future, step and purpose.

    Args:
        key: [R] from `keys`.
        step: [R] int64, tokens drawn before.
        purpose: What for.

    Returns:
        [R] float64, a multiple of 2**-52 in [0, 1): times any positive number it stays below that.

    Examples:
        >>> u = uniform(torch.arange(100_000), torch.zeros(100_000, dtype=torch.int64), "token")
        >>> round(u.mean().item(), 2), round(u.std().item() * 12**0.5, 2), bool((u < 1).all())
        (0.5, 1.0, True)
    """
    count = 4 * step + _PURPOSES[purpose]
    bits = _mixed(key + _mixed(count * _STEP))
    return _shifted(bits, 12).double() * 2.0**-52


def choose(weights: Tensor, u: Tensor) -> Tensor:
    """Draw one column a row, in proportion to weights.

    Args:
        weights: [R, V], none negative; a row may sum to anything above 0.
        u: [R] float64 from `uniform`.

    Returns:
        [R] int64, never a column of weight 0; V - 1 where a row sums to 0.

    Examples:
        >>> choose(torch.tensor([[0.0, 2.0, 0.0, 1.0, 0.0]] * 4), torch.tensor([0, 0.66, 0.67, 0.999])).tolist()
        [1, 1, 3, 3]
    """
    running = weights.double().cumsum(1)
    at = (u.double() * running[:, -1])[:, None]
    found = torch.searchsorted(running, at, right=True)[:, 0]
    return found.clamp(max=weights.shape[1] - 1)


def _signed(value: int) -> int:
    """A whole number as 64 bits with a sign."""
    value &= 2**64 - 1
    return value - 2**64 if value >= 2**63 else value
