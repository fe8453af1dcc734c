"""What a run will hold in memory and how long it will take, from a few passes of its model.

A pass is measured at two sizes and continued in a straight line: what is kept for the gradients grows
with tokens, and logits with targets up to a chunk.
"""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple
from weakref import finalize

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from ehr_models.data.windows import Windows, newest
from ehr_train.config import OptimConfig, TrainConfig
from ehr_train.data.loader import Prepared
from ehr_train.data.sampler import Position
from ehr_train.objectives.asker import Asker
from ehr_train.objectives.parts import Question
from ehr_train.objectives.tokens import LOGITS
from ehr_train.optim import Muon, make_optimizers
from ehr_train.scale.launch import threads_each
from ehr_train.step import Stepper

_MEASURED = 2048
"""Tokens of the larger pass, where the longest window is no longer."""
_LOGIT = 12
"""Bytes of a logit in fp32 with its softmax and its gradient."""


class Held(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of tensors made within it, and the most that there were at once."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.most = 0
        self._known: set[int] = set()

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Any,  # noqa: ANN401 -- torch's own signature
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401
        """Run an operation and count the storages that are new behind it."""
        given = {t.untyped_storage().data_ptr() for t in tree_iter((args, kwargs)) if _is_dense(t)}
        made = func(*args, **(kwargs or {}))
        for tensor in filter(_is_dense, tree_iter(made)):
            storage = tensor.untyped_storage()
            place, size = storage.data_ptr(), storage.nbytes()
            if size and place not in given and place not in self._known:
                self._known.add(place)
                self.now += size
                self.most = max(self.most, self.now)
                finalize(storage, self._gone, place, size)
        return made

    def _gone(self, place: int, size: int) -> None:
        self._known.discard(place)
        self.now -= size


def _is_dense(value: object) -> bool:
    return isinstance(value, Tensor) and value.layout == torch.strided


class Fixed(NamedTuple):
    """Bytes of a run that do not depend on its passes."""

    weights: int
    """And buffers."""
    gradients: int
    optimizer: int
    average: int
    moved: int
    """Of copies while the optimizer steps."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """What one process of a run holds and takes."""

    fixed: Fixed
    base: float
    """Bytes of a pass of no token: the line's beginning."""
    per_token: float
    """Bytes of a pass a token, logits aside."""
    per_target: float
    """Bytes of logits a target."""
    targets: float
    """A token."""
    chunk: float
    """Most targets whose logits are held at once."""
    seconds_per_token: float
    seconds_per_update: float

    def pass_bytes(self, tokens: int) -> float:
        """Of a pass of so many tokens, all in windows of the longest kind: states and logits."""
        targets = min(tokens * self.targets, self.chunk)
        return self.base + tokens * self.per_token + targets * self.per_target

    def peak_bytes(self, tokens: int, *, passes: int = 2) -> float:
        """The most that a run holds at once with such passes; gradients lie beside them from the second on."""
        fixed = self.fixed
        learning = self.pass_bytes(tokens) + fixed.gradients * (passes > 1)
        always = fixed.weights + fixed.optimizer + fixed.average
        return always + max(learning, fixed.gradients + fixed.moved)


def measure(stepper: Stepper, asker: Asker, config: TrainConfig, *, processes: int = 1) -> Cost:
    """Measure passes of a model, which is not trained by it but for one step.

    Args:
        stepper: Of the model, in this process alone.
        asker: Over the train examples.
        config: Of the run.
        processes: That will train together.
    """
    context = config.data.context
    longest = heaviest(asker, context, context)
    sizes = [longest, heaviest(asker, context, max(2 * int(longest.length.sum()), _MEASURED))]
    found = [_pass(stepper, asker, windows) for windows in sizes]
    (small, few, _), (large, many, asked) = found
    width = stepper.learner.model.config.vocab_size
    logits = _LOGIT * width if asked else 0
    chunk = LOGITS / width
    less = [held - logits * min(n, chunk) for held, n in ((small, found[0][2]), (large, asked))]
    per_token = max(0.0, (less[1] - less[0]) / (many - few))
    seconds, update = _seconds(stepper, asker, sizes[1])
    return Cost(
        fixed=fixed_bytes(
            stepper.learner.model, config.optim, processes if config.parallel == "fsdp" else 1
        ),
        base=less[1] - many * per_token,
        per_token=per_token,
        per_target=logits,
        targets=asked / many,
        chunk=chunk,
        seconds_per_token=seconds / many,
        seconds_per_update=update,
    )


def heaviest(asker: Asker, context: int, tokens: int) -> Windows:
    """Windows of at least one and at most so many tokens: the longest there are, again and again."""
    examples = asker.examples
    length = np.minimum(examples.visible, context)
    order = np.argsort(-length, kind="stable")[: max(1, tokens // int(length.max()))]
    order = np.resize(order, max(1, tokens // int(length[order].max())))
    return newest(examples.tokens, examples.subject[order], examples.visible[order], context, order)


def fixed_bytes(model: nn.Module, config: OptimConfig, parts: int = 1) -> Fixed:
    """What a model, its gradients, its optimizer and its average take, by what they are.

    Args:
        model: With all that is trained marked so.
        config: Names the optimizer.
        parts: Processes over which all of it is sharded.
    """
    trained = sum(p.nbytes for p in model.parameters() if p.requires_grad)
    matrices = sum(
        p.nbytes
        for optimizer in make_optimizers(model, config)
        if isinstance(optimizer, Muon)
        for group in optimizer.param_groups
        for p in group["params"]
    )
    return Fixed(
        weights=sum(t.nbytes for t in (*model.parameters(), *model.buffers())) // parts,
        gradients=trained // parts,
        optimizer=(2 * trained - matrices) // parts,
        average=0 if config.ema is None else trained // parts,
        moved=matrices // parts,
    )


def one_pass(asker: Asker, windows: Windows, device: torch.device) -> Prepared[Question]:
    """A step of a single pass over some windows, on the device."""
    question = asker.ask(windows, 0).to(device)
    return Prepared(Position(), [question], int(windows.length.sum()))


def _pass(stepper: Stepper, asker: Asker, windows: Windows) -> tuple[float, int, int]:
    """Bytes of a pass beside the model, its tokens, and its targets that become logits."""
    prepared = one_pass(asker, windows, stepper.device)
    [question] = prepared.passes
    asked = len(question.targets.get("answers", ())) if asker.objective.head == "token" else 0
    with _held(stepper.device) as most:
        stepper.settle(prepared)
        found = most()
    return found, prepared.tokens, asked


@contextmanager
def _held(device: torch.device) -> Iterator[Callable[[], int]]:
    """In it what there is at most at once of new tensors can be asked for, in bytes."""
    held = Held()
    watched: AbstractContextManager[object] = held
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before, watched = torch.cuda.memory_allocated(device), nullcontext()
    with watched:
        yield (
            lambda: (
                torch.cuda.max_memory_allocated(device) - before
                if device.type == "cuda"
                else held.most
            )
        )


def _seconds(stepper: Stepper, asker: Asker, windows: Windows) -> tuple[float, float]:
    """Of a pass, and of an update."""
    prepared = one_pass(asker, windows, stepper.device)
    learning = min(timed(stepper, lambda: stepper.settle(prepared)) for _ in range(2))
    stepper.step(1, prepared, 0.0)
    whole = timed(stepper, lambda: stepper.step(2, prepared, 0.0))
    return learning, max(0.0, whole - learning)


def timed(stepper: Stepper, work: Callable[[], object]) -> float:
    """Seconds until the device is done."""
    start = time.perf_counter()
    work()
    if stepper.device.type == "cuda":
        torch.cuda.synchronize(stepper.device)
    return time.perf_counter() - start


@contextmanager
def as_one_of(processes: int) -> Iterator[None]:
    """Computing as one of so many processes of this machine does: with its share of the cores."""
    before = torch.get_num_threads()
    if processes > 1:
        torch.set_num_threads(threads_each(processes))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def resident() -> int:
    """Bytes of memory that this process has; 0 where that is not told."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def available() -> int:
    """Bytes of main memory that could still be taken: of the machine, and of the limits set around us."""
    told = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    meminfo = Path("/proc/meminfo")
    if meminfo.is_file():
        lines = dict(line.split(":") for line in meminfo.read_text().splitlines())
        told.append(int(lines["MemAvailable"].split()[0]) * 1024)
    for root, most, used in (
        ("/sys/fs/cgroup", "memory.max", "memory.current"),
        ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes"),
    ):
        limit = Path(root, most)
        if limit.is_file() and (text := limit.read_text().strip()).isdigit():
            told.append(int(text) - int(Path(root, used).read_text()))
    return max(0, min(told))
