"""Where a run stands, and the state of its optimizer: all that a killed run needs to go on."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from ehr_models.checkpoint import TRAINING_STATE
from ehr_tracking.contracts import CHECKPOINT
from ehr_tracking.manifest import check_file, read_manifest
from ehr_train.job import PRODUCER

_OPTIMIZER, _STATE = "optimizer.safetensors", "state.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class State:
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


def save_state(
    directory: Path, model: nn.Module, optimizer: torch.optim.Optimizer, state: State
) -> None:
    """Write the optimizer's tensors under the names of their parameters, and the position.

    There is no generator to save: every draw depends on seed, step and process alone.
    """
    tensors = {
        f"{name}/{key}": value.contiguous()
        for name, parameter in model.named_parameters()
        for key, value in optimizer.state.get(parameter, {}).items()
    }
    save_file(tensors, directory / _OPTIMIZER)
    (directory / _STATE).write_text(json.dumps(asdict(state), indent=1) + "\n", encoding="utf-8")


def load_state(
    checkpoint: Path, model: nn.Module, optimizer: torch.optim.Optimizer, device: torch.device
) -> State:
    """Put the optimizer back as it was and say where the run stands.

    Raises:
        ContractError: If the checkpoint was changed, or carries no training state.
    """
    manifest = read_manifest(checkpoint, CHECKPOINT, reader=PRODUCER)
    path = check_file(checkpoint, manifest, f"{TRAINING_STATE}/{_OPTIMIZER}")
    parameters = dict(model.named_parameters())
    for key, value in load_file(path, device=str(device)).items():
        name, _, part = key.rpartition("/")
        optimizer.state[parameters[name]][part] = value
    text = check_file(checkpoint, manifest, f"{TRAINING_STATE}/{_STATE}").read_text("utf-8")
    return State(**json.loads(text))
