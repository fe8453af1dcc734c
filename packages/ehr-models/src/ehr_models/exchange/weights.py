"""Weights that others wrote: safetensors, and pickles of tensors that are read without running them."""

import json
import re
from collections import defaultdict
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ehr_tracking.errors import UserError

WEIGHTS = ("model.safetensors", "pytorch_model.bin")
"""As transformers names them; either may be cut into parts that `<name>.index.json` lists."""
PICKLES = (".bin", ".pt", ".pth", ".ckpt")


class _Kept:
    """Stands for a class of OmegaConf in a pickle: keeps what the file says of it, and does nothing."""

    def __init__(self, *_: object) -> None: ...


class _KeptDict(dict[Any, Any]):
    """Stands for Lightning's dictionaries of hyperparameters."""


_OMEGACONF = {
    "dictconfig": ("DictConfig",),
    "listconfig": ("ListConfig",),
    "base": ("ContainerMetadata", "Metadata"),
    "nodes": ("AnyNode", "StringNode", "IntegerNode", "FloatNode", "BooleanNode"),
}
_STAND_INS: list[Any] = [
    *((_Kept, f"omegaconf.{module}.{n}") for module, names in _OMEGACONF.items() for n in names),
    *((_KeptDict, f"{package}.utilities.{m}.AttributeDict")
      for package in ("lightning.fabric", "lightning_fabric", "pytorch_lightning")
      for m in ("data", "parsing")),
    (_Kept, "typing.Any"),
    (defaultdict, "collections.defaultdict"),
    *((of, f"builtins.{of.__name__}") for of in (dict, list, int, float, str, bool)),
]  # fmt: skip
"""What a file may name beside tensors, and what that becomes: no code of any other package is run."""


def read_pickle(path: Path) -> Any:  # noqa: ANN401 -- whatever the file holds
    """What a file of `torch.save` holds, read by `torch.load(weights_only=True)`.

    Args:
        path: Of tensors, plain values, and settings of OmegaConf, which come as plain values.

    Raises:
        UserError: If it holds anything else, or is no such file. Nothing of it was run.
    """
    try:
        with torch.serialization.safe_globals(_STAND_INS):
            held = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except UnpicklingError as e:
        named = re.search(r"GLOBAL (\S+)", str(e))
        what = f"it names {named[1].rstrip('.')}" if named else "it is no file of tensors"
        raise UserError(
            f"{path}: refused, nothing of it was run: {what}; only tensors and plain values are read. Ask "
            "for safetensors"
        ) from None
    except (RuntimeError, EOFError, ValueError, TypeError, KeyError, AttributeError) as e:
        raise UserError(f"{path}: cannot be read as weights: {_first(e)}") from None
    return _plain(held)


def _plain(value: Any) -> Any:  # noqa: ANN401 -- whatever the file holds
    """The same with plain values in place of settings of OmegaConf."""
    if isinstance(value, _Kept):
        told = vars(value)
        return _plain(told["_content"] if "_content" in told else told.get("_val"))
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, list) else value


def read_weights(directory: Path) -> dict[str, Tensor]:
    """The tensors of a directory of transformers, or of the one checkpoint of Lightning in it.

    Raises:
        UserError: If there are none, several, or they cannot be read.
    """
    for name in WEIGHTS:
        if (directory / name).is_file():
            return _tensors(directory / name)
        index = directory / f"{name}.index.json"
        if index.is_file():
            parts = sorted(set(_json(index).get("weight_map", {}).values()))
            if not parts or any(Path(p).name != p for p in parts):
                raise UserError(f"{index}: expected weight_map, names of files beside it")
            return {k: v for part in parts for k, v in _tensors(directory / part).items()}
    found = sorted(directory.glob("*.ckpt"))
    if len(found) != 1:
        raise UserError(
            f"{directory} has no weights: expected {', '.join(WEIGHTS)} or one .ckpt, found "
            f"{len(found)} .ckpt"
        )
    return _tensors(found[0])


def _tensors(path: Path) -> dict[str, Tensor]:
    if path.suffix in PICKLES:
        held = read_pickle(path)
        if isinstance(held, dict) and isinstance(held.get("state_dict"), dict):  # of Lightning
            held = {k.removeprefix("model."): v for k, v in held["state_dict"].items()}
    else:
        try:
            held = load_file(path)
        except FileNotFoundError:
            raise UserError(f"{path}: no such file") from None
        except (SafetensorError, OSError, ValueError) as e:
            raise UserError(f"{path}: cannot be read as safetensors: {_first(e)}") from None
    if not isinstance(held, dict):
        raise UserError(f"{path} holds a {type(held).__name__}, not tensors by name")
    tensors = {k: v for k, v in held.items() if isinstance(v, Tensor)}
    if not tensors:
        raise UserError(f"{path} holds no tensors by name")
    return tensors


def _json(path: Path) -> dict[str, Any]:
    try:
        tree = json.loads(path.read_bytes())
    except ValueError as e:
        raise UserError(f"{path}: not JSON: {e}") from None
    return tree if isinstance(tree, dict) else {}


def _first(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
