"""A torch model, its optimizer and whatever else has a state, in one safetensors file.

One file is renamed into place as a whole, so whenever a process dies there is either the old state or the
new one. Weights stand under their own names; tensors of an optimizer are named `optimizer/...`; all that
is not a tensor is JSON in the file's header. Nothing is pickled.
"""

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from ehr_tracking.errors import UserError
from ehr_tracking.files import sync

_FORMAT = "ehr-tracking state/1"


def save(path: Path, model: Any, others: Mapping[str, Any], note: Mapping[str, Any]) -> None:  # noqa: ANN401
    """Write the states of a model and of others.

    Args:
        path: `*.safetensors`, in a folder that exists; a file there is replaced.
        model: Has `state_dict()`.
        others: Name -> what has one: an optimizer, a scheduler.
        note: JSON values to keep with it.

    Raises:
        UserError: If a state holds something that is neither a tensor nor plain values.
    """
    from safetensors.torch import save_file

    tensors: dict[str, Any] = dict(model.state_dict())
    header = {
        "format": _FORMAT,
        "note": json.dumps(dict(note)),
        **{name: json.dumps(_pack(it.state_dict(), name, tensors)) for name, it in others.items()},
    }
    partial = path.with_name(f".{path.name}.partial")
    try:
        save_file(_apart(tensors), partial, metadata=header)
        sync(partial)
        partial.replace(path)
    except BaseException:
        with suppress(OSError):
            partial.unlink()
        raise
    sync(path.parent)


def load(path: Path, model: Any, others: Mapping[str, Any]) -> dict[str, Any]:  # noqa: ANN401
    """Put the states back.

    Args:
        path: That `save` wrote.
        model: Has `load_state_dict()`.
        others: Name -> what has one.

    Returns:
        The note.

    Raises:
        UserError: If there is no such file, it is damaged, or it does not fit the model.
    """
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise UserError(f"{path}: no such checkpoint")
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as e:
        raise UserError(f"{path} is damaged: {e}") from None
    if header.get("format") != _FORMAT:
        raise UserError(f"{path} was not written by an ExperimentTracker")
    for name in others:
        if name not in header:
            raise UserError(f"{path} holds no state of {name}; leave it out")
    states = {name: _unpack(json.loads(header[name]), tensors) for name in others}
    kept = header.keys() - {"format", "note"}
    weights = {k: v for k, v in tensors.items() if k.partition("/")[0] not in kept or "/" not in k}
    try:
        model.load_state_dict(weights)
        for name, it in others.items():
            it.load_state_dict(states[name])
    except (RuntimeError, ValueError, KeyError) as e:
        raise UserError(f"{path} does not fit: {' '.join(str(e).split())}") from None
    note: dict[str, Any] = json.loads(header["note"])
    return note


def _apart(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """On the CPU, each with memory of its own: weights may be tied."""
    seen: set[int] = set()
    found = {}
    for name, tensor in tensors.items():
        own = tensor.detach().cpu().contiguous()
        place = own.untyped_storage().data_ptr()
        found[name] = own.clone() if place in seen else own
        seen.add(place)
    return found


def _pack(value: Any, name: str, tensors: dict[str, Any]) -> Any:  # noqa: ANN401 -- any state
    """Plain values, with each tensor put into the table and named instead."""
    if hasattr(value, "untyped_storage"):
        tensors[name] = value
        return {"tensor": name}
    if isinstance(value, dict):
        return {"dict": [[k, _pack(v, f"{name}/{k}", tensors)] for k, v in value.items()]}
    if isinstance(value, list | tuple):
        kind = "list" if isinstance(value, list) else "tuple"
        return {kind: [_pack(v, f"{name}/{i}", tensors) for i, v in enumerate(value)]}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise UserError(
        f"{name} is a {type(value).__name__}: a checkpoint holds tensors, numbers, text, lists and dicts"
    )


def _unpack(value: Any, tensors: Mapping[str, Any]) -> Any:  # noqa: ANN401 -- any state
    if not isinstance(value, dict):
        return value
    ((kind, held),) = value.items()
    if kind == "tensor":
        return tensors[held]
    if kind == "dict":
        return {k: _unpack(v, tensors) for k, v in held}
    found = [_unpack(v, tensors) for v in held]
    return found if kind == "list" else tuple(found)
