import dataclasses
import hashlib
import json
import os
from pathlib import Path

import pytest

from ehr_tracking.contracts import CHECKPOINT, TOKENS, ContractError
from ehr_tracking.errors import UnfinishedError, UserError
from ehr_tracking.manifest import (
    MANIFEST,
    check_file,
    load_manifest,
    new_artifact,
    raw_source,
    read_manifest,
    seal,
    source,
    verify,
)


def test_the_manifest_lists_every_file_with_its_sha256(make) -> None:
    manifest = load_manifest(make("tokens", text="hello"))
    file = manifest.files["train/0.parquet"]
    assert file.bytes == 5
    assert file.sha256 == "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"
    assert set(manifest.files) == {"train/0.parquet", "vocab.parquet"}


def test_the_same_work_gives_the_same_bytes_wherever_it_lies(make) -> None:
    a, b = make("a"), make("deeper/b")
    assert (a / MANIFEST).read_bytes() == (b / MANIFEST).read_bytes()


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda d: (d / "vocab.parquet").write_text("w"), "SHA-256 differs"),
        (
            lambda d: (d / "vocab.parquet").write_text("longer"),
            "was changed: 6 bytes, sealed with 1",
        ),
        (lambda d: (d / "vocab.parquet").unlink(), "is missing"),
        (lambda d: (d / "extra.txt").write_text(""), "is not in the manifest"),
    ],
)
def test_verify_names_what_was_changed(make, damage, said: str) -> None:
    tokens = make("tokens")
    assert verify(tokens) == []
    damage(tokens)
    (problem,) = verify(tokens)
    assert said in problem


def test_a_changed_file_is_refused_by_its_reader(make) -> None:
    tokens = make("tokens")
    manifest = load_manifest(tokens)
    assert check_file(tokens, manifest, "vocab.parquet").is_file()
    (tokens / "vocab.parquet").write_text("w")
    with pytest.raises(ContractError, match=r"vocab\.parquet was changed"):
        check_file(tokens, manifest, "vocab.parquet")


def test_a_newer_contract_version_is_refused_by_name(make) -> None:
    newer = dataclasses.replace(TOKENS, version=2)
    tokens = make("tokens", contract=newer)
    with pytest.raises(
        ContractError,
        match=r"holds tokens/2 \(written by ehr-tokenize 0\.1\.0\), but ehr-train 0\.1\.0 reads tokens/1",
    ):
        read_manifest(tokens, TOKENS, reader="ehr-train 0.1.0")
    assert "tokens/2 is not a contract that this version knows" in verify(tokens)[0]


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/../../x", "a\\b"])
def test_a_path_that_leaves_the_directory_is_refused(make, name: str) -> None:
    tokens = make("tokens")
    tree = json.loads((tokens / MANIFEST).read_text())
    tree["files"][name] = {"bytes": 1, "sha256": "0", "rows": None}
    (tokens / MANIFEST).write_text(json.dumps(tree))
    with pytest.raises(ContractError, match="leaves the directory"):
        load_manifest(tokens)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"contract": 3}', '{"contract":"tokens/1"}'])
def test_a_damaged_manifest_is_one_clear_line(make, text: str) -> None:
    tokens = make("tokens")
    (tokens / MANIFEST).write_text(text)
    with pytest.raises(ContractError, match="is damaged") as e:
        load_manifest(tokens)
    assert "\n" not in str(e.value)


def test_an_unfinished_directory_is_no_artifact(tmp_path: Path) -> None:
    (tmp_path / "half").mkdir()
    with pytest.raises(ContractError, match="unfinished"):
        load_manifest(tmp_path / "half")


def test_who_may_read_an_artifact_may_read_its_files(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        with new_artifact(tmp_path / "tokens", TOKENS) as directory:
            for name, mode in {"weights": 0o600, "script": 0o700, "table": 0o644}.items():
                (directory / name).touch(mode)
            seal(directory, TOKENS, producer="x 1", config={})
    finally:
        os.umask(before)
    modes = {p.name: p.stat().st_mode & 0o777 for p in (tmp_path / "tokens").iterdir()}
    assert modes == {"weights": 0o640, "script": 0o740, "table": 0o640, MANIFEST: 0o640}


def test_an_error_within_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), new_artifact(tmp_path / "out", TOKENS) as partial:
        (partial / "a").write_text("a")
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


