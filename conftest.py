"""One Hypothesis profile for the workspace, and the place of real data."""

import os
from pathlib import Path

import pytest
from hypothesis import settings

# torch's lazy imports make per-example deadlines flaky
settings.register_profile("ehr", deadline=None, derandomize=True, max_examples=50)
settings.load_profile("ehr")


@pytest.fixture(scope="session")
def mimic_demo() -> Path:
    """MIMIC-IV demo as MEDS: `$EHR_REAL_DATA` or `../shared/data`, else the test is skipped."""
    beside = Path(__file__).parent.parent / "shared" / "data"
    path = Path(os.environ.get("EHR_REAL_DATA", beside)) / "meds" / "mimic-iv-demo"
    if not path.is_dir():
        pytest.skip(f"no real data at {path}")
    return path
