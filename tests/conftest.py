import subprocess
import sysconfig
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def shell() -> Callable[..., str]:
    """Run one of our commands as a user does; return what it printed."""

    def shell(*words: object, code: int = 0) -> str:
        line = " ".join(str(w) for w in words).split()
        line[0] = str(Path(sysconfig.get_path("scripts")) / line[0])
        done = subprocess.run(line, capture_output=True, text=True, check=False, cwd=ROOT)
        said = done.stdout + done.stderr
        assert done.returncode == code, f"{' '.join(line)}\nexit code {done.returncode}\n{said}"
        return said

    return shell
