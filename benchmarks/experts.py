"""A mixture of experts in one call, in a loop over experts, and beside a dense MLP of equal active size.

    uv run python benchmarks/experts.py [--quick] [--device cuda]

Each way runs in a process of its own, forward and backward through one layer, and tells the best of a
few repetitions and the memory that it took beyond its weights and inputs: on a CPU of the whole process
at its peak, on a GPU of its allocator. The dense MLP is as wide as the experts of one token together. On
a CPU the seconds are of all its cores, so that other work on the machine counts less.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor

from ehr_models.kinds.gpt2_moe.model import MLP, Gpt2MoeConfig, Mixture
from ehr_models.layers import experts

WAYS = ("grouped", "loop", "dense")


def main() -> None:
    """Measure each way and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=4096, help="In a batch (4096).")
    parser.add_argument("--hidden", type=int, default=256, help="Width (256).")
    parser.add_argument("--experts", type=int, default=8, help="In the layer (8).")
    parser.add_argument("--top-k", type=int, default=2, help="Of each token (2).")
    parser.add_argument("--repeats", type=int, default=5, help="Of which the best counts (5).")
    parser.add_argument("--threads", type=int, default=1, help="On a CPU (1).")
    parser.add_argument("--device", default="cpu", help="cpu or cuda.")
    parser.add_argument("--dtype", default="float32", help="float32 or bfloat16.")
    parser.add_argument("--quick", action="store_true", help="Under a minute.")
    parser.add_argument("--way", choices=WAYS, help="This one only, in this process.")
    args = parser.parse_args()
    if args.quick:
        args.tokens, args.repeats = min(args.tokens, 2048), 2
    if args.way:
        print(json.dumps(measure(args)))
        return
    found = {}
    for way in WAYS:
        command = [sys.executable, __file__, *sys.argv[1:], "--way", way]
        found[way] = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    shape = {name: getattr(args, name) for name in ("tokens", "hidden", "experts", "top_k")}
    where = {"device": args.device, "dtype": args.dtype, "threads": args.threads}
    print(json.dumps({"shape": shape, **where, **found}, indent=1))


def measure(args: argparse.Namespace) -> dict[str, float]:
    """Of one way: seconds forward and backward, and memory in MB."""
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    inner = 4 * args.hidden
    config = Gpt2MoeConfig(
        n_embd=args.hidden,
        n_inner=inner * args.top_k if args.way == "dense" else inner,
        experts=args.experts,
        experts_per_token=args.top_k,
    )
    if args.way == "loop":
        experts.grouped = experts.one_by_one
    layer = (MLP if args.way == "dense" else Mixture)(config)
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
    place = {"device": torch.device(args.device), "dtype": getattr(torch, args.dtype)}
    layer = layer.to(**place)
    x = torch.randn(1, args.tokens, args.hidden, **place, requires_grad=True)
    weight = torch.randn_like(x)
    clock = time.process_time if args.device == "cpu" else synchronised
    before = memory(args.device)
    best = [float("inf"), float("inf")]
    for _ in range(args.repeats + 1):
        spent = once(lambda: layer(x), weight, clock)
        best = [min(pair) for pair in zip(best, spent, strict=True)]
        layer.zero_grad()
    names = ("forward_s", "backward_s")
    told = {name: round(seconds, 4) for name, seconds in zip(names, best, strict=True)}
    return {**told, "memory_mb": round(memory(args.device) - before, 1)}


def once(
    run: Callable[[], Tensor | tuple[Tensor, object]], weight: Tensor, clock: Callable[[], float]
) -> list[float]:
    """Seconds forward and backward."""
    begun = clock()
    out = run()
    out = out[0] if isinstance(out, tuple) else out
    forward = clock()
    (out * weight).sum().backward()
    return [forward - begun, clock() - forward]


def synchronised() -> float:
    """Wall clock once the GPU has done what it was told."""
    torch.cuda.synchronize()
    return time.perf_counter()


def memory(device: str) -> float:
    """Peak so far, in MB."""
    if device != "cpu":
        return torch.cuda.max_memory_allocated() / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


if __name__ == "__main__":
    main()
