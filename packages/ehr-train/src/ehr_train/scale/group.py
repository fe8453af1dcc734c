"""The processes that train together, and what they tell each other."""

import torch
import torch.distributed as dist


def rank() -> int:
    """Number of this process, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def world() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def total_on(values: torch.Tensor, device: torch.device) -> torch.Tensor:
    """The sum of a tensor over all processes, on the CPU.

    Args:
        values: On the CPU.
        device: Where the processes talk.
    """
    if not dist.is_initialized():
        return values
    values = values.to(device)
    dist.all_reduce(values)
    return values.cpu()
