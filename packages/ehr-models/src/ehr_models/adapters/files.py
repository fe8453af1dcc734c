"""An adapter as peft lays it out: `adapter_config.json` and `adapter_model.safetensors`."""
# mypy: allow-untyped-calls

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel

from ehr_models.adapters.inject import NAME, put_in, trained
from ehr_tracking.contracts import ContractError
from ehr_tracking.files import PathLike
from ehr_tracking.manifest import MANIFEST, Manifest, sha256

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


def write_adapter(
    directory: Path, model: PreTrainedModel, weights: Mapping[str, Tensor], base: str
) -> None:
    """Write what is trained of an adapted model, and the model's configuration.

    Args:
        directory: Exists.
        model: From `adapt`.
        weights: By parameter; those of `trained(model)` are kept.
        base: Where what it adapts lies, relative to the directory.
    """
    config = cast("Any", model).peft_config[NAME]
    config.base_model_name_or_path = base
    values = {k: sorted(v) if isinstance(v, set) else v for k, v in config.to_dict().items()}
    values["inference_mode"] = True
    text = json.dumps(values, indent=1, sort_keys=True, default=str) + "\n"
    (directory / CONFIG).write_text(text, encoding="utf-8")
    kept = {_outside(name): weights[name].detach().contiguous() for name in trained(model)}
    save_file(kept, directory / WEIGHTS, metadata={"format": "pt"})
    model.config.architectures = [type(model).__name__]
    model.config.to_json_file(directory / "config.json")


def read_adapter(directory: Path, model: PreTrainedModel, *, rounded: bool) -> set[str]:
    """Put the adapter of a directory into the model that it was made of, in place.

    Args:
        directory: From `write_adapter`.
        model: With the weights of the base.
        rounded: See `put_in`.

    Returns:
        The parameters that are the directory's.

    Raises:
        ContractError: If it holds another set of weights than such an adapter has.
    """
    from peft import LoraConfig

    put_in(model, LoraConfig.from_pretrained(str(directory)), rounded=rounded)
    return fill_adapter(directory, model)


@torch.no_grad()
def fill_adapter(directory: Path, model: PreTrainedModel) -> set[str]:
    """Give what is trained of a model the values of a directory, in place.

    Args:
        directory: From `write_adapter`.
        model: With such an adapter in it.

    Returns:
        The parameters that are the directory's.

    Raises:
        ContractError: If it holds another set of weights.
    """
    inside, given = trained(model), load_file(directory / WEIGHTS)
    names = {_outside(name): name for name in inside}
    if names.keys() != given.keys():
        raise ContractError(
            f"{directory / WEIGHTS} is not of this adapter: "
            f"{', '.join(sorted(names.keys() ^ given.keys())[:3])}"
        )
    for outside, name in names.items():
        if inside[name].shape != given[outside].shape:
            raise ContractError(
                f"{directory / WEIGHTS}: {outside} is {list(given[outside].shape)}, not "
                f"{list(inside[name].shape)}"
            )
        inside[name].copy_(given[outside])
    return set(inside)


def find_base(directory: Path, manifest: Manifest, given: PathLike | None) -> Path:
    """The checkpoint that an adapter adapts, by its fingerprint.

    Args:
        directory: The adapter.
        manifest: Of it.
        given: That checkpoint, or a run that has it; None for where it lay when it was written.

    Raises:
        ContractError: If what lies there is another one, or nothing.
    """
    wanted = manifest.inputs.get("base")
    if wanted is None:
        raise ContractError(f"{directory} does not say what it adapts: it has no input `base`")
    if given is None:
        hint = json.loads((directory / CONFIG).read_bytes()).get("base_model_name_or_path")
        place = Path(os.path.normpath(directory / str(hint or "")))
    else:
        place = Path(given)
    lying = [
        path
        for path in (place, *sorted((place / "checkpoints").glob("step-*")))
        if (path / MANIFEST).is_file()
    ]
    for path in lying:
        if sha256(path / MANIFEST) == wanted.fingerprint:
            return path
    what = "is another one" if lying else "is none"
    raise ContractError(
        f"{directory} adapts checkpoint {wanted.fingerprint[:16]}, but {place} {what}; name it: "
        f"ehr-models merge {directory} --base CHECKPOINT"
    )


def _outside(name: str) -> str:
    """What peft calls a parameter in its file.

    Examples:
        >>> _outside("behrt.layers.0.q_proj.lora_A.default.weight")
        'base_model.model.behrt.layers.0.q_proj.lora_A.weight'
        >>> _outside("behrt.layers.0.q_proj.lora_magnitude_vector.default.weight")
        'base_model.model.behrt.layers.0.q_proj.lora_magnitude_vector'
    """
    name = name.replace(f"lora_magnitude_vector.{NAME}.weight", "lora_magnitude_vector")
    return f"base_model.model.{name.replace(f'.{NAME}.', '.')}"
