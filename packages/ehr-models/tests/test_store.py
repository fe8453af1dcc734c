import mmap
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import load_file

from ehr_models.data.batch import pack
from ehr_models.data.cutoff import visible_tokens
from ehr_models.data.shards import list_lengths, running
from ehr_models.data.store import ColumnWriter, open_split, read_column
from ehr_models.data.tokens import STATIC, Tokens, open_tokens
from ehr_models.data.windows import newest
from ehr_tracking.contracts import SPECIALS, TOKENS, ContractError
from ehr_tracking.lineage import find_artifacts
from ehr_tracking.manifest import seal, verify


def store_of(tokens_dir):
    return tokens_dir.with_name(f".{tokens_dir.name}.store")


def test_columns_are_mapped_read_only(tokens_dir):
    mapped = open_split(open_tokens(tokens_dir), "train")
    for field in fields(Tokens):
        base = array = getattr(mapped, field.name)
        assert not array.flags.writeable
        while isinstance(base, np.ndarray):
            base = base.base
        assert isinstance(base.obj if isinstance(base, memoryview) else base, mmap.mmap)


def test_every_column_is_a_safetensors_file(tokens_dir):
    mapped = open_split(open_tokens(tokens_dir), "train")
    for path in store_of(tokens_dir).rglob("*.safetensors"):
        ((name, values),) = load_file(path).items()
        assert values.dtype == getattr(mapped, name).dtype
        np.testing.assert_array_equal(values, getattr(mapped, name))


def test_a_store_is_built_once_and_survives(tokens_dir):
    open_split(open_tokens(tokens_dir), "train")
    before = {p: p.stat().st_mtime_ns for p in store_of(tokens_dir).rglob("*.safetensors")}
    assert len(before) == 8
    # what is mapped is what was checked: the shards are not read again
    (tokens_dir / "train" / "0.parquet").unlink()
    open_split(open_tokens(tokens_dir), "train")
    assert {p: p.stat().st_mtime_ns for p in before} == before


def test_several_splits_are_one_behind_the_other(tokens_dir):
    token_set = open_tokens(tokens_dir)
    together = open_split(token_set, *token_set.splits)
    alone = [open_split(token_set, split) for split in token_set.splits]
    assert len(alone) > 1
    for field in fields(Tokens):
        parts = [getattr(one, field.name) for one in alone]
        if field.name == "offsets":
            parts = [np.zeros(1, np.int64), *(np.diff(part) for part in parts)]
        wanted = np.concatenate(parts)
        wanted = np.cumsum(wanted) if field.name == "offsets" else wanted
        np.testing.assert_array_equal(getattr(together, field.name), wanted)


def test_the_store_of_older_tokens_is_removed(tokens_dir, make_tokens):
    open_split(open_tokens(tokens_dir), "train")
    (old,) = [p for p in store_of(tokens_dir).iterdir() if p.is_dir()]
    seal(tokens_dir, TOKENS, producer="test 1", config={})
    again = open_tokens(tokens_dir)
    open_split(again, "train")
    (new,) = [p for p in store_of(tokens_dir).iterdir() if p.is_dir()]
    assert new != old
    assert again.fingerprint.startswith(new.name)


def test_what_a_killed_process_left_is_removed(tokens_dir):
    token_set = open_tokens(tokens_dir)
    left = store_of(tokens_dir) / token_set.fingerprint[:16] / ".train.x.partial"
    left.mkdir(parents=True)
    open_split(token_set, "tuning")
    assert sorted(p.name for p in left.parent.iterdir()) == ["tuning"]


def test_many_that_ask_at_once_get_one_store(tokens_dir):
    token_set = open_tokens(tokens_dir)
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(lambda _: open_split(token_set, "train"), range(6)))
    for other in found[1:]:
        np.testing.assert_array_equal(other.token, found[0].token)
    (place,) = (store_of(tokens_dir) / token_set.fingerprint[:16]).iterdir()
    assert place.name == "train"


def test_a_store_may_lie_elsewhere(tokens_dir, tmp_path, monkeypatch):
    beside = open_split(open_tokens(tokens_dir), "train")
    monkeypatch.setenv("EHR_STORE", str(tmp_path / "fast"))
    there = open_split(open_tokens(tokens_dir), "train")
    np.testing.assert_array_equal(beside.token, there.token)
    (root,) = (tmp_path / "fast").iterdir()
    assert root.name.startswith("tokens-")


def test_where_beside_is_read_only_the_users_cache_is_taken(tokens_dir, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    real = os.access
    monkeypatch.setattr(
        os, "access", lambda p, mode: "cache" in str(p) and real(p, mode)
    )  # the superuser of a container may write anywhere
    for _ in range(2):
        open_split(open_tokens(tokens_dir), "train")
    assert len(list((tmp_path / "cache").rglob("token.safetensors"))) == 1
    assert not list(store_of(tokens_dir).rglob("token.safetensors"))


def test_artifacts_are_walked_and_verified_without_their_stores(tokens_dir):
    open_split(open_tokens(tokens_dir), "train")
    assert find_artifacts(tokens_dir.parent) == [tokens_dir]
    assert verify(tokens_dir) == []
    seal(tokens_dir.parent, TOKENS, producer="test 0", config={})  # one around it
    assert verify(tokens_dir.parent) == []


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(path.read_bytes()[:-1]),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"\xff" * len(path.read_bytes())),
        lambda path: path.unlink(),
    ],
    ids=["cut", "emptied", "overwritten", "gone"],
)
def test_a_damaged_column_is_named(tokens_dir, damage):
    open_split(open_tokens(tokens_dir), "train")
    (path,) = store_of(tokens_dir).rglob("age.safetensors")
    damage(path)
    with pytest.raises(ContractError, match=r"age\.safetensors is damaged; remove .*train"):
        open_split(open_tokens(tokens_dir), "train")


