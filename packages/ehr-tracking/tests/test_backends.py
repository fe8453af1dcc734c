from pathlib import Path

import pytest

from ehr_tracking.backends import TRACKERS, Tracker, open_tracker
from ehr_tracking.errors import UserError
from ehr_tracking.runs import read_log


def steps(tracker: Tracker, first: int, last: int, seconds: float) -> None:
    for step in range(first, last + 1):
        tracker.step({"step": step, "loss": 1 / step}, {"step": step, "seconds": seconds})


@pytest.mark.parametrize("name", TRACKERS)
def test_every_tracker_opens_and_takes_steps_back(name: str, tmp_path: Path) -> None:
    steps(open_tracker(name, tmp_path), 1, 3, 0.5)
    open_tracker(name, tmp_path).rewind(1)
    steps(open_tracker(name, tmp_path), 2, 4, 0.5)


def test_what_is_reproducible_is_apart_and_the_same_after_a_kill(tmp_path: Path) -> None:
    steps(open_tracker("jsonl", tmp_path / "whole"), 1, 4, 0.5)
    steps(open_tracker("jsonl", tmp_path / "killed"), 1, 3, 0.7)
    with (tmp_path / "killed" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "lo')
    again = open_tracker("jsonl", tmp_path / "killed")
    again.rewind(2)
    steps(again, 3, 4, 0.9)
    whole, killed = (tmp_path / name / "metrics.jsonl" for name in ("whole", "killed"))
    assert killed.read_bytes() == whole.read_bytes()
    assert [r["seconds"] for r in read_log(tmp_path / "killed" / "timings.jsonl")] == [
        0.7, 0.7, 0.9, 0.9,
    ]  # fmt: skip


def test_an_unknown_tracker_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no tracker mlfow; choose one of jsonl"):
        open_tracker("mlfow", tmp_path)
