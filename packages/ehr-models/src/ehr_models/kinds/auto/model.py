"""A model of a local directory: the body as it lies there, a new table of codes."""
# transformers leaves some methods untyped
# mypy: allow-untyped-calls

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers import (
    CONFIG_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.dynamic_module_utils import get_class_from_dynamic_module
from transformers.pytorch_utils import Conv1D
from transformers.utils import logging

from ehr_models.kinds.auto import AutoModelConfig, read, sees
from ehr_tracking.config import ConfigError
from ehr_tracking.contracts import (
    BOS_ID,
    CLS_ID,
    EOS_ID,
    MASK_ID,
    PAD_ID,
    SEP_ID,
    ContractError,
)

CLASSES: dict[str, Any] = {"past": AutoModelForCausalLM, "all": AutoModelForMaskedLM}
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack")
SPECIAL = {
    "pad_token_id": PAD_ID,
    "bos_token_id": BOS_ID,
    "eos_token_id": EOS_ID,
    "cls_token_id": CLS_ID,
    "sep_token_id": SEP_ID,
    "mask_token_id": MASK_ID,
}


def configuration(config: AutoModelConfig) -> PreTrainedConfig:
    """Of a directory, as transformers has it.

    Raises:
        ConfigError: If it is none, or needs code that was not asked for.
    """
    directory = config.path
    tree = read(directory)
    own_code = tree["model_type"] not in CONFIG_MAPPING
    if own_code and not tree.get("auto_map"):
        raise ConfigError(f"{directory}: transformers has no model_type {tree['model_type']!r}")
    if own_code and not config.trust_code:
        raise ConfigError(
            f"{directory} needs the code that lies in it, which is not run unless you ask for it: "
            "look it through, then -s model.trust_code=true"
        )
    if tree.get("quantization_config"):
        raise ConfigError(f"{directory} holds quantised weights, which cannot be trained")
    try:
        found: PreTrainedConfig = AutoConfig.from_pretrained(directory, trust_remote_code=own_code)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, ImportError) as e:
        raise ConfigError(f"{directory}: {str(e).splitlines()[0]}") from None
    return found


def from_directory(
    config: AutoModelConfig, rows: int, padded: int, attention: str | None
) -> PreTrainedModel:
    """The model, whose table of codes and decoder are new; on `meta` without weights.

    Args:
        config: Where it lies.
        rows: Of the vocabulary.
        padded: Of the table.
        attention: Implementation, where it is not to be transformers' choice.

    Raises:
        ConfigError: If it is not causal or masked, needs code that was not asked for, has no safetensors
            weights, or these do not fit its configuration.
    """
    directory = config.path
    found, view = configuration(config), sees(directory, read(directory))
    own_code = found.model_type not in CONFIG_MAPPING
    options: dict[str, Any] = {"trust_remote_code": True} if own_code else {}
    if attention is not None:
        options["attn_implementation"] = attention
    if torch.get_default_device().type == "meta":
        model: PreTrainedModel = CLASSES[view].from_config(found, **options)
    else:
        model = load_weights(directory, found, CLASSES[view], options)
    _renew_vocabulary(model, padded)
    for name, value in {**SPECIAL, "true_vocab_size": rows}.items():
        setattr(model.config, name, value)
    if getattr(model.config, "max_position_embeddings", None) is None:
        model.config.max_position_embeddings = UNBOUNDED
    if model.can_generate():
        model.generation_config = GenerationConfig.from_model_config(model.config)
    model.eval()
    return model


def require_code(directory: Path, tree: dict[str, Any]) -> None:
    """Make the classes of a checkpoint known that has code of its own, where the user says that it may run.

    Args:
        directory: The checkpoint.
        tree: Its config.json.

    Raises:
        ContractError: If that was not said, by `EHR_TRUST_CODE`.
    """
    name = tree["model_type"]
    if name in CONFIG_MAPPING:
        return
    if name not in os.environ.get(TRUSTED, "").split(","):
        raise ContractError(
            f"{directory} needs the code that lies in it, which is not run unless you name it: look it "
            f"through, then {TRUSTED}={name}"
        )
    found = AutoConfig.from_pretrained(directory, trust_remote_code=True)
    AutoConfig.register(name, type(found), exist_ok=True)
    for auto in ("AutoModel", *(cls.__name__ for cls in CLASSES.values())):
        if reference := tree.get("auto_map", {}).get(auto):
            model = get_class_from_dynamic_module(reference, str(directory))
            getattr(transformers, auto).register(type(found), model, exist_ok=True)


TRUSTED = "EHR_TRUST_CODE"
"""Environment variable: model types, separated by commas, whose code beside checkpoints may be run."""
UNBOUNDED = 2**20
"""Positions of a model that has no bound."""


@contextmanager
def quiet() -> Iterator[None]:
    """Without transformers' progress bars over files that take milliseconds, and its reports of weights."""
    shown, said = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(said)
        if shown:
            logging.enable_progress_bar()


