"""The model of a run: resumed, taken from a checkpoint, or new."""

from pathlib import Path

import torch
from transformers import PreTrainedModel

from ehr_models import registry
from ehr_models.adapters.files import fill_adapter
from ehr_models.adapters.inject import adapt
from ehr_models.checkpoint import load_adapter, load_checkpoint, require_same_vocabulary
from ehr_models.data.tokens import TokenSet
from ehr_models.heads.forecasts import forecast_head
from ehr_models.kinds import KINDS, kind_for, kind_of
from ehr_models.kinds.record import Forecast, Kind
from ehr_models.precision import DTYPES
from ehr_tracking.config import ConfigError
from ehr_tracking.contracts import ADAPTER
from ehr_tracking.manifest import load_manifest
from ehr_train.config import TrainConfig
from ehr_train.objectives import Objective
from ehr_train.trained import freeze


def load_or_build(
    init: Path | None,
    config: TrainConfig,
    objective: Objective,
    tokens: TokenSet,
    latest: Path | None,
) -> PreTrainedModel:
    """The model to train, on the CPU.

    Args:
        init: A checkpoint to start from; what an adapter adapts.
        config: Says what to build where there is none.
        objective: That of the config, fitted.
        tokens: Whose vocabulary the model has to share.
        latest: The run's own last checkpoint, where it is resumed.

    Raises:
        ConfigError: If model, objective and context do not fit together.
        ContractError: If a checkpoint is damaged or of another vocabulary.
    """
    torch.manual_seed(config.seed)
    by_unsloth = config.text is not None and config.text.framework == "unsloth"
    if by_unsloth:
        model = _with_unsloth(init, config, latest)
    elif latest is not None:
        adapted = config.adapter is not None
        model = (load_adapter(latest, base=init) if adapted else load_checkpoint(latest)).model
    else:
        model = objective.attach(_pretrained(init, config, tokens))
    longest = model.config.max_position_embeddings
    if config.data.context > longest:
        raise ConfigError(
            f"data.context = {config.data.context}, but the model takes {longest} positions; "
            "raise model.max_positions or lower data.context"
        )
    if config.adapter is None:
        freeze(model, config.trained)
    elif latest is None and not by_unsloth:
        adapt(model, config.adapter)
    for name in _untrained(model, objective):
        forecast_head(model, name).requires_grad_(False)
    return model


def _pretrained(init: Path | None, config: TrainConfig, tokens: TokenSet) -> PreTrainedModel:
    """With the head of its pretraining, where the objective needs that."""
    if init is None:
        _require(kind_for(config.model), config)
        return registry.build(config.model, tokens)
    checkpoint = load_checkpoint(init)
    require_same_vocabulary(checkpoint, tokens)
    _require(checkpoint.kind, config)
    if config.adapter is not None:
        _require_whole(init, checkpoint.manifest.contract)
    if config.objective.head == "pooled" or checkpoint.head == "token":
        return checkpoint.model
    if checkpoint.head == "pooled":
        raise ConfigError(
            f"{init} holds a model without a head over tokens, which objective "
            f"{config.objective.kind} needs"
        )
    return registry.without_pooled(checkpoint.model)


def _with_unsloth(init: Path | None, config: TrainConfig, latest: Path | None) -> PreTrainedModel:
    """A decoder with its adapter, new or as it was saved."""
    from ehr_models.adapters.unsloth import open_with_unsloth

    assert init is not None  # these two are what `ehr-train text` requires
    assert config.adapter is not None
    _require_whole(init, load_manifest(init).contract)
    model = open_with_unsloth(
        init,
        config.adapter,
        longest=config.data.context,
        dtype=None if config.precision in ("auto", "fp32") else DTYPES[config.precision],
        recompute=config.recompute,
        seed=config.seed,
    )
    if latest is not None:
        fill_adapter(latest, model)
    return model


def _require_whole(init: Path, contract: str) -> None:
    """Refuse to adapt what is an adapter."""
    if contract == ADAPTER.tag:
        raise ConfigError(
            f"{init} is an adapter itself: make one model of it first, ehr-models merge {init}"
        )


def _untrained(model: PreTrainedModel, objective: Objective) -> list[Forecast]:
    """The heads beside that of the next token that stay as they are: nothing is asked of them."""
    names = kind_of(model.config).forecasts
    there = [name for name in names if hasattr(model, f"{name}_head")]
    return [name for name in there if name not in objective.forecasts]


def _require(kind: Kind, config: TrainConfig) -> None:
    """Refuse an objective that a kind of model cannot have."""
    head, wanted = config.objective.head, config.objective.sees
    for name in config.objective.forecasts:
        if name not in kind.forecasts:
            able = ", ".join(k.name for k in KINDS.values() if name in k.forecasts)
            raise ConfigError(
                f"objective {config.objective.kind} needs the {name} head, but model kind {kind.name} "
                f"can have no such head; {able} can"
            )
    if head not in kind.heads:
        raise ConfigError(
            f"objective {config.objective.kind} needs the {head} head, but model kind {kind.name} "
            f"has {', '.join(kind.heads)}"
        )
    if wanted is not None and wanted != kind.sees:
        where = {"all": "all of a record", "past": "the past alone"}
        raise ConfigError(
            f"model kind {kind.name} cannot be pretrained with objective {config.objective.kind}: "
            f"it sees {where[kind.sees]}, but that needs one that sees {where[wanted]}"
        )
