import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ehr_tracking.runs import RunLog, environment, read_log


def test_a_log_continues_after_a_kill_as_if_nothing_had_happened(tmp_path: Path) -> None:
    whole, killed = RunLog(tmp_path / "whole.jsonl"), RunLog(tmp_path / "killed.jsonl")
    for step in range(1, 6):
        whole.append({"step": step, "loss": math.pi / step})
    for step in range(1, 5):
        killed.append({"step": step, "loss": math.pi / step})
    with killed.path.open("a") as f:
        f.write('{"step": 5, "lo')  # the process died within this line
    killed.rewind(2)
    for step in range(3, 6):
        killed.append({"step": step, "loss": math.pi / step})
    assert killed.path.read_bytes() == whole.path.read_bytes()


def test_a_torn_last_line_is_left_out_and_other_damage_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text('{"step": 1}\n{"step"')
    assert read_log(path) == [{"step": 1}]
    path.write_text('{"step"\n{"step": 1}\n')
    with pytest.raises(ValueError, match=r"log\.jsonl, line 1: not JSON"):
        read_log(path)


def test_not_a_number_is_refused(tmp_path: Path) -> None:
    log = RunLog(tmp_path / "log.jsonl")
    with pytest.raises(ValueError, match="JSON"):
        log.append({"loss": math.nan})
    assert read_log(log.path) == []


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_floats_keep_every_bit(tmp_path_factory: pytest.TempPathFactory, x: float) -> None:
    log = RunLog(tmp_path_factory.mktemp("log") / "log.jsonl")
    log.append({"x": x})
    log.rewind(0)
    (record,) = read_log(log.path)
    assert record["x"] == x


def test_the_environment_names_our_version() -> None:
    assert environment()["packages"]["ehr-tracking"] == "0.1.0"
