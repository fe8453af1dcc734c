import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ehr_tracking.checkpoints import CheckpointStore, reading, resolve
from ehr_tracking.contracts import CHECKPOINT, RUN, TOKENS, ContractError
from ehr_tracking.manifest import seal, verify


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


def test_milestones_are_kept_for_good(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path / "c", keep=1, keep_every=4)
    for step in range(1, 11):
        save(store, step, float(step))
    kept = [f"step-{n:08d}" for n in (1, 4, 8, 10)]  # the best, two milestones, the newest
    assert names(store) == ["pointers.json", *kept]
    store.forget(["step-00000008"])
    assert store.fall_back() is None
    assert store.latest() == store.directory / "step-00000010"


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


def three(tmp_path: Path) -> CheckpointStore:
    store = CheckpointStore(tmp_path / "c", keep=3)
    for step, score in [(1, 1.0), (2, 2.0), (3, 0.5)]:
        save(store, step, score)
    return store


def test_nothing_is_passed_over_where_the_latest_is_whole(tmp_path: Path) -> None:
    store = three(tmp_path)
    before = (store.directory / "pointers.json").read_bytes()
    assert store.fall_back() is None
    assert (store.directory / "pointers.json").read_bytes() == before
    assert CheckpointStore(tmp_path / "none").fall_back() is None


def cut(checkpoint: Path) -> None:
    (checkpoint / "model").write_text("")


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (cut, r"step-00000003/model was changed: 0 bytes, sealed with 1"),
        (lambda c: (c / "model").write_text("x"), "model was changed: its SHA-256 differs"),
        (lambda c: (c / "model").unlink(), r"step-00000003/model is missing"),
        (lambda c: (c / "manifest.json").unlink(), r"step-00000003 has no manifest\.json"),
        (lambda c: (c / "manifest.json").write_text("{"), r"manifest\.json is damaged"),
        (lambda c: c.rename(c.with_name("moved")), r"step-00000003: no such directory"),
    ],
)
def test_the_newest_whole_one_becomes_the_latest(tmp_path: Path, harm, said: str) -> None:
    store = three(tmp_path)
    harm(store.directory / "step-00000003")
    line = store.fall_back()
    assert line is not None
    assert "\n" not in line
    assert line.startswith("going on from step-00000002: ")
    assert re.search(said, line)
    assert store.latest() == store.directory / "step-00000002"
    assert store.best() == store.directory / "step-00000001"  # what came later no longer counts
    assert store.fall_back() is None
    save(store, 3, 3.0)
    assert store.latest() == store.directory / "step-00000003"
    assert store.fall_back() is None


def test_every_one_that_is_passed_over_is_told(tmp_path: Path) -> None:
    store = three(tmp_path)
    for step in (2, 3):
        cut(store.directory / f"step-0000000{step}")
    line = store.fall_back()
    assert line is not None
    assert line.startswith("going on from step-00000001: ")
    assert line.index("step-00000003/model") < line.index("step-00000002/model")
    cut(store.directory / "step-00000001")
    with pytest.raises(ContractError, match=r"no checkpoint in .* is whole: .*step-00000001/model"):
        store.fall_back()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"scores": 3}', '{"latest": 7, "scores": {}}'])
def test_damaged_pointers_are_named_and_resuming_does_without(tmp_path: Path, text: str) -> None:
    store = three(tmp_path)
    (store.directory / "pointers.json").write_text(text)
    for ask in (store.latest, store.best):
        with pytest.raises(ContractError, match=r"pointers\.json is damaged; name a checkpoint"):
            ask()
    line = store.fall_back()
    assert line is not None
    assert re.search(r"going on from step-00000003: .*pointers\.json is damaged", line)
    assert store.latest() == store.directory / "step-00000003"
    assert store.best() is None


def test_checkpoints_whose_pointers_are_gone_are_found(tmp_path: Path) -> None:
    store = three(tmp_path)
    (store.directory / "pointers.json").unlink()
    assert re.search(r"from step-00000003: .*pointers\.json is missing", store.fall_back() or "")
    assert store.latest() == store.directory / "step-00000003"


def test_a_checkpoint_after_the_latest_does_not_count(tmp_path: Path) -> None:
    store = three(tmp_path)
    late = store.directory / "step-00000004"  # renamed, then killed before the pointers moved
    shutil.copytree(store.directory / "step-00000003", late)
    assert store.fall_back() is None
    cut(store.directory / "step-00000003")
    assert "going on from step-00000002" in (store.fall_back() or "")
    (tmp_path / "d" / "step-00000001").mkdir(parents=True)  # the same, of the very first one
    (tmp_path / "d" / "pointers.json").write_text('{"latest": null, "best": null, "scores": {}}')
    assert CheckpointStore(tmp_path / "d").fall_back() is None


def test_a_checkpoint_that_is_read_stays_until_the_first_save_after(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path / "checkpoints", keep=1)

    save(store, 1, None)
    with reading(tmp_path) as found:
        save(store, 2, None)
        save(store, 3, None)
        assert verify(found) == []
        assert sorted(p.name[-1] for p in store.directory.glob("step-*")) == ["1", "3"]
    save(store, 4, None)
    assert [p.name[-1] for p in store.directory.glob("step-*")] == ["4"]


def test_whoever_reads_a_run_that_still_trains_finds_a_whole_checkpoint(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path / "checkpoints", keep=1)

    save(store, 1, None)
    seen = set()
    with ThreadPoolExecutor(1) as pool:
        trains = pool.submit(lambda: [save(store, step, None) for step in range(2, 60)])
        while not trains.done():
            with reading(tmp_path) as found:
                assert verify(found) == []
                seen.add(int((found / "model").read_text()))
        trains.result()
    assert len(seen) > 3


def test_pointers_to_a_checkpoint_that_is_gone_are_one_line(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path / "checkpoints", keep=1)
    save(store, 1, None)
    shutil.rmtree(store.directory / "step-00000001")
    with (
        pytest.raises(ContractError, match="step-00000001 is gone; name another"),
        reading(tmp_path),
    ):
        raise AssertionError


def test_scores_of_lost_pointers_are_read_from_the_checkpoints(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path / "c", keep=3)
    for step, loss in ((1, 2.0), (2, 1.0), (3, 3.0)):
        with store.save(step, score=loss) as partial:
            (partial / "metrics.json").write_text(f'{{"val_loss": {loss}}}')
            seal(partial, CHECKPOINT, producer="p", config={})
    before = (store.directory / "pointers.json").read_text()
    (store.directory / "pointers.json").unlink()
    assert store.fall_back("val_loss")
    assert (store.directory / "pointers.json").read_text() == before
    assert store.best() == store.directory / "step-00000002"
