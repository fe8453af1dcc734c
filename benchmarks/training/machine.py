"""What decides how fast a machine is here."""

import os
import time
from typing import Any

import torch

from ehr_models.precision import DTYPES

_FLAGS = ("avx2", "avx512_bf16", "avx512_vnni", "amx_bf16", "amx_tile")


def machine() -> dict[str, Any]:
    """Flags of the CPU, its peaks in products of matrices on one thread, its load; a GPU's name."""
    torch.set_num_threads(1)
    found = torch.cpu.get_capabilities()
    about: dict[str, Any] = {
        "flags": {name: bool(found.get(name)) for name in _FLAGS},
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1),
        "torch": torch.__version__,
        "matmul_gflops": {
            "fp32": round(peak(torch.float32) / 1e9), "bf16": round(peak(torch.bfloat16) / 1e9)
        },
    }  # fmt: skip
    if torch.cuda.is_available():
        from ehr_train.speed import matmul_peak

        gpu = torch.device("cuda")
        about["gpu"] = torch.cuda.get_device_name()
        about["gpu_matmul_gflops"] = {p: round(matmul_peak(gpu, p) / 1e9) for p in DTYPES}
    return about


def peak(dtype: torch.dtype) -> float:
    """Floating-point operations per CPU second of one large product, the best of many."""
    n, best = 1024, float("inf")
    a = torch.ones(n, n, dtype=dtype)
    for _ in range(30):
        begin = time.process_time()
        a @ a
        best = min(best, time.process_time() - begin)
    return 2 * n**3 / best
