"""The model of a run: resumed, taken from a checkpoint, or new."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from transformers import PreTrainedModel

from ehr_models import heads, registry
from ehr_models.checkpoint import Task, load_checkpoint, require_same_vocabulary
from ehr_models.data.tokens import TokenSet
from ehr_models.presets import OBJECTIVES
from ehr_tracking.config import ConfigError
from ehr_train.config import Classification, Objective, TrainConfig
from ehr_train.job import Job


def load_or_build(
    job: Job, config: TrainConfig, tokens: TokenSet, latest: Path | None
) -> PreTrainedModel:
    """The model to train, on the CPU.

    Args:
        job: May name a checkpoint to start from.
        config: Says what to build where it does not.
        tokens: Whose vocabulary the model has to share.
        latest: The run's own last checkpoint, where it is resumed.

    Raises:
        ConfigError: If model, objective and context do not fit together.
        ContractError: If a checkpoint is damaged or of another vocabulary.
    """
    torch.manual_seed(config.seed)
    objective = config.objective
    if latest is not None:
        model = load_checkpoint(latest, task=objective.kind).model
    elif isinstance(objective, Classification):
        model = heads.build_classifier(_backbone(job, config, tokens), 1, objective.pooling)
    elif job.init is not None:
        model = _load(job.init, tokens, objective.kind)
    else:
        model = registry.build(config.model, tokens.vocab_size, objective.kind)
    longest = model.config.max_position_embeddings
    if config.data.context > longest:
        raise ConfigError(
            f"data.context = {config.data.context}, but the model takes {longest} positions; "
            "raise model.max_positions or lower data.context"
        )
    if isinstance(objective, Classification) and objective.backbone == "frozen":
        model.base_model.requires_grad_(False)
    return model


def _backbone(job: Job, config: TrainConfig, tokens: TokenSet) -> PreTrainedModel:
    if job.init is not None:
        return _load(job.init, tokens, None)
    task: Any = OBJECTIVES[config.model.kind]
    return registry.build(config.model, tokens.vocab_size, task)


def _load(path: Path, tokens: TokenSet, task: Task | None) -> PreTrainedModel:
    checkpoint = load_checkpoint(path, task=task)
    require_same_vocabulary(checkpoint, tokens)
    return checkpoint.model


def positive_weight(objective: Objective, labels: npt.NDArray[np.float32] | None) -> float | None:
    """Weight of positive rows in the loss; None where there are no labels.

    Raises:
        ConfigError: If it shall balance the classes and one of them is empty.

    Examples:
        >>> positive_weight(Classification(pos_weight="balanced"), np.array([0, 0, 0, 1], np.float32))
        3.0
    """
    if not isinstance(objective, Classification) or labels is None:
        return None
    if objective.pos_weight != "balanced":
        return objective.pos_weight
    positive = int((labels > 0).sum())
    if not 0 < positive < len(labels):
        raise ConfigError("pos_weight = balanced: the train labels are all of one class")
    return (len(labels) - positive) / positive
