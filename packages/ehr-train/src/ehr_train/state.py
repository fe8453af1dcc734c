"""All that a killed run needs to go on: gathered by all processes, written by one.

There is no generator among it: every draw depends on seed, step and process alone.
"""

import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

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
from ehr_tracking.contracts import ADAPTER, CHECKPOINT, ContractError
from ehr_tracking.manifest import check_file, read_manifest
from ehr_train import PRODUCER
from ehr_train.data.sampler import ORDER
from ehr_train.guard import Tally
from ehr_train.update import ASIDE, Update

_OPTIMIZER, _PROGRESS = "optimizer.safetensors", "state.json"
_WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True)
"""On the CPU of the first process, and whole, however the model is sharded."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """How far a run has come."""

    step: int = 0
    """Optimizer steps done."""
    epoch: int = 0
    block: int = 0
    """Blocks of this epoch done."""
    done: int = 0
    """Steps of this block done."""
    tokens: int = 0
    """Real tokens seen by all processes."""
    best: float | None = None
    """Best validation score so far."""
    worse: int = 0
    """Validations in a row without a better one."""
    tally: Tally = field(default_factory=Tally)
    """What the guard has counted by then; of a saved state alone."""


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
        text = json.dumps({"order": ORDER, **asdict(self.progress)}, indent=1) + "\n"
        (directory / _PROGRESS).write_text(text, encoding="utf-8")


@dataclass(slots=True)
class State:
    """A model in training."""

    model: nn.Module
    update: Update
    progress: Progress

    def gather(self) -> Snapshot:
        """The whole state; every process has to call it.

        Called within `update.averaged()`, so that the weights are those that are kept; those that go on
        learning are then among what is set aside.
        """
        options = replace(_WHOLE, ignore_frozen_params=is_adapted(self.model))
        weights: Any = get_model_state_dict(self.model, options=options)
        _tie(self.model, weights)
        found = get_optimizer_state_dict(self.model, self.update.optimizers, options=_WHOLE)
        parts: Any = found.get("state", {})
        tensors = {
            f"{name}/{key}": value.contiguous()
            for name, values in parts.items()
            for key, value in values.items()
        }
        progress = replace(self.progress, tally=self.update.guard.tally())
        return Snapshot(weights=weights, optimizer=tensors, progress=progress)

    def restore(self, checkpoint: Path) -> None:
        """Put all of it back but the weights that are kept, which the model has already.

        Raises:
            ContractError: If the checkpoint was changed, carries no training state, or one whose position
                means other windows now.
        """
        contract = ADAPTER if is_adapted(self.model) else CHECKPOINT
        manifest = read_manifest(checkpoint, contract, reader=PRODUCER)
        path = check_file(checkpoint, manifest, f"{TRAINING_STATE}/{_OPTIMIZER}")
        parts: dict[str, dict[str, Tensor]] = {}
        for key, value in load_file(path).items():
            name, _, part = key.rpartition("/")
            parts.setdefault(name, {})[part] = value
        # the groups are functions of the config; only their members are asked for
        optimizers = self.update.optimizers
        groups = get_optimizer_state_dict(self.model, optimizers)["param_groups"]
        if any(ASIDE in part for part in parts.values()):
            self.update.begin_average()  # laid out as the weights are, for what is to be loaded
        whole: Any = {"state": parts, "param_groups": groups}
        options = StateDictOptions(full_state_dict=True)
        set_optimizer_state_dict(self.model, optimizers, whole, options=options)
        self.update.swap()
        text = check_file(checkpoint, manifest, f"{TRAINING_STATE}/{_PROGRESS}").read_text("utf-8")
        saved = json.loads(text)
        if saved.pop("order", 1) != ORDER:
            raise ContractError(
                f"{checkpoint} is of a run whose steps were made up in another way than by {PRODUCER}; "
                "go on with the version that it was begun with, or begin anew with --overwrite"
            )
        if "tally" in saved:
            saved["tally"] = Tally(**saved["tally"])
            self.update.guard.restore(saved["tally"])
        self.progress = Progress(**saved)


def _tie(model: nn.Module, weights: dict[str, Tensor]) -> None:
    """Make one of what is one parameter of the model: parts are gathered once for each of its names."""
    first: dict[int, Tensor] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if name in weights:
            weights[name] = first.setdefault(id(parameter), weights[name])
