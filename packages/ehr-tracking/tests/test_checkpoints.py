from pathlib import Path

import pytest

from ehr_tracking.checkpoints import CheckpointStore, resolve
from ehr_tracking.contracts import CHECKPOINT, RUN, TOKENS, ContractError
from ehr_tracking.manifest import seal


def save(store: CheckpointStore, step: int, score: float | None) -> None:
    with store.save(step, score=score) as partial:
        (partial / "model").write_text(str(step))
        seal(partial, CHECKPOINT, producer="p", config={})


def names(store: CheckpointStore) -> list[str]:
    return sorted(p.name for p in store.directory.iterdir())


def test_the_newest_and_the_best_are_kept(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path / "c", keep=2)
    for step, score in [(1, 3.0), (2, 1.0), (3, 2.0), (4, 2.5), (5, None)]:
        save(store, step, score)
    assert names(store) == ["pointers.json", "step-00000002", "step-00000004", "step-00000005"]
    assert store.latest() == store.directory / "step-00000005"
    assert store.best() == store.directory / "step-00000002"


def test_with_max_the_highest_score_is_best_and_nan_never(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path / "c", mode="max", keep=1)
    for step, score in [(1, 0.6), (2, 0.9), (3, float("nan")), (4, 0.7)]:
        save(store, step, score)
    assert store.best() == store.directory / "step-00000002"


def test_a_failed_save_changes_nothing(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path / "c")
    save(store, 1, 1.0)
    with pytest.raises(ZeroDivisionError), store.save(2, score=0.5):
        raise ZeroDivisionError
    assert names(store) == ["pointers.json", "step-00000001"]
    assert store.latest() == store.directory / "step-00000001"


def test_a_redone_step_replaces_what_the_killed_run_left(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path / "c")
    save(store, 1, 1.0)
    (store.directory / "step-00000002").mkdir()  # renamed, then killed before the pointers moved
    assert store.latest() == store.directory / "step-00000001"
    save(store, 2, 0.5)
    assert (store.directory / "step-00000002" / "model").read_text() == "2"


def test_a_path_means_itself_or_a_runs_best_or_its_latest(tmp_path: Path) -> None:
    run = tmp_path / "run"
    store = CheckpointStore(run / "checkpoints")
    save(store, 1, None)
    assert resolve(run) == store.directory / "step-00000001"
    save(store, 2, 1.0)
    save(store, 3, 2.0)
    assert resolve(run) == store.directory / "step-00000002"
    assert resolve(store.directory / "step-00000003") == store.directory / "step-00000003"


def test_what_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    for name, contract, said in [
        ("tokens", TOKENS, "not a checkpoint or a run"),
        ("run", RUN, "a run without a checkpoint"),
    ]:
        (tmp_path / name).mkdir()
        seal(tmp_path / name, contract, producer="p", config={})
        with pytest.raises(ContractError, match=said):
            resolve(tmp_path / name)
    with pytest.raises(ContractError, match="no such directory"):
        resolve(tmp_path / "nowhere")


def test_at_least_one_is_kept(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="keep = 0"):
        CheckpointStore(tmp_path, keep=0)