def test_an_output_that_exists_is_only_replaced_when_asked(make) -> None:
    out = make("tokens", text="old")
    with pytest.raises(UserError, match="exists; choose another path or pass --overwrite"):
        make("tokens", text="new")
    assert (out / "train/0.parquet").read_text() == "old"
    make("tokens", text="new", overwrite=True)
    assert (out / "train/0.parquet").read_text() == "new"
    assert [p.name for p in out.parent.iterdir()] == ["tokens"]


def test_a_directory_of_the_user_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1.txt").write_text("years of work")
    with (
        pytest.raises(UserError, match="not an artifact"),
        new_artifact(tmp_path / "thesis", TOKENS, overwrite=True),
    ):
        raise AssertionError
    assert (tmp_path / "thesis" / "chapter1.txt").exists()


def test_an_artifact_inside_is_listed_by_its_manifest_and_verified_too(
    make, tmp_path: Path
) -> None:
    checkpoint = make("run/checkpoints/step-1", contract=CHECKPOINT)
    run = tmp_path / "run"
    (run / "log.txt").write_text("")
    manifest = seal(run, TOKENS, producer="p", config={})
    assert set(manifest.files) == {"log.txt", "checkpoints/step-1/manifest.json"}
    assert verify(run) == []
    (checkpoint / "vocab.parquet").write_text("w")
    assert "step-1/vocab.parquet was changed" in verify(run)[0]


def test_raw_data_is_fingerprinted_by_path_and_content(tmp_path: Path) -> None:
    (tmp_path / "d/data").mkdir(parents=True)
    (tmp_path / "d/data/0.parquet").write_text("hello")
    line = f"{hashlib.sha256(b'hello').hexdigest()}  data/0.parquet\n"
    found = raw_source(tmp_path / "d", contract="meds/0.4")
    assert found.fingerprint == hashlib.sha256(line.encode()).hexdigest()
    (tmp_path / "d/data/0.parquet").rename(tmp_path / "d/data/1.parquet")
    assert raw_source(tmp_path / "d", contract="meds/0.4") != found


def test_a_source_carries_its_own_inputs(make, tmp_path: Path) -> None:
    (tmp_path / "raw.txt").write_text("raw")
    raw = raw_source(tmp_path / "raw.txt", contract="meds/0.4")
    middle = make("middle", inputs={"meds": raw})
    last = make("last", contract=CHECKPOINT, inputs={"tokens": source(middle)})
    assert source(last).inputs["tokens"].inputs["meds"] == raw


@pytest.mark.parametrize(
    ("error", "key", "kept"),
    [
        (UnfinishedError("a cell failed"), "0123abcd", True),
        (KeyboardInterrupt(), "0123abcd", True),
        (UnfinishedError("a cell failed"), None, False),
        (UserError("wrong input"), "0123abcd", False),
    ],
)
def test_what_is_unfinished_is_kept_for_a_run_with_the_same_key(tmp_path, error, key, kept) -> None:
    out = tmp_path / "out"
    with pytest.raises(type(error)), new_artifact(out, TOKENS, key=key) as mine:
        (mine / "a").write_text("a")
        raise error
    assert not out.exists()
    with new_artifact(out, TOKENS, key=key) as again:
        assert (again / "a").exists() == kept
        seal(again, TOKENS, producer="test 1", config={})


@pytest.mark.parametrize("key", [None, "0123abcd"])
@pytest.mark.parametrize("other", [None, "0123abcd", "fedc"])
def test_two_runs_do_not_write_one_artifact(tmp_path, key: str | None, other: str | None) -> None:
    out = tmp_path / "out"
    with new_artifact(out, TOKENS, key=key) as mine:
        (mine / "a").write_text("a")
        with (
            pytest.raises(UserError, match=r"another run is writing .*out; wait for it or stop it"),
            new_artifact(out, TOKENS, key=other),
        ):
            pass
        seal(mine, TOKENS, producer="test 1", config={})
    assert (out / "a").read_text() == "a"
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
