import subprocess
import sys
from pathlib import Path

import pytest

from ehr_tracking.files import write_whole

SMALL = """
import resource, sys
from pathlib import Path
from ehr_tracking.files import write_whole
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
write_whole(Path(sys.argv[1]), "x" * 5000)
"""


def test_a_file_that_cannot_be_written_whole_stays_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    write_whole(path, "before")
    done = subprocess.run(
        [sys.executable, "-c", SMALL, str(path)], capture_output=True, text=True, check=False
    )
    assert "File too large" in done.stderr
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [tmp_path / "page.html"]


def test_a_folder_is_not_replaced_and_nothing_is_left_beside_it(tmp_path: Path) -> None:
    (tmp_path / "page.html").mkdir()
    with pytest.raises(IsADirectoryError):
        write_whole(tmp_path / "page.html", "x")
    with pytest.raises(FileNotFoundError):
        write_whole(tmp_path / "none" / "page.html", "x")
    assert list(tmp_path.iterdir()) == [tmp_path / "page.html"]
