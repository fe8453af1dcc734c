"""Rare codes to their parents: what few subjects have is told as what it is a kind of."""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from ehr_tokenize.config import VocabularyConfig
from ehr_tracking.arrow.meds import CodeInfo

_DEEPEST = 64


def roll_up(
    events: Mapping[str, int],
    subjects: Mapping[str, npt.NDArray[np.int64]],
    infos: Mapping[str, CodeInfo],
    config: VocabularyConfig,
) -> dict[str, str]:
    """Which code stands for each code that is too rare.

    From the leaves up: a code below `min_count` or `min_subjects`, together with what was rolled up
    to it, becomes its first parent. One that has no parent stays, and is cut later.

    Args:
        events: Train events of each code.
        subjects: Distinct train subjects of each code.
        infos: Parents.
        config: What is rare.

    Examples:
        >>> infos = {"E11.1": CodeInfo(None, ["E11"]), "E11.2": CodeInfo(None, ["E11"])}
        >>> who = {"E11.1": np.array([1]), "E11.2": np.array([2])}
        >>> roll_up({"E11.1": 1, "E11.2": 1}, who, infos, VocabularyConfig(min_subjects=2))
        {'E11.1': 'E11', 'E11.2': 'E11'}
    """
    chain = {code: _chain(code, infos) for code in events}
    depth = {c: len(above) - i for above in chain.values() for i, c in enumerate(above)}
    count = dict(events)
    who = {code: set(found.tolist()) for code, found in subjects.items()}
    to: dict[str, str] = {}
    for code in sorted(depth, key=lambda c: (-depth[c], c)):
        parent = next(iter(_parents(code, infos)), None)
        n = count.get(code, 0)
        enough = n >= config.min_count and len(who.get(code, ())) >= config.min_subjects
        if enough or not n or parent is None or depth.get(parent, 0) >= depth[code]:
            continue
        to[code] = parent
        count[parent] = count.get(parent, 0) + n
        who.setdefault(parent, set()).update(who.get(code, ()))
    return {code: _end(code, to) for code in sorted(events) if code in to}


def _parents(code: str, infos: Mapping[str, CodeInfo]) -> list[str]:
    info = infos.get(code)
    return [p for p in (info.parents or []) if p] if info else []


def _chain(code: str, infos: Mapping[str, CodeInfo]) -> list[str]:
    """The code, its first parent, the first parent of that, ..."""
    chain = [code]
    while len(chain) < _DEEPEST and (parents := _parents(chain[-1], infos)):
        if parents[0] in chain:
            break
        chain.append(parents[0])
    return chain


def _end(code: str, to: Mapping[str, str]) -> str:
    while code in to:
        code = to[code]
    return code