def test_a_failed_build_leaves_nothing(tokens_dir):
    path = tokens_dir / "train" / "1.parquet"
    path.write_bytes(path.read_bytes()[:-1] + b"X")
    with pytest.raises(ContractError, match=r"train/1\.parquet was changed"):
        open_split(open_tokens(tokens_dir), "train")
    assert not list(store_of(tokens_dir).rglob("*.safetensors"))


def test_lengths_of_lists_add_up_beyond_32_bits():
    """Lists of nulls take no memory: two pieces of 2^31 - 1 items each."""
    most = 2**31 - 1
    piece = pa.ListArray.from_arrays(pa.array([0, 5, most], pa.int32()), pa.nulls(most))
    lengths = list_lengths(piece)
    assert lengths.tolist() == [5, most - 5]
    total = 0
    for _ in range(3):
        offsets = running(lengths, start=total)
        total = int(offsets[-1])
    assert offsets.dtype == np.int64
    assert total == 3 * most
    assert list_lengths(piece.slice(1)).tolist() == [most - 5]


def test_tokens_beyond_two_thousand_million_are_read_where_they_lie(tmp_path):
    """From sparse files: a subject of 2^32 tokens, and one of five behind it."""
    first, tail = 2**32, {"token": [5, 9, 8, 9, 7], "time": [STATIC, 1, 2, 2, 3]}
    for name, dtype in {"token": np.uint16, "time": np.int64, "age": np.float32}.items():
        with ColumnWriter(tmp_path / f"{name}.safetensors", dtype) as column:
            column.file.seek(first * column.dtype.itemsize, os.SEEK_CUR)
            column.count = first
            column.write(np.array(tail.get(name, [0] * 5)))
    token, time, age = (
        read_column(tmp_path / f"{n}.safetensors") for n in ("token", "time", "age")
    )
    offsets = np.array([0, first, first + 5])
    tokens = Tokens(np.array([1, 2]), offsets, np.array([0, 1]), token, time, age, age, age)
    visible = visible_tokens(tokens, np.array([1, 1]), np.array([2, 3]))
    assert visible.tolist() == [4, 5]
    batch = pack(tokens, newest(tokens, [1, 1], visible, 3))
    assert batch.input_ids.tolist() == [5, 8, 9, 5, 9, 7]
    assert batch.index.tolist() == [first, first + 2, first + 3, first, first + 3, first + 4]


PEAK = """
import sys
from pathlib import Path
from ehr_models.data.store import open_split
from ehr_models.data.tokens import open_tokens
open_split(open_tokens(Path(sys.argv[1])), "train")
status = Path("/proc/self/status").read_text()
print(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")))
"""


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="needs Linux")  # noqa: PTH110
def test_memory_is_flat_in_the_size_of_a_split(tmp_path):
    """Twelve million tokens instead of one (187 MB more of store): no more than an allocator's whim."""
    peaks = []
    for groups in (1, 12):
        directory = large_tokens(tmp_path / str(groups), groups)
        done = subprocess.run(
            [sys.executable, "-c", PEAK, str(directory)], check=True, capture_output=True
        )
        peaks.append(int(done.stdout) / 1024)
        size = sum(p.stat().st_size for p in store_of(directory).rglob("*.safetensors"))
        assert size > groups * 16_000_000
    assert peaks[1] - peaks[0] < 60, peaks


def large_tokens(directory, groups):
    """One shard of `groups` row groups, each of a thousand subjects of a thousand tokens."""
    directory.mkdir()
    pq.write_table(pa.table({"id": range(90)}), directory / "vocab.parquet")
    (directory / "tokenizer.json").write_text("{}")
    (directory / "train").mkdir()
    n = 1_000_000
    offsets = pa.array(np.arange(0, n + 1, 1000), pa.int32())
    columns = {
        "token": pa.array(np.arange(n) % 80 + len(SPECIALS), pa.uint16()),
        "time": pa.array(np.arange(n), pa.timestamp("us")),
        "age": pa.array(np.arange(n) // 100, pa.float32()),
        "visit": pa.array(np.zeros(n), pa.uint16()),
    }
    lists = {k: pa.ListArray.from_arrays(offsets, v) for k, v in columns.items()}
    table = pa.table({"subject_id": np.arange(1000), **lists})
    with pq.ParquetWriter(directory / "train" / "0.parquet", table.schema) as writer:
        for _ in range(groups):
            writer.write_table(table)
    seal(directory, TOKENS, producer="test 0", config={})
    return directory
