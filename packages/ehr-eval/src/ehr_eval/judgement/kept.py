"""What was judged of a task, as a part of an unfinished artifact: arrays, and all else as JSON."""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ehr_eval.judge.compare import Score
from ehr_eval.judge.curves import Curve
from ehr_eval.judgement.judge import Compared, Group, Judged, Scored, TaskJudged
from ehr_eval.parts import Array, read_part, write_part

_KINDS = {kind.__name__: kind for kind in (TaskJudged, Judged, Scored, Score, Curve, Compared, Group)}  # fmt: skip


def write_judged(path: Path, judged: TaskJudged) -> None:
    """Write what `read_judged` reads, to the last bit."""
    arrays: list[Array] = []
    about = _packed(judged, arrays)
    write_part(path, {str(n): array for n, array in enumerate(arrays)}, about)


def read_judged(path: Path) -> TaskJudged | None:
    """What `write_judged` wrote; None where there is no whole file."""
    part = read_part(path)
    if part is None:
        return None
    found: TaskJudged = _unpacked(part[1], part[0])
    return found


def _packed(value: Any, arrays: list[Array]) -> Any:  # noqa: ANN401 -- whatever a task has
    """JSON in the place of a value; its arrays are added to those that are there."""
    if isinstance(value, np.ndarray):
        arrays.append(value)
        return {"array": str(len(arrays) - 1)}
    if (name := type(value).__name__) in _KINDS:
        names = [f.name for f in fields(value)] if is_dataclass(value) else value._fields
        return {"kind": name, "of": [_packed(getattr(value, n), arrays) for n in names]}
    if isinstance(value, Mapping):
        return {"mapping": [[_packed(x, arrays) for x in item] for item in value.items()]}
    if isinstance(value, tuple):
        return {"tuple": [_packed(x, arrays) for x in value]}
    return [_packed(x, arrays) for x in value] if isinstance(value, list) else value


def _unpacked(tree: Any, arrays: Mapping[str, Array]) -> Any:  # noqa: ANN401 -- as `_packed`
    if isinstance(tree, list):
        return [_unpacked(x, arrays) for x in tree]
    if not isinstance(tree, dict):
        return tree
    if "array" in tree:
        return arrays[tree["array"]]
    if "kind" in tree:
        return _KINDS[tree["kind"]](*_unpacked(tree["of"], arrays))
    if "mapping" in tree:
        return {_unpacked(key, arrays): _unpacked(x, arrays) for key, x in tree["mapping"]}
    return tuple(_unpacked(tree["tuple"], arrays))
