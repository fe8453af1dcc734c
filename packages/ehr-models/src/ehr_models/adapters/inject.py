"""Adapters in a model: put in, told apart from what is frozen, and merged."""
# peft and transformers leave some methods untyped
# mypy: allow-untyped-calls

import logging
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from ehr_models.adapters.config import AdapterConfig
from ehr_models.adapters.linears import linears, targets
from ehr_models.adapters.nf4 import quantise, quantised, require_bitsandbytes, round_to_4_bits
from ehr_models.kinds import kind_of
from ehr_tracking.config import ConfigError

if TYPE_CHECKING:
    from peft import LoraConfig

NAME = "default"
"""What peft calls the only adapter of a model."""

# bitsandbytes, which peft imports where it is, warns of a kernel that is not used here
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)


def adapt(model: PreTrainedModel, config: AdapterConfig) -> None:
    """Freeze a model but for its new heads, and put a new adapter into it, in place.

    Its weights are drawn from torch's global generator; at first the model answers as before (`qlora`:
    as its weights in 4 bits do). What is trained is `trained(model)`.

    Args:
        model: Of the zoo, with the head that is to answer.
        config: What to put in.

    Raises:
        ConfigError: If a target is none of the model's, or the rank too high.
        UserError: If `qlora` is asked for without bitsandbytes.
    """
    from peft import LoraConfig

    chosen = targets(model, config)
    if config.in_4_bits:
        model.config.quantization_config = quantised(config.compute)
    theirs = LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha or 2 * config.rank,
        lora_dropout=config.dropout,
        target_modules=list(chosen),
        use_rslora=config.kind == "rslora",
        use_dora=config.kind == "dora",
        init_lora_weights="pissa" if config.kind == "pissa" else True,
        modules_to_save=_trained_whole(model, embeddings=config.embeddings),
    )
    put_in(model, theirs)


def put_in(model: PreTrainedModel, config: "LoraConfig", *, rounded: bool = False) -> None:
    """The same from the config of peft.

    Args:
        model: Where its configuration says so, its blocks are put into 4 bits first.
        config: Its `modules_to_save` are trained in place.
        rounded: Keep what 4 bits hold in full precision, so that it can be merged.
    """
    from peft import inject_adapter_in_model

    if is_quantised(model):
        require_bitsandbytes()
        if rounded:
            round_to_4_bits(model.base_model)
        else:
            said = model.config.quantization_config["bnb_4bit_compute_dtype"]
            quantise(model.base_model, getattr(torch, said))
            cast("Any", model).is_loaded_in_4bit = True  # by which peft knows
    whole, config.modules_to_save = config.modules_to_save, None
    config.inference_mode = False
    # of what lies there: a layer in 4 bits is upright, whatever it was
    config.fan_in_fan_out = any(isinstance(m, Conv1D) for m in linears(model.base_model).values())
    inject_adapter_in_model(config, model, NAME)
    config.modules_to_save = whole
    for name in whole or ():
        model.get_submodule(name).requires_grad_(True)


def is_quantised(model: PreTrainedModel) -> bool:
    """Whether the weights that an adapter goes to are in 4 bits."""
    return getattr(model.config, "quantization_config", None) is not None


def is_adapted(model: nn.Module) -> bool:
    """Whether there is an adapter in a model."""
    return hasattr(model, "peft_config")


def _trained_whole(model: PreTrainedModel, *, embeddings: bool) -> list[str]:
    """Names of the modules that are trained beside an adapter: heads that are no pretraining's, and the code embeddings."""
    known = (model.base_model_prefix, *kind_of(model.config).token_head)
    found = [
        name
        for name, module in model.named_children()
        if name not in known and any(True for _ in module.parameters())
    ]
    if embeddings:
        table = model.get_input_embeddings()
        found += [name for name, module in model.named_modules() if module is table]
    return found


def trained(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that are trained, by name."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def merge(model: PreTrainedModel) -> None:
    """Work an adapter into the weights, in place: a model of the zoo as any other.

    Raises:
        ConfigError: If the weights are in 4 bits: those would have to be rounded again.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    if getattr(model, "is_loaded_in_4bit", False):
        raise ConfigError("weights in 4 bits cannot be merged into; load the adapter again")
    for name, module in list(model.named_modules()):
        if isinstance(module, BaseTunerLayer):
            module.merge(safe_merge=True)
            parent, _, last = name.rpartition(".")
            setattr(model.get_submodule(parent), last, module.get_base_layer())
    del model.peft_config
    if is_quantised(model):
        del model.config.quantization_config
    model.requires_grad_(True)
