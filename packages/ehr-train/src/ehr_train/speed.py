"""How fast a run is, next to how fast it could be."""

import ctypes
import platform
import resource
import sys
import time

import torch
from torch import nn

from ehr_models.layers.experts import Experts
from ehr_models.precision import DTYPES
from ehr_train.scale import group


class Stopwatch:
    """Measures steps as they pass."""

    def __init__(self, model: nn.Module, device: torch.device, precision: str) -> None:
        self.device = device
        self.flops_per_token = flops_per_token(model)
        self.peak = matmul_peak(device, precision) * group.world()
        self.last = time.perf_counter()

    def restart(self) -> None:
        """Leave out the time since the last call."""
        self.last = time.perf_counter()

    def laps(self, tokens: list[int]) -> list[dict[str, float]]:
        """Figures of the steps that ended since the last call; all took equally long.

        Args:
            tokens: Of each step, real ones, of all processes.

        Returns:
            Of each: `seconds`, `tokens_per_second`, `memory_mb` (peak of this process, or of its
            GPU), `mfu` (share of the measured matrix-product peak that the model's products make up;
            those of attention scores and of the output layer are not counted).
        """
        now = time.perf_counter()
        seconds, self.last = (now - self.last) / len(tokens), now
        rate = sum(tokens) / len(tokens) / seconds
        memory = round(_peak_memory(self.device) / 1e6, 1)
        return [
            {
                "seconds": round(seconds, 4),
                "tokens_per_second": round(rate, 1),
                "memory_mb": memory,
                "mfu": round(rate * self.flops_per_token / self.peak, 4),
            }
            for _ in tokens
        ]


def flops_per_token(model: nn.Module) -> int:
    """Forward and backward through every matrix that is not a table: 6 a parameter.

    Of experts those that a token goes to. Of one that is not trained 4, and 2 where nothing before it is either: no gradient gets there.

    Source:
        Kaplan et al., Scaling laws for neural language models, 2020, 2.1.
    """
    active = {
        id(p): module.active_share
        for module in model.modules()
        if isinstance(module, Experts)
        for p in module.parameters()
    }
    tables = {id(p) for m in model.modules() if isinstance(m, nn.Embedding) for p in m.parameters()}
    total, behind = 0, False
    for p in model.parameters():
        behind = behind or p.requires_grad
        if p.ndim >= 2 and id(p) not in tables:
            numbers = int(p.numel() * active.get(id(p), 1)) * (
                2 if p.dtype == torch.uint8 else 1
            )  # two of 4 bits in each
            total += numbers * 2 * (1 + behind + p.requires_grad)
    return total


def matmul_peak(device: torch.device, precision: str) -> float:
    """Floating-point operations per second of one large matrix product, the best of a few."""
    n = 1024 if device.type == "cpu" else 8192
    dtype = DTYPES[precision]
    a = torch.ones(n, n, dtype=dtype, device=device)
    best = 0.0
    for _ in range(4):
        start = time.perf_counter()
        a @ a
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = max(best, 2 * n**3 / (time.perf_counter() - start))
    return best


def _peak_memory(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit)


def keep_freed_memory() -> None:
    """Let glibc keep what is freed instead of giving it back and asking again in every layer."""
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(-4, 0)  # M_MMAP_MAX: serve large blocks from the heap
        libc.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD: never shrink it
