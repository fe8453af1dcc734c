"""A learner made ready to be trained by several processes."""

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from ehr_train.scale import Parallel, group


def wrap(
    learner: nn.Module,
    blocks: Iterable[nn.Module],
    device: torch.device,
    *,
    parallel: Parallel,
    compiled: bool,
) -> nn.Module:
    """The learner on its device, its blocks compiled if that is wanted, shared with the other processes if there are any.

    Args:
        learner: `forward` trains and `judge` does not; anything else may see parts of parameters alone.
        blocks: Of its model; what is compiled, and what is whole at one time, if it is sharded.
        device: Of this process.
        parallel: `ddp` has all of the model in every process; `fsdp` a part of its parameters, gradients
            and optimizer state, and gathers each block for the time that it is needed.
        compiled: Whether to compile its blocks: one graph for all of them. The whole learner as one took
            minutes where its blocks take seconds.

    Source:
        Li et al., PyTorch Distributed, 2020; Zhao et al., PyTorch FSDP, 2023 (`fully_shard` is its second version).
    """
    sharded = parallel == "fsdp" and group.world() > 1
    for module in blocks:
        if compiled:
            module.compile(dynamic=True)
        if sharded:
            fully_shard(module)
    if sharded:
        return _sharded(learner, device)
    learner.to(device)
    if group.world() == 1:
        return learner
    ids = [device.index] if device.type == "cuda" else None
    return DistributedDataParallel(learner, device_ids=ids, gradient_as_bucket_view=True)


def _sharded(learner: nn.Module, device: torch.device) -> nn.Module:
    root: Any = fully_shard(learner)
    register_fsdp_forward_method(root, "judge")
    judge = root.judge

    def judged(*asked: object) -> object:
        made = judge(*asked)
        root.reshard()  # no backward pass does, and what is gathered would outlive a change of its parts
        return made

    root.judge = judged
    if device.type == "cpu":
        for module in learner.modules():
            if isinstance(module, FSDPModule):
                module.set_force_sum_reduction_for_comms(True)  # gloo takes no mean
    return learner


def synchronised(wrapped: nn.Module, *, last: bool) -> AbstractContextManager[object]:
    """In which a pass runs: gradients are summed over processes in the last one of a step."""
    if isinstance(wrapped, FSDPModule):
        wrapped.set_requires_gradient_sync(last)
        wrapped.set_is_last_backward(last)
    elif isinstance(wrapped, DistributedDataParallel) and not last:
        return wrapped.no_sync()
    return nullcontext()


def whole(tensor: Tensor) -> Tensor:
    """What processes hold the parts of, or of which each has its summand, on every one of them."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
