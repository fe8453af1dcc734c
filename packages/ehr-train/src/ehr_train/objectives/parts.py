"""What objectives are made of: questions, pairs, scores; without torch."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from ehr_train.data.codes import Codes
from ehr_train.data.examples import Examples
from ehr_train.figures import Mode

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from ehr_models.data.batch import Batch
    from ehr_models.data.windows import Windows

Sees = Literal["all", "past"]
Pairs = dict[str, tuple["Tensor", int]]
"""Name -> a sum, and over how many."""


class Score(NamedTuple):
    """A validation figure, and whether a low or a high one is better."""

    name: str
    mode: Mode


@dataclass(frozen=True, slots=True, eq=False)
class Material:
    """Where a batch came from."""

    examples: Examples
    windows: "Windows"
    """[S] those packed into the batch, in order."""
    vocab_size: int
    seed: int
    codes: Codes | None = None
    """Of the vocabulary, where it is known."""

    def askable(self, batch: "Batch") -> npt.NDArray[np.bool_]:
        """[T] which tokens may be targets: not those that another window of the epoch asks of."""
        return self.windows.asks_of(batch.index.numpy(), batch.span.numpy())


@dataclass(frozen=True, slots=True, eq=False)
class Asked:
    """What an objective asks of a batch."""

    targets: Mapping[str, npt.NDArray[Any]]
    """What its `loss` needs: e.g. the rows where an answer is wanted, and the answers."""
    counts: Mapping[str, int]
    """Name of each loss -> number of its targets, as `loss` counts them."""
    shown: npt.NDArray[np.int64] | None = None
    """[T] token ids that a model is shown instead of those that are there."""
    subject: Mapping[str, npt.NDArray[Any]] = field(default_factory=dict)
    """Columns [S, ...] of spans that a model is shown beside its tokens."""


@dataclass(frozen=True, slots=True, eq=False)
class Question:
    """A batch and what a model has to say about it."""

    batch: "Batch"
    """As it is shown."""
    targets: Mapping[str, "Tensor"]
    counts: Mapping[str, int]
    example: npt.NDArray[np.int64]
    """[S] example of each span."""
    counted: bool = True
    """False where a process takes part in a pass for which it has no window."""

    def to(self, device: "torch.device") -> Self:
        """The same on another device."""
        return self._map(lambda t: t.to(device, non_blocking=True))

    def pinned(self) -> Self:
        """The same in memory that a GPU can copy from while other work goes on."""
        return self._map(lambda t: t.pin_memory())

    def _map(self, change: "Callable[[Tensor], Tensor]") -> Self:
        batch = {f.name: _mapped(getattr(self.batch, f.name), change) for f in fields(self.batch)}
        return replace(
            self,
            batch=replace(self.batch, **batch),
            targets={name: change(value) for name, value in self.targets.items()},
        )


def _mapped(value: Any, change: "Callable[[Tensor], Tensor]") -> Any:  # noqa: ANN401 -- a field of a batch
    if isinstance(value, Mapping):
        return {name: change(item) for name, item in value.items()}
    return value if isinstance(value, int) else change(value)
