"""Run cells, each once, on as many processes as wanted; what was interrupted goes on."""

import os
import signal
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context, parent_process
from multiprocessing.synchronize import Event
from threading import Thread

from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]
from tqdm import tqdm

from ehr_eval.protocol.cell import Cell, Plan, evaluate_cell, read_outcome
from ehr_tracking.errors import UnfinishedError

_AHEAD = 4
"""Cells a worker that are handed out before others are done."""


def run_cells(cells: Sequence[Cell], plan: Plan, *, workers: int) -> None:
    """Write the outcome of every cell that has none.

    Args:
        cells: In the order of results; those that take longest are begun first.
        plan: Of the run.
        workers: Processes; 1: this one.

    Raises:
        UnfinishedError: If a cell fails, with its name; outcomes that are there stay.
    """
    left = [cell for cell in cells if read_outcome(plan.outcome(cell)) is None]
    left.sort(key=lambda cell: -cell.k if cell.k > 0 else float("-inf"))
    done = _here(left, plan) if min(workers, len(left)) <= 1 else _elsewhere(left, plan, workers)
    with tqdm(
        total=len(cells), initial=len(cells) - len(left), unit="cell", desc="ehrshot", disable=None
    ) as bar:
        for _ in done:
            bar.update()


def _here(cells: Sequence[Cell], plan: Plan) -> Iterator[Cell]:
    with threadpool_limits(1):
        for cell in cells:
            try:
                evaluate_cell(cell, plan)
            except Exception as e:
                raise _failed(cell, e) from e
            yield cell


def _elsewhere(cells: Sequence[Cell], plan: Plan, workers: int) -> Iterator[Cell]:
    """In processes that are spawned, since torch or polars may have started threads, which a fork breaks."""
    context = get_context("spawn")
    begun = context.Event()
    pool = ProcessPoolExecutor(
        min(workers, len(cells)), mp_context=context, initializer=_begin, initargs=(begun,)
    )
    waiting, running = iter(cells), dict[Future[None], Cell]()
    try:
        while True:
            while len(running) < _AHEAD * workers and (cell := next(waiting, None)):
                running[pool.submit(evaluate_cell, cell, plan)] = cell
            if not running:
                return
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                error = future.exception()
                if isinstance(error, BrokenProcessPool):
                    raise error
                if error is not None:
                    raise _failed(running[future], error) from error
                yield running.pop(future)
    except BrokenProcessPool as e:
        if not begun.is_set():
            raise UnfinishedError(
                "no worker could begin: each reads the script that called run_ehrshot, which must not "
                "call it again; put the call below `if __name__ == '__main__':`, or give workers=1"
            ) from e
        near = "; ".join(str(cell) for cell in [*running.values()][:workers])
        raise UnfinishedError(
            f"a worker was killed (is memory short?) at one of: {near}. Other cells that are done "
            "are kept: the same command goes on from there, with fewer --workers if need be"
        ) from e
    finally:
        pool.shutdown(cancel_futures=True)


def _failed(cell: Cell, error: BaseException) -> UnfinishedError:
    what = " ".join(f"{type(error).__name__}: {error}".split())
    return UnfinishedError(
        f"{cell}: {what}. Other cells that are done are kept: the same command goes on from there"
    )


def _begin(begun: Event) -> None:
    """In a new worker: one thread, and the end with its parent, however that ends."""
    begun.set()
    threadpool_limits(1)
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # no traceback from each worker
    Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
