import dataclasses

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ehr_models.tokens import BOS, STATIC, open_tokens, read_split
from ehr_tracking.contracts import TOKENS, ContractError
from ehr_tracking.manifest import seal


def test_shards_become_flat_arrays_in_order(tokens_dir):
    opened = open_tokens(tokens_dir)
    assert opened.splits == ("train", "tuning")
    assert opened.vocab_size == 90
    split = read_split(opened, "train")
    rows = [
        row
        for shard in ("0", "1")
        for row in pq.read_table(tokens_dir / "train" / f"{shard}.parquet").to_pylist()
    ]
    assert split.subject_id.tolist() == [1, 2, 3, 4, 5] == [r["subject_id"] for r in rows]
    for i, row in enumerate(rows):
        part = slice(split.offsets[i], split.offsets[i + 1])
        assert split.token[part].tolist() == row["token"]
        assert split.token[part][0] == BOS
        assert split.time[part][0] == STATIC
        real = [np.datetime64(t, "us").astype(np.int64) for t in row["time"][1:]]
        assert split.time[part][1:].tolist() == real
        assert split.age[part].tolist() == row["age"]
        assert split.visit[part].tolist() == row["visit"]
        assert split.segment[part].tolist() == row["segment"]
    assert len(split.token) == split.offsets[-1]


def test_a_scheme_without_segments_has_zeros(tokens_dir):
    path = tokens_dir / "tuning" / "0.parquet"
    pq.write_table(pq.read_table(path).drop_columns("segment"), path)
    seal(tokens_dir, TOKENS, producer="test 0", config={})
    split = read_split(open_tokens(tokens_dir), "tuning")
    assert split.segment.tolist() == [0] * len(split.token)


def test_large_ids_keep_their_type(tokens_dir):
    path = tokens_dir / "tuning" / "0.parquet"
    table = pq.read_table(path)
    wide = table["token"].cast(pa.list_(pa.uint32()))
    pq.write_table(table.set_column(table.schema.get_field_index("token"), "token", wide), path)
    seal(tokens_dir, TOKENS, producer="test 0", config={})
    assert read_split(open_tokens(tokens_dir), "tuning").token.dtype == np.uint32


def test_a_changed_shard_is_refused(tokens_dir):
    path = tokens_dir / "train" / "1.parquet"
    path.write_bytes(path.read_bytes()[:-1] + b"X")
    with pytest.raises(ContractError, match=r"train/1\.parquet was changed"):
        read_split(open_tokens(tokens_dir), "train")


def test_a_truncated_shard_is_refused(tokens_dir):
    path = tokens_dir / "train" / "0.parquet"
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(ContractError, match=r"train/0\.parquet was changed: 50 bytes"):
        read_split(open_tokens(tokens_dir), "train")


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
        read_split(open_tokens(tokens_dir), "held_out")


def test_a_wrong_column_type_is_named(tokens_dir):
    path = tokens_dir / "tuning" / "0.parquet"
    table = pq.read_table(path)
    wrong = table["age"].cast(pa.list_(pa.float64()))
    pq.write_table(table.set_column(table.schema.get_field_index("age"), "age", wrong), path)
    seal(tokens_dir, TOKENS, producer="test 0", config={})
    with pytest.raises(ContractError, match="column age is list<element: double>"):
        read_split(open_tokens(tokens_dir), "tuning")
