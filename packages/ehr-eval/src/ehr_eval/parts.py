"""What is done of an unfinished artifact: a file a part, whole or not at all, so that a run that was killed goes on."""

import json
import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

Array = npt.NDArray[Any]
_WORK = ".work"
_ABOUT = "outcome"


def parts_of(unfinished: Path) -> Path:
    """The folder of the parts; what a run that was killed wrote beside it is removed.

    Args:
        unfinished: The directory that `new_artifact` gives; the folder has to be gone before it is sealed.
    """
    for left in unfinished.iterdir():
        if left.name != _WORK:
            shutil.rmtree(left) if left.is_dir() else left.unlink()
    return unfinished / _WORK


def write_part(path: Path, arrays: Mapping[str, Array], about: Any = None) -> None:  # noqa: ANN401 -- any JSON
    """Write what `read_part` reads; another process, on any machine, may write the very same.

    Args:
        path: A safetensors file; folders above it are made.
        arrays: By name.
        about: Anything that JSON holds.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}.partial")
    # safetensors writes memory as it lies, whatever the strides: a column of a matrix would be garbage
    tensors = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    save_file(tensors, partial, metadata={_ABOUT: json.dumps(about)})
    partial.replace(path)


def read_part(path: Path) -> tuple[dict[str, Array], Any] | None:
    """What `write_part` wrote: arrays and what is said of them; None where there is no whole file."""
    try:
        with safe_open(path, framework="numpy") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return tensors, json.loads(file.metadata()[_ABOUT])
    except (OSError, SafetensorError):
        return None
