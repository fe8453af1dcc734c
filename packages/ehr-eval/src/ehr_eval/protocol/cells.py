"""Run cells, each once, on as many processes as wanted; what was interrupted goes on."""

from collections.abc import Sequence
from functools import partial

from tqdm import tqdm

from ehr_eval.protocol.cell import Cell, Plan, evaluate_cell, read_outcome
from ehr_eval.workers import each_once


def run_cells(cells: Sequence[Cell], plan: Plan, *, workers: int) -> None:
    """Write the outcome of every cell that has none.

    Args:
        cells: In the order of results; those that take longest are begun first.
        plan: Of the run.
        workers: Processes; 1: this one.

    Raises:
        UnfinishedError: If a cell fails, with its name; outcomes that are there stay.
    """
    cells = list(dict.fromkeys(plan.fitted(cell) for cell in cells))
    left = [cell for cell in cells if read_outcome(plan.outcome(cell)) is None]
    left.sort(key=lambda cell: -cell.k if cell.k > 0 else float("-inf"))
    done = each_once(
        left,
        partial(evaluate_cell, plan=plan),
        workers=workers,
        caller="run_ehrshot",
        named="cells",
    )
    with tqdm(
        total=len(cells), initial=len(cells) - len(left), unit="cell", desc="ehrshot", disable=None
    ) as bar:
        for _ in done:
            bar.update()
