"""A run that was killed, and the one after it: same bytes, and no finished shard written twice."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ehr_tokenize.build.build import Summary, tokenize
from ehr_tokenize.config import NumericConfig, ShardConfig, TokenizeConfig
from ehr_tracking.errors import UserError

SUBJECTS = 250
ONE_EACH = TokenizeConfig(shard=ShardConfig(subjects=1))
COMMAND = [str(Path(sys.executable).parent / "ehr-tokenize"), "-s", "shard.subjects=1"]


@pytest.fixture
def meds(write_meds: Callable, cohort: Callable) -> Path:
    return write_meds([row for rows in cohort(SUBJECTS) for row in rows])


def unfinished(out: Path) -> list[Path]:
    return [p for p in out.parent.iterdir() if p.match(f".{out.name}.*.partial")]


def interrupt(meds: Path, out: Path, how: signal.Signals, after: int = 20) -> Path:
    """Start the command, stop it when it has finished some shards; what it leaves."""
    process = subprocess.Popen([*COMMAND, "--meds", meds, "--out", out], stderr=subprocess.DEVNULL)
    while process.poll() is None:
        notes = [n for d in unfinished(out) for n in d.glob(".finished/*.json")]
        if len(notes) >= after:
            process.send_signal(how)
            break
        time.sleep(0.002)
    assert process.wait() != 0, "it ended before it was stopped"
    assert not out.exists()
    (left,) = unfinished(out)
    return left


def shards(directory: Path) -> dict[str, tuple[int, int]]:
    """Inode and time of change of every shard: either tells whether it was written again."""
    found = sorted(directory.glob("*/*.parquet"))
    return {
        p.relative_to(directory).as_posix(): (p.stat().st_ino, p.stat().st_mtime_ns) for p in found
    }


def contents(directory: Path) -> dict[str, bytes]:
    files = [p for p in directory.rglob("*") if p.is_file()]
    return {p.relative_to(directory).as_posix(): p.read_bytes() for p in files}


def finished(left: Path) -> set[str]:
    """Names of the shards that were noted as finished."""
    notes = left.glob(".finished/*.json")
    return {n.name.removesuffix(".json").replace("-", "/", 1) for n in notes}


@pytest.fixture
def whole(meds: Path, tmp_path: Path) -> dict[str, bytes]:
    """What a run writes that nothing stops."""
    tokenize(meds, tmp_path / "whole", ONE_EACH)
    return contents(tmp_path / "whole")


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_the_next_run_keeps_finished_shards_and_gives_the_same_bytes(
    meds: Path, whole: dict[str, bytes], tmp_path: Path, how: signal.Signals
) -> None:
    out = tmp_path / "tokens"
    left = interrupt(meds, out, how)
    done = finished(left)
    before = {name: at for name, at in shards(left).items() if name in done}
    assert 20 <= len(before) < SUBJECTS
    summary = tokenize(meds, out, ONE_EACH, workers=2)
    assert summary.kept == len(before)
    assert f"kept {len(before):,} shards of an interrupted run" in summary.lines()
    assert {name: shards(out)[name] for name in before} == before
    assert contents(out) == whole
    assert unfinished(out) == []


def test_it_goes_on_from_a_second_kill_as_well(
    meds: Path, whole: dict[str, bytes], tmp_path: Path
) -> None:
    out = tmp_path / "tokens"
    first = finished(interrupt(meds, out, signal.SIGKILL, after=10))
    second = finished(interrupt(meds, out, signal.SIGKILL, after=len(first) + 30))
    assert first < second
    assert tokenize(meds, out, ONE_EACH).kept == len(second)
    assert contents(out) == whole


def _other_config(meds: Path, out: Path) -> Summary:
    config = TokenizeConfig(shard=ShardConfig(subjects=1), numeric=NumericConfig(n_bins=3))
    return tokenize(meds, out, config)


def _other_data(meds: Path, out: Path) -> Summary:
    import polars as pl

    path = next((meds / "data").glob("*.parquet"))
    frame = pl.read_parquet(path)
    frame.with_columns(code=pl.col("code").replace("ICD//0", "ICD//new")).write_parquet(path)
    return tokenize(meds, out, ONE_EACH)


def _other_codes(meds: Path, out: Path) -> Summary:
    (meds / "metadata" / "codes.parquet").unlink(missing_ok=True)
    return tokenize(meds, out, ONE_EACH)


@pytest.mark.parametrize("other", [_other_config, _other_data, _other_codes])
def test_nothing_is_kept_where_config_or_data_changed(
    meds: Path, tmp_path: Path, other: Callable[[Path, Path], Summary]
) -> None:
    out = tmp_path / "tokens"
    interrupt(meds, out, signal.SIGKILL)
    assert other(meds, out).kept == 0
    assert unfinished(out) == []
    fresh = tmp_path / "fresh"
    other(meds, fresh)
    assert contents(out) == contents(fresh)


def test_what_the_machine_lost_is_written_again(
    meds: Path, whole: dict[str, bytes], tmp_path: Path
) -> None:
    out = tmp_path / "tokens"
    left = interrupt(meds, out, signal.SIGKILL)
    torn, gone, blank, unread = sorted(finished(left))[:4]
    (left / torn).write_bytes((left / torn).read_bytes()[:100])
    (left / gone).unlink()
    (left / blank).write_bytes(bytes((left / blank).stat().st_size))
    (left / ".finished" / f"{unread.replace('/', '-')}.json").write_bytes(b'{"crc32": 1')
    (left / "tokenizer.json").write_bytes(b"")
    kept = len(finished(left)) - 4
    assert tokenize(meds, out, ONE_EACH).kept == kept
    assert contents(out) == whole


def test_a_damaged_file_in_between_loses_nothing(meds: Path, tmp_path: Path) -> None:
    out = tmp_path / "tokens"
    done = finished(interrupt(meds, out, signal.SIGKILL))
    (meds / "data" / "1.parquet").write_bytes(b"PAR1")
    with pytest.raises(UserError, match=r"1\.parquet"):
        tokenize(meds, out, ONE_EACH)
    assert not out.exists()
    (meds / "data" / "1.parquet").unlink()
    assert tokenize(meds, out, ONE_EACH).kept == len(done)


def test_a_given_tokenizer_is_kept_to(meds: Path, tmp_path: Path) -> None:
    fitted, out = tmp_path / "fitted", tmp_path / "tokens"
    tokenize(meds, fitted, ONE_EACH)
    process = subprocess.Popen(
        [*COMMAND, "--meds", meds, "--out", out, "--tokenizer", fitted], stderr=subprocess.DEVNULL
    )
    while len([n for d in unfinished(out) for n in d.glob(".finished/*.json")]) < 20:
        assert process.poll() is None, "it ended before it was stopped"
        time.sleep(0.002)
    process.kill()
    process.wait()
    assert tokenize(meds, out, ONE_EACH, tokenizer=fitted).kept >= 20
    for path in fitted.glob("*/*.parquet"):
        assert (out / path.relative_to(fitted)).read_bytes() == path.read_bytes()


def test_a_run_beside_is_told_by_its_own_name(meds: Path, tmp_path: Path) -> None:
    """`tokens` must not take what is left of `tokens.0123` for its own."""
    other = tmp_path / f".tokens.{'0' * 16}.more.partial"
    other.mkdir()
    tokenize(meds, tmp_path / "tokens", ONE_EACH)
    assert other.is_dir()
    assert list(other.iterdir()) == []
