"""One Hypothesis profile for the workspace, the place of real data, and the place of what tests write."""

import os
import shutil
from pathlib import Path

import pytest
from hypothesis import settings

# torch's lazy imports make per-example deadlines flaky
settings.register_profile("ehr", deadline=None, derandomize=True, max_examples=50)
settings.load_profile("ehr")

# Threads that wait for each other are slow where cores are shared with other work.
os.environ["OMP_NUM_THREADS"] = "1"

# What is written is synced to disk, and a thousand small artifacts wait for that as long as they compute.
MEMORY, ROOM = Path("/dev/shm"), 6_000_000_000
if os.access(MEMORY, os.W_OK) and shutil.disk_usage(MEMORY).free > ROOM:
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(MEMORY))

BESIDE = Path(__file__).parent.parent / "shared" / "data"
REAL_DATA = Path(os.environ.get("EHR_REAL_DATA") or BESIDE)
ABSENT = "no real data"


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real data sets, which may be missing: `$EHR_REAL_DATA` or `../shared/data`."""
    return REAL_DATA


def present(path: Path) -> Path:
    """A data set; without it the test is skipped."""
    if not path.is_dir():
        pytest.skip(f"{ABSENT} at {path}")
    return path


@pytest.fixture(scope="session")
def mimic_demo(real_data: Path) -> Path:
    """MIMIC-IV demo as MEDS."""
    return present(real_data / "meds/mimic-iv-demo")


@pytest.fixture(scope="session")
def mimic_raw(real_data: Path) -> Path:
    """MIMIC-IV demo as released: CSV."""
    return present(real_data / "mimic-iv-demo-2.2")


def pytest_itemcollected(item: pytest.Item) -> None:
    """Whatever asks for real data carries the marker, so that `-m real_data` finds all that can skip."""
    if "real_data" in getattr(item, "fixturenames", ()):
        item.add_marker("real_data")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests first: a worker takes whole files, and the last ones to begin should be short."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say in one line how much was left out for want of real data."""
    skipped = terminalreporter.stats.get("skipped", [])
    if left := sum(ABSENT in str(r.longrepr) for r in skipped):
        terminalreporter.write_line(f"{left} tests left out: {ABSENT} in {REAL_DATA}")
