"""What of a model is trained."""

from typing import cast

from torch import nn
from transformers import PreTrainedModel

from ehr_models.codes.freeze import freeze_codes
from ehr_tracking.config import ConfigError
from ehr_train.config import TrainedConfig


def freeze(model: PreTrainedModel, trained: TrainedConfig) -> None:
    """Let what is not trained have no gradient.

    Args:
        model: Of the zoo, with its head, which is always trained.
        trained: What is.

    Raises:
        ConfigError: If it has fewer layers than are to be trained.
    """
    backbone = cast("PreTrainedModel", model.base_model)
    if trained.backbone == "frozen":
        backbone.requires_grad_(False)
    elif trained.backbone == "last":
        layers = layers_of(backbone)
        if trained.last > len(layers):
            raise ConfigError(
                f"trained.last = {trained.last}, but the model has {len(layers)} layers; "
                "trained.backbone = full trains them all"
            )
        first = next(layers[-trained.last].parameters())
        # parameters come in the order in which they work: embeddings, layers, what is behind them
        for parameter in backbone.parameters():
            if parameter is first:
                break
            parameter.requires_grad_(False)
    freeze_codes(model, None if trained.codes is None else trained.codes == "frozen")


def layers_of(backbone: PreTrainedModel) -> nn.ModuleList:
    """The list of a backbone's layers, whatever its kind calls it."""
    n = backbone.config.num_hidden_layers
    lists = (m for m in backbone.modules() if isinstance(m, nn.ModuleList))
    return next(layers for layers in lists if len(layers) == n)
