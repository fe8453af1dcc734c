"""All that a killed run needs to go on: gathered by all processes, written by one.

There is no generator among it: every draw depends on seed, step and process alone.
"""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)

from ehr_models.adapters.inject import is_adapted
from ehr_models.checkpoint import TRAINING_STATE
from ehr_tracking.contracts import ADAPTER, CHECKPOINT
from ehr_tracking.manifest import check_file, read_manifest
from ehr_train import PRODUCER

_OPTIMIZER, _PROGRESS = "optimizer.safetensors", "state.json"
_WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True)
"""On the CPU of the first process, and whole, however the model is sharded."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """How far a run has come."""

    step: int = 0
    """Optimizer steps done."""
    epoch: int = 0
    done: int = 0
    """Steps of this epoch done."""
    tokens: int = 0
    """Real tokens seen by all processes."""
    best: float | None = None
    """Best validation score so far."""
    worse: int = 0
    """Validations in a row without a better one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Snapshot:
    """A state as the first process holds it; empty tensors on the others."""

    weights: dict[str, Tensor]
    """Of the model, by parameter; of one with an adapter what is trained."""
    optimizer: dict[str, Tensor]
    """`<parameter>/<name>`"""
    progress: Progress

    def write(self, directory: Path) -> None:
        """Write all but the weights, which are the checkpoint's own."""
        save_file(self.optimizer, directory / _OPTIMIZER)
        text = json.dumps(asdict(self.progress), indent=1) + "\n"
        (directory / _PROGRESS).write_text(text, encoding="utf-8")


@dataclass(slots=True)
class State:
    """A model in training."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    progress: Progress

    def gather(self) -> Snapshot:
        """The whole state; every process has to call it."""
        options = replace(_WHOLE, ignore_frozen_params=is_adapted(self.model))
        weights: Any = get_model_state_dict(self.model, options=options)
        found = get_optimizer_state_dict(self.model, self.optimizer, options=_WHOLE)
        parts: Any = found.get("state", {})
        tensors = {
            f"{name}/{key}": value.contiguous()
            for name, values in parts.items()
            for key, value in values.items()
        }
        return Snapshot(weights=weights, optimizer=tensors, progress=self.progress)

    def restore(self, checkpoint: Path) -> None:
        """Put the optimizer and the progress back; the model has its weights already.

        Raises:
            ContractError: If the checkpoint was changed, or carries no training state.
        """
        contract = ADAPTER if is_adapted(self.model) else CHECKPOINT
        manifest = read_manifest(checkpoint, contract, reader=PRODUCER)
        path = check_file(checkpoint, manifest, f"{TRAINING_STATE}/{_OPTIMIZER}")
        parts: dict[str, dict[str, Tensor]] = {}
        for key, value in load_file(path).items():
            name, _, part = key.rpartition("/")
            parts.setdefault(name, {})[part] = value
        # the groups are functions of the config; only their members are asked for
        groups = get_optimizer_state_dict(self.model, self.optimizer)["param_groups"]
        whole: Any = {"state": parts, "param_groups": groups}
        options = StateDictOptions(full_state_dict=True)
        set_optimizer_state_dict(self.model, self.optimizer, whole, options=options)
        text = check_file(checkpoint, manifest, f"{TRAINING_STATE}/{_PROGRESS}").read_text("utf-8")
        self.progress = Progress(**json.loads(text))
