import os
import subprocess
import sys
from pathlib import Path

import pytest

from ehr_tracking.checkpoints import CheckpointStore
from ehr_tracking.contracts import CHECKPOINT
from ehr_tracking.files import write_whole
from ehr_tracking.manifest import new_artifact, seal

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


class Disk:
    """Which files and folders were synced, in what order with the renames."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.happened: list[tuple[str, object]] = []
        fsync, rename, replace = os.fsync, os.rename, os.replace

        def synced(descriptor: int) -> None:
            fsync(descriptor)
            self.happened.append(("sync", os.fstat(descriptor).st_ino))

        def renamed(call, old, new) -> None:
            call(old, new)
            self.happened.append(("rename", os.fspath(new)))

        monkeypatch.setattr(os, "fsync", synced)
        monkeypatch.setattr(os, "rename", lambda old, new: renamed(rename, old, new))
        monkeypatch.setattr(os, "replace", lambda old, new: renamed(replace, old, new))

    def between(self, path: Path, start: int, stop: int | None = None) -> bool:
        return ("sync", path.stat().st_ino) in self.happened[start:stop]

    def renames(self, name: str) -> int:
        return max(
            i
            for i, (what, to) in enumerate(self.happened)
            if what == "rename" and str(to).endswith(name)
        )


def test_a_file_is_on_the_disk_before_it_has_its_name_and_the_name_thereafter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Disk(monkeypatch)
    write_whole(tmp_path / "a", "x")
    at = disk.renames("/a")
    assert disk.between(tmp_path / "a", 0, at)
    assert disk.between(tmp_path, at)


def test_an_artifact_is_on_the_disk_before_its_manifest_and_that_before_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Disk(monkeypatch)
    out = tmp_path / "out"
    with new_artifact(out, CHECKPOINT) as partial:
        (partial / "deep" / "er").mkdir(parents=True)
        (partial / "deep" / "er" / "x").write_text("x")
        (partial / "y").write_text("y")
        seal(partial, CHECKPOINT, producer="p", config={})
    sealed, moved = disk.renames("/manifest.json"), disk.renames("/out")
    for name in ("deep", "deep/er", "deep/er/x", "y"):
        assert disk.between(out / name, 0, sealed), name
    assert disk.between(out / "manifest.json", 0, sealed)
    assert disk.between(out, sealed, moved)
    assert disk.between(tmp_path, moved)


def test_a_checkpoint_is_on_the_disk_before_the_pointers_name_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Disk(monkeypatch)
    store = CheckpointStore(tmp_path / "c")
    with store.save(1, score=None) as partial:
        (partial / "model").write_text("1")
        seal(partial, CHECKPOINT, producer="p", config={})
    named, pointed = disk.renames("/step-00000001"), disk.renames("/pointers.json")
    assert disk.between(store.directory, named, pointed)
    assert disk.between(store.directory, pointed)
