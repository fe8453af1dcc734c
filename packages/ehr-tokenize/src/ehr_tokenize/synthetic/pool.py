"""Blocks of subjects spread over processes, and the split that each subject is in."""

import multiprocessing
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import starmap
from typing import TypeVar

import numpy as np
from tqdm import tqdm

from ehr_tracking.arrow.splits import splits_by_hash
from ehr_tracking.contracts import SPLITS

T = TypeVar("T")


def over(
    function: Callable[..., T], arguments: Sequence[tuple[int, ...]], workers: int, unit: str
) -> Iterator[T]:
    """Apply a picklable function to each tuple of arguments, in order, with a bar."""
    bar = partial(tqdm, desc=unit, unit="block", total=len(arguments), disable=None)
    if workers == 1 or len(arguments) == 1:
        yield from bar(starmap(function, arguments))
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(workers, len(arguments)), mp_context=context) as pool:
        yield from bar(pool.map(function, *zip(*arguments, strict=True)))


def splits_of(ids: Iterable[int], seed: int) -> list[str]:
    """The split of each subject: 80/10/10 by a hash of seed and subject."""
    return [SPLITS[i] for i in splits_by_hash(np.asarray(ids), seed).tolist()]
