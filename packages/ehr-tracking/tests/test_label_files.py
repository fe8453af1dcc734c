from pathlib import Path

import pytest

from ehr_tracking.arrow.label_files import label_files, label_source
from ehr_tracking.contracts import LABELS, ContractError
from ehr_tracking.manifest import new_artifact, raw_source, seal, source


@pytest.fixture
def sealed(tmp_path: Path) -> Path:
    with new_artifact(tmp_path / "labels", LABELS) as partial:
        for task in ("a", "b"):
            (partial / task).mkdir()
            (partial / task / "labels.parquet").write_text(task)
        (partial / "tasks.json").write_text("{}")
        seal(partial, LABELS, producer="ehr-eval 0.1.0", config={})
    return tmp_path / "labels"


def files(labels: Path) -> list[Path]:
    return label_files(labels, reader="ehr-train 0.1.0")


def refuse(labels: Path, message: str) -> None:
    with pytest.raises(ContractError, match=message) as error:
        files(labels)
    assert "\n" not in str(error.value)


def test_sealed_labels_are_found_as_a_whole_by_task_and_by_file(sealed, monkeypatch) -> None:
    assert files(sealed) == [sealed / "a/labels.parquet", sealed / "b/labels.parquet"]
    assert files(sealed / "b") == [sealed / "b/labels.parquet"]
    assert files(sealed / "b/labels.parquet") == [sealed / "b/labels.parquet"]
    monkeypatch.chdir(sealed)
    assert files(Path()) == [Path("a/labels.parquet"), Path("b/labels.parquet")]
    assert files(Path("b")) == [Path("b/labels.parquet")]
    assert files(Path("b/labels.parquet")) == [Path("b/labels.parquet")]


def test_what_differs_from_the_seal_is_refused_wherever_it_would_be_read(sealed) -> None:
    changed = sealed / "b/labels.parquet"
    changed.write_text("c")
    for labels in (sealed, sealed / "b", changed):
        refuse(labels, r"b/labels\.parquet was changed: its SHA-256 differs; write the artifact")
    assert files(sealed / "a") == [sealed / "a/labels.parquet"]
    changed.unlink()
    for labels in (sealed, sealed / "b"):
        refuse(labels, r"b/labels\.parquet is missing")
    changed.write_text("b")
    (sealed / "b/more.parquet").write_text("b")
    for labels in (sealed, sealed / "b"):
        refuse(labels, r"b/more\.parquet is not in the manifest")


def test_labels_without_a_manifest_are_read_wherever_they_lie(make, sealed, tmp_path) -> None:
    refuse(make("tokens"), r"holds tokens/1 .*, but ehr-train 0\.1\.0 reads labels/1")
    for own in (tmp_path / "own/a", tmp_path / "tokens/a", sealed.parent / "c"):
        own.mkdir(parents=True)
        (own / "0.parquet").write_text("0")
        assert files(own) == [own / "0.parquet"]
        assert label_source(own) == raw_source(own, contract="meds-labels/0.4")


def test_a_task_is_traced_to_the_artifact_it_belongs_to(sealed) -> None:
    for labels in (sealed, sealed / "a", sealed / "a/labels.parquet"):
        assert label_source(labels) == source(sealed)
