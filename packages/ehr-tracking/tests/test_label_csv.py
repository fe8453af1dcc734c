"""Labels in a CSV file: what is read, and what is refused by line and value."""

from datetime import datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ehr_tracking.arrow.label_csv import LabelColumns
from ehr_tracking.arrow.labels import (
    binary,
    numbers,
    read_labels,
    read_task,
    task_table,
    time_to_event,
)
from ehr_tracking.contracts import ContractError

MINE = {"subject": "patient", "time": "date"}
ROWS = """patient,date,readmitted,stage,days,iptw,crp
7,2020-01-06,yes,II,3.5,0.5,1.5
5,2020-01-05T12:00:00,no,I,40,2,
"""


def write(path: Path, text: str = ROWS) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_columns_go_by_any_name_and_rows_come_in_the_order_of_subjects(tmp_path) -> None:
    columns = LabelColumns(
        **MINE, value="readmitted", duration="days", weight="iptw", measurements=("crp",)
    )
    task, table = read_task(write(tmp_path / "l.csv"), reader="test 0", columns=columns)
    assert task == "readmitted"
    assert table.to_pydict() == {
        "subject_id": [5, 7],
        "prediction_time": [datetime(2020, 1, 5, 12), datetime(2020, 1, 6)],  # noqa: DTZ001 -- MEDS times have no zone
        "boolean_value": [False, True],
        "duration_days": [40.0, 3.5],
        "weight": [2.0, 0.5],
        "measurements/crp": [None, 1.5],
    }
    assert time_to_event(table, task=task)["duration_days"].to_pylist() == [40.0, 3.5]


def test_several_outcomes_are_as_many_tasks(tmp_path) -> None:
    path = write(tmp_path / "l.csv")
    columns = LabelColumns(**MINE, value=("readmitted", "days"))
    found = read_labels(path, reader="test 0", columns=columns)
    assert found.keys() == {"readmitted", "days"}
    assert numbers(found["days"], task="days")["float_value"].to_pylist() == [40.0, 3.5]
    with pytest.raises(ContractError, match=r"2 outcomes \(readmitted, days\), but one is needed"):
        read_task(path, reader="test 0", columns=columns)


def test_columns_of_meds_need_no_mapping(tmp_path) -> None:
    path = write(
        tmp_path / "died.csv",
        "\ufeffsubject_id,prediction_time,boolean_value\n2,2020-01-06 00:00:00,1\n\n1,2020-01-05,0\n",
    )
    task, table = read_task(path, reader="test 0")
    assert task == "died"
    assert binary(table, task=task)["boolean_value"].to_pylist() == [False, True]
    assert task_table(path, reader="test 0") == [{"task": "died", "rows": 2, "files": 1}]


def test_ids_that_are_text_are_looked_up(tmp_path) -> None:
    names = tmp_path / "source_subjects.parquet"
    pq.write_table(pa.table({"subject_id": [0, 12], "source_id": ["P1", "P2"]}), names)
    columns = LabelColumns(subject="patient", time="date", value="died", subjects=names)
    path = write(
        tmp_path / "l.csv", "patient,date,died\nP2,2020-01-05,1\nP1,2020-01-06,0\n7,2020-01-01,1\n"
    )
    assert read_labels(path, reader="t 0", columns=columns)["died"]["subject_id"].to_pylist() == [
        0,
        7,
        12,
    ]
    write(path, "patient,date,died\nP3,2020-01-05,1\n")
    with pytest.raises(
        ContractError, match=f"line 2: patient = 'P3' is not of a subject in {names}"
    ):
        read_labels(path, reader="t 0", columns=columns)
    pq.write_table(pa.table({"subject": [1]}), names)
    with pytest.raises(ContractError, match="is no table of source_id and subject_id"):
        read_labels(path, reader="t 0", columns=columns)


def test_times_have_the_form_that_is_said(tmp_path) -> None:
    path = write(tmp_path / "l.csv", "id;when;y\n1;31.12.2019;0\n")
    columns = LabelColumns(
        subject="id", time="when", value="y", time_format="%d.%m.%Y", separator=";"
    )
    _, table = read_task(path, reader="test 0", columns=columns)
    assert table["prediction_time"].cast(pa.date32()).to_pylist() == [datetime(2019, 12, 31).date()]  # noqa: DTZ001 -- as above


@pytest.mark.parametrize(
    ("text", "columns", "message"),
    [
        ("patient,date,y\nP1,2020-01-05,0\n", {}, r"l\.csv line 2: patient = 'P1' is not a whole number"),
        ("patient,date,y\n1,2020-01-05,0\n\n2,05/01/2020,0\n", {},
         "line 4: date = '05/01/2020' is not a date or time"),
        ("patient,date,y\n1,2020-01-05T00:00:00+01:00,0\n", {}, r"line 2: date = .* not a date or time"),
        ("patient,date,y\n1,,0\n", {}, "line 2: date = '' is not a date"),
        ("patient,when,y\n1,2020-01-05,0\n", {}, "has no column date; it has patient, when, y; say"),
        ("patient,date,x\n1,2020-01-05,0\n", {"value": None}, "no column of MEDS as its outcome; name"),
        ("patient,date,y\n1,2020-01-05,0\n2,2020-01-05,0\n1,2020-01-05,1\n", {},
         "lines 2 and 4 both label subject 1 at 2020-01-05 00:00:00; keep one"),
        ("patient,date,y\n1,2020-01-05\n", {}, "line 2 has 2 cells, but the header has 3"),
        ("patient,date,y,y\n", {}, "column y is there twice"),
        ("patient,date,y,w\n1,2020-01-05,0,-1\n", {"weight": "w"}, "w = '-1' is not a weight from 0 on"),
        ("patient,date,y,c\n1,2020-01-05,0,high\n", {"measurements": ("c",)}, "c = 'high' is not a number"),
        ("patient,date,y,d\n1,2020-01-05,0,inf\n", {"duration": "d"}, "d = 'inf' is not a number"),
        ("", {}, "has no column patient"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_refused_by_line_column_and_value(
    tmp_path, text, columns, message
) -> None:
    mapping = LabelColumns(**{**MINE, "value": "y", **columns})
    with pytest.raises(ContractError, match=message) as error:
        read_labels(write(tmp_path / "l.csv", text), reader="test 0", columns=mapping)
    assert "\n" not in str(error.value)
