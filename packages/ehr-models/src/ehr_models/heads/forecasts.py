"""Heads over tokens' states beside that of the next token: put in, and found."""
# transformers leaves some methods untyped
# mypy: allow-untyped-calls

from typing import Any, cast

from torch import nn
from transformers import PreTrainedModel

from ehr_models.kinds import KINDS, kind_of
from ehr_models.kinds.record import Forecast
from ehr_tracking.config import ConfigError


def attach(model: PreTrainedModel, name: Forecast, settings: dict[str, Any]) -> PreTrainedModel:
    """The model with such a head: its own, where it has one already, else a new one.

    Args:
        model: Of the zoo, with its head over tokens; changed in place.
        name: Of the head.
        settings: What its configuration says of the head: plain data, as JSON has it.

    Raises:
        ConfigError: If its kind cannot have such a head, or it has one with other settings.
    """
    kind = kind_of(model.config)
    if name not in kind.forecasts:
        able = ", ".join(k.name for k in KINDS.values() if name in k.forecasts)
        raise ConfigError(f"model kind {kind.name} can have no {name} head; {able} can")
    found = getattr(model.config, f"{name}_head")
    if not hasattr(model, f"{name}_head"):
        cast("Any", model).forecast(name, settings)
    elif found != settings:
        differing = [key for key in {**found, **settings} if found.get(key) != settings.get(key)]
        raise ConfigError(
            f"the model has a {name} head already, with other {', '.join(sorted(differing))}"
        )
    return model


def forecast_head(model: PreTrainedModel, name: Forecast) -> nn.Module:
    """That head of a model.

    Raises:
        ConfigError: If it has none.
    """
    head = getattr(model, f"{name}_head", None)
    if head is None:
        kind = kind_of(model.config)
        way = f": train it with objective {name}" if name in kind.forecasts else ""
        raise ConfigError(f"this {kind.name} model has no {name} head{way}")
    return cast("nn.Module", head)
