"""Who may write where: one at a time, nothing but its own kind, never what it reads."""

import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from threading import Lock

import pytest

from ehr_tracking.contracts import FEATURES, TOKENS
from ehr_tracking.errors import UserError
from ehr_tracking.manifest import new_artifact, refuse_existing
from ehr_tracking.outputs import held, refuse_inputs

HOLD = """
import sys, time
from pathlib import Path
from ehr_tracking.outputs import held

with held(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_another_process_is_refused_until_its_owner_dies_however_it_does(tmp_path: Path) -> None:
    out = tmp_path / "runs" / "out"
    with subprocess.Popen([sys.executable, "-c", HOLD, str(out)], stdout=subprocess.PIPE) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == b"held\n"
        for _ in range(2):
            with pytest.raises(UserError, match=r"another run is writing .*out; wait"), held(out):
                raise AssertionError
        owner.send_signal(signal.SIGKILL)
    assert [p.name for p in out.parent.iterdir()] == [".out.lock"]
    with held(out), held(tmp_path / "runs" / "other"):
        pass
    assert list(out.parent.iterdir()) == []


def test_at_no_time_do_two_hold_a_directory(tmp_path: Path) -> None:
    inside, most, times, count = 0, 0, 0, Lock()

    def try_often(_: int) -> None:
        nonlocal inside, most, times
        for _ in range(300):
            with suppress(UserError), held(tmp_path / "out"):
                with count:
                    inside, times = inside + 1, times + 1
                    most = max(most, inside)
                with count:
                    inside -= 1

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(try_often, range(8)))
    assert times > 8
    assert most == 1


def test_an_artifact_of_another_contract_is_never_replaced(make) -> None:
    out = make("out", contract=FEATURES)
    before = (out / "manifest.json").read_bytes()
    for overwrite in (False, True):
        with (
            pytest.raises(UserError, match=r"holds features/1 .*, which tokens shall not replace"),
            new_artifact(out, TOKENS, overwrite=overwrite),
        ):
            raise AssertionError
    assert (out / "manifest.json").read_bytes() == before


def test_what_is_read_is_never_replaced_nor_what_holds_it_or_lies_in_it(make, tmp_path) -> None:
    out = make("out")
    (tmp_path / "link").symlink_to(out)
    for read, message in (
        (out, "out is an input of this very command; choose another path"),
        (tmp_path / "link", "out is an input of this very command"),
        (out / "train" / "0.parquet", "out holds the input .*0.parquet; choose another path"),
        (tmp_path, "out lies inside the input .*; choose a path outside of it"),
    ):
        with pytest.raises(UserError, match=message):
            refuse_existing(out, TOKENS, overwrite=True, inputs=[read])
    refuse_inputs(out, [tmp_path / "outer", tmp_path / "ou"])