def load_weights(
    directory: Path,
    config: PreTrainedConfig,
    auto: Any,  # noqa: ANN401 -- a factory of transformers
    options: dict[str, Any],
    *,
    new: tuple[str, ...] = (),
) -> PreTrainedModel:
    """A model with the weights of a directory, in fp32.

    Args:
        directory: Holds safetensors.
        config: Of the model.
        auto: Of transformers, e.g. `AutoModelForCausalLM`.
        options: For it.
        new: Parameters in whose name one of these is found are new where the directory has none, or another's.

    Raises:
        ConfigError: If there are no safetensors, or other weights than the configuration says.
    """
    names = sorted(path.name for path in directory.iterdir())
    if not any(name.endswith(".safetensors") for name in names):
        pickles = [name for name in names if name.endswith(PICKLES)]
        raise ConfigError(
            f"{directory} holds {pickles[0]} and no safetensors: such files may run code when they are "
            "opened, so they are not; convert it with save_pretrained of transformers"
            if pickles
            else f"{directory} has no weights (model.safetensors)"
        )
    try:
        with quiet():
            model, found = auto.from_pretrained(
                directory,
                config=config,
                dtype=torch.float32,
                use_safetensors=True,
                local_files_only=True,
                output_loading_info=True,
                ignore_mismatched_sizes=True,
                **options,
            )
    except (OSError, ValueError, TypeError, KeyError, AttributeError, ImportError) as e:
        raise ConfigError(f"{directory}: {str(e).splitlines()[0]}") from None
    for name, there, here in found["mismatched_keys"]:
        if any(part in name for part in new):
            continue
        raise ConfigError(
            f"{directory}: {name} is {list(there)}, but by config.json it is {list(here)}: not the "
            "weights, or not the vocabulary, of that model"
        )
    body = f"{model.base_model_prefix}."
    missing = sorted(
        name
        for name in found["missing_keys"]
        if name.startswith(body) and not any(part in name for part in new)
    )
    if missing:
        raise ConfigError(f"{directory}: the weights lack {missing[0]}")
    for parameter in model.parameters():
        parameter.data = parameter.data.clone()  # out of the memory-mapped file
    return model  # type: ignore[no-any-return]


@torch.no_grad()
def _renew_vocabulary(model: PreTrainedModel, rows: int) -> None:
    """Tables of so many rows, drawn as widely as those that were there: their rows meant other words."""
    readers = (model.get_input_embeddings, model.get_output_embeddings)
    spread = [_spread(table()) for table in readers]
    model.resize_token_embeddings(rows, mean_resizing=False)
    renewed: list[Tensor] = []
    for table, std in zip(readers, spread, strict=True):
        module: Any = table()
        if module is None or any(module.weight is weight for weight in renewed):
            continue
        module.weight.normal_(0.0, std)
        renewed.append(module.weight)
        if getattr(module, "bias", None) is not None:
            module.bias.zero_()


def _spread(module: Any) -> float:  # noqa: ANN401 -- an embedding, a linear map, or none
    """Standard deviation of a table; of one without values that which most begin with."""
    return 0.02 if module is None or module.weight.is_meta else float(module.weight.std())


def kind_of_model(model: PreTrainedModel, directory: Path) -> dict[str, Any]:
    """What its configuration is to say of its kind (`FIELD`): what it sees, its head, where adapters go.

    Raises:
        ConfigError: If logits are not what the modules of its head make of its states, one after the other,
            or a causal model hears later tokens.
    """
    view = sees(directory, read(directory))
    prefix = model.base_model_prefix
    head = [
        n for n, m in model.named_children() if n != prefix and any(True for _ in m.parameters())
    ]
    if not next(model.parameters()).is_meta:
        check_head(model, head, view, directory)
    return {
        "sees": view,
        "token_head": head,
        "adapters": adaptable(model),
        "heads": ["token"]
        if model.config.model_type not in CONFIG_MAPPING
        else ["token", "pooled", "both"],
    }


def adaptable(model: PreTrainedModel) -> list[str]:
    """Last names of the linear modules that adapters go to: of attention where a name tells, else of all blocks."""
    stacks = [n for n, m in model.base_model.named_modules() if isinstance(m, nn.ModuleList)]
    inside = [
        name
        for name, module in model.base_model.named_modules()
        if isinstance(module, nn.Linear | Conv1D) and any(name.startswith(f"{s}.") for s in stacks)
    ]
    near = [name for name in inside if "att" in name.lower()] or inside
    return sorted({name.rpartition(".")[2] for name in near})


def _backbone(model: PreTrainedModel) -> nn.Module:
    backbone: nn.Module = model.base_model
    return backbone


@torch.no_grad()
def check_head(model: PreTrainedModel, head: list[str], view: str, directory: Path) -> None:
    """Ask a model for logits of a few tokens, with two ends.

    Args:
        model: In evaluation mode.
        head: Names of the modules that shall make logits of its states, one after the other.
        view: What it sees, `past` or `all`.
        directory: For messages.

    Raises:
        ConfigError: If they are not what makes them, or a causal model hears later tokens.
    """
    ids = torch.tensor([[7, 8, 9, 7], [7, 8, 9, 8]]) % model.config.vocab_size
    mask = torch.ones_like(ids)
    logits = model(input_ids=ids, attention_mask=mask).logits
    states: Tensor = _backbone(model)(input_ids=ids, attention_mask=mask).last_hidden_state
    width = getattr(model.config, "hidden_size", None)
    answer = states
    try:
        for name in head:
            answer = model.get_submodule(name)(answer)
        same = torch.allclose(answer, logits, atol=1e-4)
    except (RuntimeError, TypeError):
        same = False
    if not same or states.shape[-1] != width:
        raise ConfigError(
            f"{directory}: the logits of {type(model).__name__} are more than "
            f"{', '.join(head) or 'nothing'} of its states of width {width}: its head is not read here"
        )
    if view == "past" and not torch.equal(states[0, :-1], states[1, :-1]):
        raise ConfigError(
            f"{directory}: {type(model).__name__} hears later tokens: it is not causal"
        )
