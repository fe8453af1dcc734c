import dataclasses

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ehr_models.data.store import open_split
from ehr_models.data.tokens import STATIC, open_tokens
from ehr_tracking.contracts import BOS_ID, TOKENS, ContractError
from ehr_tracking.manifest import seal


def test_shards_become_flat_arrays_in_order(tokens_dir):
    opened = open_tokens(tokens_dir)
    assert opened.splits == ("train", "tuning")
    assert opened.vocab_size == 90
    split = open_split(opened, "train")
    rows = [
        row
        for shard in ("0", "1")
        for row in pq.read_table(tokens_dir / "train" / f"{shard}.parquet").to_pylist()
    ]
    assert split.subject_id.tolist() == [1, 2, 3, 4, 5] == [r["subject_id"] for r in rows]
    for i, row in enumerate(rows):
        part = slice(split.offsets[i], split.offsets[i + 1])
        assert split.token[part].tolist() == row["token"]
        assert split.token[part][0] == BOS_ID
        assert split.time[part][0] == STATIC
        real = [np.datetime64(t, "us").astype(np.int64) for t in row["time"][1:]]
        assert split.time[part][1:].tolist() == real
        assert split.age[part].tolist() == row["age"]
        assert split.visit[part].tolist() == row["visit"]
        assert split.segment[part].tolist() == row["segment"]
        assert split.prefix[i] == 1
    assert len(split.token) == split.offsets[-1]


def test_a_scheme_without_segments_has_zeros(tokens_dir):
    path = tokens_dir / "tuning" / "0.parquet"
    pq.write_table(pq.read_table(path).drop_columns("segment"), path)
    seal(tokens_dir, TOKENS, producer="test 0", config={})
    split = open_split(open_tokens(tokens_dir), "tuning")
    assert split.segment.tolist() == [0] * len(split.token)


def test_large_ids_keep_their_type(tokens_dir):
    path = tokens_dir / "tuning" / "0.parquet"
    table = pq.read_table(path)
    wide = table["token"].cast(pa.list_(pa.uint32()))
    pq.write_table(table.set_column(table.schema.get_field_index("token"), "token", wide), path)
    seal(tokens_dir, TOKENS, producer="test 0", config={})
    assert open_split(open_tokens(tokens_dir), "tuning").token.dtype == np.uint32


def test_whatever_was_changed_beside_the_shards_is_refused(tokens_dir):
    for name in ("coverage.json", "note.txt"):
        (tokens_dir / name).write_text("{}\n")
    seal(tokens_dir, TOKENS, producer="test 0", config={})
    open_tokens(tokens_dir)
    for name in ("coverage.json", "note.txt", "vocab.parquet"):
        path = tokens_dir / name
        whole = path.read_bytes()
        path.write_bytes(whole[:-1] + b"X")
        with pytest.raises(ContractError, match=rf"{name} was changed"):
            open_tokens(tokens_dir)
        path.unlink()
        with pytest.raises(ContractError, match=rf"{name} is missing"):
            open_tokens(tokens_dir)
        path.write_bytes(whole)
    open_tokens(tokens_dir)


def test_a_changed_shard_is_refused(tokens_dir):
    path = tokens_dir / "train" / "1.parquet"
    path.write_bytes(path.read_bytes()[:-1] + b"X")
    with pytest.raises(ContractError, match=r"train/1\.parquet was changed"):
        open_split(open_tokens(tokens_dir), "train")


def test_a_truncated_shard_is_refused(tokens_dir):
    path = tokens_dir / "train" / "0.parquet"
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(ContractError, match=r"train/0\.parquet was changed: 50 bytes"):
        open_split(open_tokens(tokens_dir), "train")


def test_a_changed_vocabulary_is_refused(tokens_dir):
    (tokens_dir / "vocab.parquet").write_bytes(b"")
    with pytest.raises(ContractError, match=r"vocab\.parquet was changed"):
        open_tokens(tokens_dir)


def test_a_newer_contract_is_refused(make_tokens, tmp_path):
    newer = make_tokens(tmp_path / "t", contract=dataclasses.replace(TOKENS, version=2))
    with pytest.raises(ContractError, match=r"holds tokens/2 .* reads tokens/1"):
        open_tokens(newer)


def test_an_unfinished_directory_is_refused(tokens_dir):
    (tokens_dir / "manifest.json").unlink()
    with pytest.raises(ContractError, match="unfinished"):
        open_tokens(tokens_dir)


def test_a_missing_split_is_named(tokens_dir):
    with pytest.raises(ContractError, match="has no split held_out; it has train, tuning"):
        open_split(open_tokens(tokens_dir), "held_out")


def test_a_wrong_column_type_is_named(tokens_dir):
    path = tokens_dir / "tuning" / "0.parquet"
    table = pq.read_table(path)
    wrong = table["age"].cast(pa.list_(pa.float64()))
    pq.write_table(table.set_column(table.schema.get_field_index("age"), "age", wrong), path)
    seal(tokens_dir, TOKENS, producer="test 0", config={})
    with pytest.raises(ContractError, match="column age is list<element: double>"):
        open_split(open_tokens(tokens_dir), "tuning")


@pytest.mark.parametrize(
    ("column", "change", "message"),
    [
        (
            "token",
            lambda rows: rows[0].__setitem__(1, 90),
            "token id 90, but the vocabulary has 90",
        ),
        ("age", lambda rows: rows[1].pop(), "column age is not as long as token"),
        ("age", lambda rows: rows[1].__setitem__(1, None), "column age holds a null"),
        ("visit", lambda rows: rows.__setitem__(1, None), "subject 7: column visit is null"),
        ("time", lambda rows: rows[0].reverse(), "the times of subject 6 go back"),
    ],
)
def test_rows_that_break_the_contract_are_named(make_tokens, tmp_path, column, change, message):
    tokens_dir = make_tokens(tmp_path / "tokens", {"train": [5], "tuning": [3]})
    path = tokens_dir / "tuning" / "0.parquet"
    table = pq.read_table(path)
    rows = table[column].to_pylist()
    change(rows)
    at = table.schema.get_field_index(column)
    table = table.set_column(at, column, pa.array(rows, table.schema.field(column).type))
    pq.write_table(table, path)
    seal(tokens_dir, TOKENS, producer="test 0", config={})
    with pytest.raises(ContractError, match=message) as e:
        open_split(open_tokens(tokens_dir), "tuning")
    assert "tuning/0.parquet" in str(e.value)
