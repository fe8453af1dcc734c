"""Do each of some things once, on as many processes as wanted; what was interrupted goes on."""

import hashlib
import json
import os
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context, parent_process
from multiprocessing.queues import SimpleQueue
from multiprocessing.synchronize import Event
from threading import Thread
from typing import Any, TypeVar

from pydantic import TypeAdapter
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from ehr_eval.frames import PRODUCER
from ehr_tracking.errors import UnfinishedError
from ehr_tracking.manifest import Source

T = TypeVar("T")
_AHEAD = 4
"""Things a worker that are handed out before others are done."""
_GOES_ON = "are kept: the same command goes on from there"


def each_once(
    things: Sequence[T], do: Callable[[T], object], *, workers: int, caller: str, named: str
) -> Iterator[T]:
    """Do each thing, on one thread a process, and say so when it is done.

    Args:
        things: `str(thing)` names it in messages; those that take longest had better come first.
        do: Writes what comes of one; workers get it by pickle.
        workers: Processes; 1: this one.
        caller: The function that a user's script calls, for messages.
        named: What the things are called, for messages: several of them.

    Raises:
        UnfinishedError: If a thing fails, with its name; what is done stays.
    """
    if min(workers, len(things)) <= 1:
        yield from _here(things, do, named)
    else:
        yield from _elsewhere(things, do, workers, caller, named)


def run_key(config: Mapping[str, Any], inputs: Mapping[str, Source]) -> str:
    """For `new_artifact`: the same for runs that write the same bytes.

    Args:
        config: Resolved.
        inputs: With their fingerprints.
    """
    tree = {
        "producer": PRODUCER,
        "config": dict(config),
        "inputs": TypeAdapter(dict[str, Source]).dump_python(dict(inputs), mode="json"),
    }
    return hashlib.sha256(json.dumps(tree).encode()).hexdigest()[:16]


def rank() -> int:
    """Which of the workers this process is, from 0; 0 in the process of the command itself."""
    return _RANK


_RANK = 0


def _here(things: Sequence[T], do: Callable[[T], object], named: str) -> Iterator[T]:
    with threadpool_limits(1):
        for thing in things:
            try:
                do(thing)
            except Exception as e:
                raise _failed(thing, e, named) from e
            yield thing


def _elsewhere(
    things: Sequence[T], do: Callable[[T], object], workers: int, caller: str, named: str
) -> Iterator[T]:
    """In processes that are spawned, since torch or polars may have started threads, which a fork breaks."""
    context = get_context("spawn")
    count = min(workers, len(things))
    begun = context.Event()
    ranks: SimpleQueue[int] = context.SimpleQueue()
    for number in range(count):
        ranks.put(number)
    pool = ProcessPoolExecutor(
        count, mp_context=context, initializer=_begin, initargs=(begun, ranks)
    )
    waiting, running = iter(things), dict[Future[object], T]()
    try:
        while True:
            while len(running) < _AHEAD * workers and (thing := next(waiting, None)) is not None:
                running[pool.submit(do, thing)] = thing
            if not running:
                return
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                error = future.exception()
                if isinstance(error, BrokenProcessPool):
                    raise error
                if error is not None:
                    raise _failed(running[future], error, named) from error
                yield running.pop(future)
    except BrokenProcessPool as e:
        if not begun.is_set():
            raise UnfinishedError(
                f"no worker could begin: each reads the script that called {caller}, which must not "
                "call it again; put the call below `if __name__ == '__main__':`, or give workers=1"
            ) from e
        near = "; ".join(str(thing) for thing in [*running.values()][:workers])
        raise UnfinishedError(
            f"a worker was killed (is memory short?) at one of: {near}. Other {named} that are done "
            f"{_GOES_ON}, with fewer --workers if need be"
        ) from e
    finally:
        pool.shutdown(cancel_futures=True)


def _failed(thing: object, error: BaseException, named: str) -> UnfinishedError:
    what = " ".join(f"{type(error).__name__}: {error}".split())
    return UnfinishedError(f"{thing}: {what}. Other {named} that are done {_GOES_ON}")


def _begin(begun: Event, ranks: "SimpleQueue[int]") -> None:
    """In a new worker: one thread, and the end with its parent, however that ends."""
    global _RANK  # noqa: PLW0603 -- a process has one
    begun.set()
    _RANK = ranks.get()
    threadpool_limits(1)
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # no traceback from each worker
    Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
