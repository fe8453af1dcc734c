import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ehr_models.vocabulary import read_vocabulary
from ehr_tracking.contracts import ContractError

SCHEMA = pa.schema(
    {
        "id": pa.int32(),
        "token": pa.string(),
        "kind": pa.string(),
        "code": pa.string(),
        "bin": pa.int32(),
        "lower": pa.float32(),
        "upper": pa.float32(),
        "count": pa.int64(),
        "subjects": pa.int64(),
        "description": pa.string(),
        "parents": pa.list_(pa.string()),
        "seconds": pa.float64(),
        "starts_visit": pa.bool_(),
    }
)
ROWS = [
    {"id": 0, "token": "[PAD]", "kind": "special", "count": 0, "subjects": 0},
    {
        **{"id": 1, "token": "LAB//1|2", "kind": "value", "code": "LAB//1", "bin": 2},
        **{"lower": 0.5, "upper": 2.0, "count": 9, "subjects": 3},
        **{"description": "a lab", "parents": ["LAB", "ALL"]},
    },
    {"id": 2, "token": "[1d]", "kind": "time", "count": 4, "subjects": 2, "seconds": 90_000.5},
    {
        **{"id": 3, "token": "ADM", "kind": "code", "code": "ADM", "count": 7, "subjects": 7},
        "starts_visit": True,
    },
]


def write(directory, rows=ROWS, schema=SCHEMA):
    pq.write_table(pa.Table.from_pylist(rows, schema), directory / "vocab.parquet")
    return directory


def test_rows_become_words_in_order(tmp_path):
    words = read_vocabulary(write(tmp_path))
    assert [(w.id, w.token, w.kind) for w in words] == [
        (0, "[PAD]", "special"),
        (1, "LAB//1|2", "value"),
        (2, "[1d]", "time"),
        (3, "ADM", "code"),
    ]
    assert (words[1].code, words[1].bin, words[1].lower, words[1].upper) == ("LAB//1", 2, 0.5, 2.0)
    assert (words[1].count, words[1].subjects, words[1].description) == (9, 3, "a lab")
    assert words[1].parents == ["LAB", "ALL"]
    assert [w.seconds for w in words] == [None, None, 90_000.5, None]
    assert [w.starts_visit for w in words] == [False, False, False, True]


def test_a_vocabulary_without_the_newer_columns_is_read(tmp_path):
    words = read_vocabulary(write(tmp_path, schema=pa.schema(list(SCHEMA)[:-2])))
    assert {w.seconds for w in words} == {None}
    assert not any(w.starts_visit for w in words)


def test_what_breaks_the_contract_is_named(tmp_path):
    with pytest.raises(ContractError, match=r"vocab\.parquet cannot be read"):
        read_vocabulary(tmp_path)
    write(tmp_path, schema=pa.schema(list(SCHEMA)[1:]))
    with pytest.raises(ContractError, match=r"vocab\.parquet breaks .* column id is missing"):
        read_vocabulary(tmp_path)
    write(tmp_path, rows=[ROWS[0], ROWS[2]])
    with pytest.raises(ContractError, match="row 1: id is 2, expected 1"):
        read_vocabulary(tmp_path)
