"""One Hypothesis profile for the workspace, and the place of real data."""

import os
from pathlib import Path

import pytest
from hypothesis import settings

# torch's lazy imports make per-example deadlines flaky
settings.register_profile("ehr", deadline=None, derandomize=True, max_examples=50)
settings.load_profile("ehr")


def real_data(name: str) -> Path:
    """A data set below `$EHR_REAL_DATA` or `../shared/data`; without it the test is skipped."""
    beside = Path(__file__).parent.parent / "shared" / "data"
    path = Path(os.environ.get("EHR_REAL_DATA", beside)) / name
    if not path.is_dir():
        pytest.skip(f"no real data at {path}")
    return path


@pytest.fixture(scope="session")
def mimic_demo() -> Path:
    """MIMIC-IV demo as MEDS."""
    return real_data("meds/mimic-iv-demo")


@pytest.fixture(scope="session")
def mimic_raw() -> Path:
    """MIMIC-IV demo as released: CSV."""
    return real_data("mimic-iv-demo-2.2")
