"""Under which layouts a run has been trained: it may go on under another one."""

from itertools import pairwise
from pathlib import Path

from ehr_tracking.runs import RunLog, read_log
from ehr_train.scale import Parallel, group
from ehr_train.scale.member import attempt

STARTS = "starts.jsonl"
"""Of a run: behind which step, as how many processes and how often restarted it went on."""


def note(out: Path, step: int, parallel: Parallel) -> None:
    """Note that the processes of this one go on.

    Args:
        out: The run directory.
        step: The last one that counts.
        parallel: How they share the model.
    """
    log = RunLog(out / STARTS)
    log.rewind(step)  # of a torn line
    layout = {"processes": group.world(), "parallel": parallel, "restart": attempt()}
    log.append({"step": step, **layout})


def told(out: Path) -> str:
    """In one line under which layouts a run was trained, and how often it was restarted."""
    starts = read_log(out / STARTS)
    layouts = [
        f"{s['processes']}" + (f" ({s['parallel']})" if s["processes"] > 1 else "") for s in starts
    ]
    changed = [
        f"{now} behind step {start['step']}"
        for (was, now), start in zip(pairwise(layouts), starts[1:], strict=True)
        if was != now
    ]
    restarts = sum(s["restart"] > 0 for s in starts)
    more = [f"restarted {restarts} times after a process had died"] if restarts else []
    return "; ".join([*layouts[:1], *changed, *more])
