import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ehr_tracking.arrow.labels import read_labels
from ehr_tracking.checkpoints import CheckpointStore
from ehr_tracking.contracts import ContractError
from ehr_tracking.errors import UserError
from ehr_tracking.names import require_name

ODD = [
    "",
    ".",
    "..",
    "../x",
    "../../../../x",
    "/etc/x",
    "a/b",
    "a\\b",
    ".hidden",
    "a\nb",
    "a\0",
    "x" * 300,
]


@pytest.mark.parametrize("name", ["lr", "GPT-2 (large)", "30d=yes", "éa", "x" * 200])
def test_a_name_that_is_a_file_name_is_kept(name, tmp_path):
    (tmp_path / require_name(name, "head")).touch()
    assert [p.name for p in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("name", ODD)
def test_a_name_that_could_leave_its_folder_is_refused_in_one_line(name):
    with pytest.raises(UserError, match=r"^head .* cannot be the name of a file") as refused:
        require_name(name, "head")
    assert str(refused.value).isprintable()
    assert len(str(refused.value)) < 250


def test_a_task_is_not_named_by_what_cannot_be_a_file(tmp_path):
    table = pa.table(
        {
            "subject_id": [1],
            "prediction_time": pa.array([0], pa.timestamp("us")),
            "boolean_value": [True],
        }
    )
    (tmp_path / "a\nb").mkdir()
    pq.write_table(table, tmp_path / "a\nb" / "0.parquet")
    with pytest.raises(UserError, match=r"task .* cannot be the name of a file"):
        read_labels(tmp_path, reader="test 0")


@pytest.mark.parametrize("key", ["latest", "best"])
def test_pointers_that_leave_the_store_are_damaged(key, tmp_path):
    (tmp_path / "pointers.json").write_text(json.dumps({key: "../../x", "scores": {}}))
    with pytest.raises(ContractError, match="is damaged"):
        getattr(CheckpointStore(tmp_path), key)()
