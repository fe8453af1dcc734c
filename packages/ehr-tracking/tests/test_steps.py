from pathlib import Path

from ehr_tracking.runs import read_log
from ehr_tracking.steps import StepLog, StepReader


def append(run: Path, first: int, last: int, seconds: float = 0.5) -> None:
    for step in range(first, last + 1):
        StepLog(run).append({"step": step, "loss": 1 / step}, {"step": step, "seconds": seconds})


def test_what_is_reproducible_is_apart_and_the_same_after_a_kill(tmp_path: Path) -> None:
    append(tmp_path / "whole", 1, 4, 0.5)
    append(tmp_path / "killed", 1, 3, 0.7)
    with (tmp_path / "killed" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "lo')
    StepLog(tmp_path / "killed").rewind(2)
    append(tmp_path / "killed", 3, 4, 0.9)
    whole, killed = (tmp_path / name / "metrics.jsonl" for name in ("whole", "killed"))
    assert killed.read_bytes() == whole.read_bytes()
    assert [r["seconds"] for r in read_log(tmp_path / "killed" / "timings.jsonl")] == [
        0.7, 0.7, 0.9, 0.9,
    ]  # fmt: skip


def test_a_reader_has_each_step_whole_and_those_after_a_rewind_anew(tmp_path: Path) -> None:
    reader = StepReader(tmp_path)
    assert reader.read() == []
    append(tmp_path, 1, 2)
    StepLog(tmp_path).timings.append({"step": 3, "seconds": 0.5})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3, "lo')
    assert [s["step"] for s in reader.read()] == [1, 2]
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('ss": 0.25}\n')
    assert reader.read() == [{"step": 3, "loss": 0.25, "seconds": 0.5}]
    StepLog(tmp_path).rewind(1)
    append(tmp_path, 2, 5)
    assert [s["step"] for s in reader.read()] == [1, 2, 3, 4, 5]
    assert reader.read() == []
