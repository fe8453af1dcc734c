"""The linear modules of a model's blocks, which are what adapters go to."""

from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from ehr_models.adapters.config import AdapterConfig
from ehr_models.kinds import kind_of
from ehr_models.stacks import stacks
from ehr_tracking.config import ConfigError


def linears(backbone: nn.Module) -> dict[str, nn.Linear | Conv1D]:
    """Those inside of blocks, by name; what embeds and what answers is none of them."""
    return {
        f"{stack}.{name}": module
        for stack, modules in stacks(backbone).items()
        for name, module in modules.named_modules()
        if isinstance(module, nn.Linear | Conv1D)
    }


def targets(model: PreTrainedModel, config: AdapterConfig) -> dict[str, nn.Linear | Conv1D]:
    """Those of a model of the zoo that a config means, by their whole name.

    Raises:
        ConfigError: If a name is none, or the rank is more than one of them has.
    """
    found, kind = linears(model.base_model), kind_of(model.config)
    last = {name: name.rpartition(".")[2] for name in found}
    last = {name: end for name, end in last.items() if end not in kind.whole}
    wanted = set(last.values())
    if config.targets == "attention":
        wanted = set(kind.adapters)
    elif config.targets != "all":
        wanted = set(config.targets)
    if unknown := wanted - set(last.values()):
        raise ConfigError(
            f"adapter.targets: {', '.join(sorted(unknown))} is no linear module of the blocks of "
            f"{model.config.model_type}: {', '.join(sorted(set(last.values())))}"
        )
    chosen = {name: found[name] for name, end in last.items() if end in wanted}
    most = min(min(module.weight.shape) for module in chosen.values())
    if config.rank > most:
        raise ConfigError(f"adapter.rank = {config.rank}, but a target has rank {most} itself")
    prefix = model.base_model_prefix
    return {f"{prefix}.{name}": module for name, module in chosen.items()}
