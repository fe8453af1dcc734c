"""`ehr-models parameters`: what a trained model holds, takes on disk, and cost to train."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import safe_open

from ehr_models.adapters.files import WEIGHTS, find_base
from ehr_models.checkpoint import TRAINING_STATE, load_checkpoint
from ehr_tracking.checkpoints import reading
from ehr_tracking.contracts import ADAPTER
from ehr_tracking.files import PathLike
from ehr_tracking.manifest import Manifest, load_manifest
from ehr_tracking.runs import read_log

_FP32 = 4
"""Bytes of a number in a checkpoint."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """Of one task: a checkpoint or an adapter, and the run that made it."""

    parameters: int
    """Of the whole model, an adapter included."""
    adapter: int
    """Of the adapter alone, 0 where there is none."""
    trained: int | None
    """Adapter and heads, or whatever else had an optimizer's state; None where none is kept."""
    bytes_here: int
    """Of what is kept of the task, but what training needs to go on."""
    bytes_base: int
    """Of what that needs besides: the base of an adapter."""
    steps: int
    seconds: float
    """Of the whole run as measured, validation included; 0 where no run was given."""
    seconds_a_step: float
    """Median."""

    @property
    def bytes_full(self) -> int:
        """Of the weights of such a task, fine-tuned as a whole: four a parameter, without an adapter."""
        return _FP32 * (self.parameters - self.adapter)

    def bytes_of(self, tasks: int) -> int:
        """Of as many tasks: each has its own, all share the base.

        Examples:
            >>> lora = Cost(parameters=0, adapter=0, trained=0, bytes_here=2, bytes_base=60,
            ...     steps=0, seconds=0, seconds_a_step=0)
            >>> lora.bytes_of(5)
            70
        """
        return self.bytes_base + tasks * self.bytes_here

    def price_of(self, tasks: int, price: float) -> float:
        """Of as many tasks that train as long as this one did: tasks x hours x price an hour.

        Examples:
            >>> run = Cost(parameters=0, adapter=0, trained=0, bytes_here=0, bytes_base=0,
            ...     steps=1, seconds=3 * 3600, seconds_a_step=1)
            >>> run.price_of(5, 0.4)
            6.0
        """
        return round(tasks * self.seconds / 3600 * price, 10)


def measure(path: PathLike, *, base: PathLike | None = None) -> Cost:
    """What a checkpoint or an adapter holds, and how long the run took that a path is of.

    Args:
        path: A run, a checkpoint or an adapter.
        base: Of an adapter, where it lies elsewhere than it did.

    Raises:
        ContractError: If it is none of them, or damaged.
    """
    with reading(path) as directory:
        loaded = load_checkpoint(directory, base=base)
        manifest, adapted = loaded.manifest, loaded.manifest.contract == ADAPTER.tag
        kept = _numbers(directory / WEIGHTS) if adapted else {}
        adapter = sum(n for name, n in kept.items() if ".lora_" in name)
        optimizer = directory / TRAINING_STATE / "optimizer.safetensors"
        trained = sum(kept.values()) if adapted else None
        if not adapted and optimizer.is_file():
            moments = _numbers(optimizer)
            trained = sum(n for name, n in moments.items() if name.endswith("/exp_avg"))
        below = load_manifest(find_base(directory, manifest, base)) if adapted else None
    laps = read_log(Path(path) / "timings.jsonl")
    seconds = [lap["seconds"] for lap in laps]
    return Cost(
        parameters=sum(p.numel() for p in loaded.model.parameters()) + adapter,
        adapter=adapter,
        trained=trained,
        bytes_here=_bytes(manifest),
        bytes_base=_bytes(below) if below else 0,
        steps=len(laps),
        seconds=sum(seconds),
        seconds_a_step=float(np.median(seconds)) if seconds else 0.0,
    )


def cost_table(
    costs: Sequence[tuple[str, Cost]], *, tasks: int, price: float | None
) -> list[dict[str, str]]:
    """One row a figure, one column a model.

    Args:
        costs: Name of a column, and what was measured.
        tasks: How many such tasks are to be trained.
        price: Of an hour of the device that the runs were measured on; None leaves money out.
    """

    def row(what: str, *values: str) -> dict[str, str]:
        return {"": what, **dict(zip([name for name, _ in costs], values, strict=True))}

    found = [cost for _, cost in costs]
    rows = [
        row("parameters", *(f"{c.parameters:,}" for c in found)),
        row("  trained", *(_share(c.trained, c.parameters) for c in found)),
        row("  frozen", *(_frozen(c) for c in found)),
        row("  of the adapter", *(f"{c.adapter:,}" for c in found)),
        row("bytes of a task", *(f"{c.bytes_here:,}" for c in found)),
        row("bytes of its base", *(f"{c.bytes_base:,}" for c in found)),
        row("bytes if fine-tuned as a whole", *(f"{c.bytes_full:,}" for c in found)),
        row(f"bytes of {tasks} tasks", *(f"{c.bytes_of(tasks):,}" for c in found)),
        row("steps", *(f"{c.steps:,}" for c in found)),
        row("seconds a step (median)", *(f"{c.seconds_a_step:.4f}" for c in found)),
        row("hours of a task", *(f"{c.seconds / 3600:.4f}" for c in found)),
    ]
    if price is not None:
        rows.append(
            row(
                f"cost of {tasks} tasks at {price:g} an hour",
                *(f"{c.price_of(tasks, price):,.4f}" if c.steps else "no run" for c in found),
            )
        )
    return rows


def _share(part: int | None, whole: int) -> str:
    return "not known" if part is None else f"{part:,} ({part / whole:.1%})"


def _frozen(cost: Cost) -> str:
    return "not known" if cost.trained is None else f"{cost.parameters - cost.trained:,}"


def _numbers(path: Path) -> dict[str, int]:
    """How many numbers each tensor of a safetensors file has, from its header."""
    with safe_open(path, "np") as file:
        return {
            name: int(np.prod(file.get_slice(name).get_shape(), dtype=np.int64))
            for name in file.keys()  # noqa: SIM118 -- no mapping
        }


def _bytes(manifest: Manifest) -> int:
    """Of a checkpoint as it is used: without what training needs to go on."""
    return sum(
        file.bytes
        for name, file in manifest.files.items()
        if not name.startswith(f"{TRAINING_STATE}/")
    )
