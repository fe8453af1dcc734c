"""What of a model is trained."""

from typing import cast

from transformers import PreTrainedModel

from ehr_models.codes.freeze import freeze_codes
from ehr_models.stacks import blocks
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
        layers = blocks(backbone)
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
