"""Files below a directory: through links, without going round, without what other tools leave."""

from pathlib import Path

import pytest

from ehr_tracking.contracts import MEDS
from ehr_tracking.errors import UserError
from ehr_tracking.lineage import find_artifacts
from ehr_tracking.manifest import raw_source, verify
from ehr_tracking.tree import entries, files_below, walk


def write(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    return root


def below(root: Path) -> list[str]:
    return [p.relative_to(root).as_posix() for p in files_below(root, ".parquet")]


def test_files_below_linked_folders_are_found_at_their_place_in_the_order(tmp_path) -> None:
    whole = write(tmp_path / "whole", "a/0.parquet", "b/c/1.parquet", "b/0.parquet", "b.parquet")
    linked = write(tmp_path / "linked", "a/0.parquet", "b.parquet")
    write(tmp_path / "disk", "b/c/1.parquet", "b/0.parquet")
    (linked / "b").symlink_to("../disk/b")
    assert below(linked) == below(whole)
    assert below(whole) == ["a/0.parquet", "b/0.parquet", "b/c/1.parquet", "b.parquet"]


def test_links_back_are_not_followed_in_circles(tmp_path) -> None:
    root = write(tmp_path / "root", "a/0.parquet", "b/0.parquet")
    (root / "a" / "up").symlink_to(root)
    (root / "a" / "self").symlink_to(".")
    (root / "b" / "a").symlink_to("../a")
    assert below(root) == ["a/0.parquet", "b/0.parquet", "b/a/0.parquet"]
    assert sum(1 for _ in walk(root)) == 4


def test_a_link_that_leads_nowhere_is_refused_in_one_line(tmp_path) -> None:
    root = write(tmp_path, "train/0.parquet")
    (root / "held_out").symlink_to("/other/disk")
    for read in (files_below, entries):
        with pytest.raises(
            UserError, match="held_out is a link to /other/disk, which is not there"
        ):
            read(root)


def test_hidden_and_foreign_names_are_left_out_with_one_line(tmp_path, capsys) -> None:
    names = (
        ".ipynb_checkpoints/0.parquet",
        "a/._0.parquet",
        "a/_temporary/1.parquet",
        "a/_SUCCESS",
    )
    root = write(tmp_path, "a/0.parquet", *names)
    assert below(root) == below(root) == ["a/0.parquet"]
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    for name in (".ipynb_checkpoints", "a/._0.parquet", "a/_temporary", "a/_SUCCESS"):
        assert name in said


def test_a_raw_data_set_has_one_fingerprint_through_links_and_beside_strays(tmp_path) -> None:
    plain = write(tmp_path / "plain", "data/train/0.parquet", "metadata/codes.parquet")
    linked = write(tmp_path / "linked", "metadata/codes.parquet", "data/._x", ".cache/x")
    (linked / "data" / "train").symlink_to(plain / "data" / "train")
    assert raw_source(plain, contract=MEDS) == raw_source(linked, contract=MEDS)


def test_artifacts_below_links_are_found_once_and_verified(make, tmp_path) -> None:
    made = make("tokens")
    root = tmp_path / "root"
    root.mkdir()
    (root / "tokens").symlink_to(made)
    (root / "up").symlink_to(root)
    assert find_artifacts(root) == [root / "tokens"]
    assert verify(root / "tokens") == []
