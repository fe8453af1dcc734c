"""A learner made ready to be trained by several processes."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from ehr_train.scale import group


def wrap(learner: nn.Module, device: torch.device, *, compiled: bool) -> nn.Module:
    """The learner, compiled if that is wanted, behind data parallelism where there are several processes."""
    wrapped = learner
    if compiled:
        wrapped.compile(dynamic=True)
    if group.world() > 1:
        ids = [device.index] if device.type == "cuda" else None
        wrapped = DistributedDataParallel(wrapped, device_ids=ids)
    return wrapped


def synchronised(wrapped: nn.Module, *, last: bool) -> AbstractContextManager[object]:
    """In which a pass runs: gradients are summed over processes in the last one of a step."""
    if last or not isinstance(wrapped, DistributedDataParallel):
        return nullcontext()
    return wrapped.no_sync()
