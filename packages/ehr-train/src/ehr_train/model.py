"""The model of a run: resumed, taken from a checkpoint, or new."""

from pathlib import Path

import torch
from transformers import PreTrainedModel

from ehr_models import registry
from ehr_models.checkpoint import load_checkpoint, require_same_vocabulary
from ehr_models.data.tokens import TokenSet
from ehr_models.presets import OBJECTIVES
from ehr_tracking.config import ConfigError
from ehr_train.config import TrainConfig

_SEES = {"mlm": "all", "clm": "past"}


def load_or_build(
    init: Path | None, config: TrainConfig, tokens: TokenSet, latest: Path | None
) -> PreTrainedModel:
    """The model to train, on the CPU.

    Args:
        init: A checkpoint to start from.
        config: Says what to build where there is none.
        tokens: Whose vocabulary the model has to share.
        latest: The run's own last checkpoint, where it is resumed.

    Raises:
        ConfigError: If model, objective and context do not fit together.
        ContractError: If a checkpoint is damaged or of another vocabulary.
    """
    torch.manual_seed(config.seed)
    objective = config.objective
    if latest is not None:
        model = load_checkpoint(latest).model
    else:
        model = objective.attach(_pretrained(init, config, tokens))
    longest = model.config.max_position_embeddings
    if config.data.context > longest:
        raise ConfigError(
            f"data.context = {config.data.context}, but the model takes {longest} positions; "
            "raise model.max_positions or lower data.context"
        )
    objective.freeze(model)
    return model


def _pretrained(init: Path | None, config: TrainConfig, tokens: TokenSet) -> PreTrainedModel:
    """With the head of its pretraining."""
    objective = config.objective
    if init is None:
        task = OBJECTIVES[config.model.kind]
        _require(config.model.kind, _SEES[task], config)
        return registry.build(config.model, tokens.vocab_size, task)
    checkpoint = load_checkpoint(init)
    require_same_vocabulary(checkpoint, tokens)
    if objective.head == "token":
        if checkpoint.objective == "classification":
            raise ConfigError(f"{init} holds a model for classification, not for {objective.kind}")
        _require(checkpoint.model.config.model_type, _SEES[checkpoint.objective], config)
    return checkpoint.model


def _require(kind: str, sees: str, config: TrainConfig) -> None:
    wanted = config.objective.sees
    if wanted is not None and wanted != sees:
        where = {"all": "all of a record", "past": "the past alone"}
        raise ConfigError(
            f"model kind {kind} cannot be pretrained with objective {config.objective.kind}: "
            f"it sees {where[sees]}, but that needs one that sees {where[wanted]}"
        )
