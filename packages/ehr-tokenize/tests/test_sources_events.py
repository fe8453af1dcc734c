# ruff: noqa: DTZ001 -- MEDS times have no zone
"""Flat tables of events to MEDS, against rows worked out by hand."""

import gzip
import json
from datetime import datetime
from pathlib import Path

import polars as pl
import pyarrow.parquet as pq
import pytest
import yaml
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from meds import DataSchema

from ehr_tokenize.cli import main
from ehr_tokenize.meds.check import check
from ehr_tokenize.sources.config import EventsConfig
from ehr_tokenize.sources.events import from_events
from ehr_tokenize.synthetic.cohort import synthesize
from ehr_tokenize.synthetic.config import SynthConfig
from ehr_tracking.config import load_config
from ehr_tracking.errors import UserError

RECIPE = Path(__file__).parents[3] / "configs" / "sources" / "events.yaml"
HEADER = "patient,when,kind,code,result,units,note,encounter,title\n"
ROWS = """\
17,2021-03-01 08:30:00,LAB,2823-3,4.1,mmol/L,,901,Potassium
17,,GENDER,F,,,,,Female
9,2021-03-02,DIAG,007,,,"first line
second line",,
17,2021-03-01 08:30,DIAG,I10,,,,901,
9,1890-01-01,MEDS_BIRTH,,,,,,
"""
WHAT = EventsConfig(subject="p", code="c", time="t")


def read(out):
    return pl.concat(pl.read_parquet(p) for p in sorted(out.glob("data/*/*.parquet")))


def table(path, rows, header="p,t,c"):
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def contents(out):
    return {p.relative_to(out): p.read_bytes() for p in sorted(out.rglob("*")) if p.is_file()}


def test_the_shipped_recipe_gives_the_rows_worked_out_by_hand(tmp_path):
    source = tmp_path / "events.csv"
    source.write_text(HEADER + ROWS)
    done = from_events(source, tmp_path / "out", load_config(EventsConfig, RECIPE))
    got = read(tmp_path / "out").sort("subject_id", maintain_order=True).rows()
    at = datetime(2021, 3, 1, 8, 30)
    assert got == [
        (9, datetime(1890, 1, 1, 23, 59, 59), "MEDS_BIRTH//UNK", None, None, None, None),
        (
            9,
            datetime(2021, 3, 2, 23, 59, 59),
            "DIAG//007",
            None,
            "first line\nsecond line",
            None,
            None,
        ),
        (17, None, "GENDER//F", None, None, None, None),
        (17, at, "DIAG//I10", None, None, None, 901),
        (17, at, "LAB//2823-3", pytest.approx(4.1), None, "mmol/L", 901),
    ]
    codes = pl.read_parquet(tmp_path / "out/metadata/codes.parquet")
    assert dict(codes.select("code", "description").rows()) == {
        "DIAG//007": None, "DIAG//I10": None, "GENDER//F": "Female",
        "LAB//2823-3": "Potassium", "MEDS_BIRTH//UNK": None,
    }  # fmt: skip
    assert done.lines()[0] == "events.csv: 5 rows, 5 events"
    for path in (tmp_path / "out").glob("data/*/*.parquet"):
        DataSchema.validate(pq.read_table(path))
    assert not check(tmp_path / "out").refused or not check(tmp_path / "out").splits["train"]


def test_every_file_form_and_order_of_rows_gives_the_same_bytes(tmp_path):
    rows = [(1, "2020-01-02 03:04:05", "A", "1.5"), (2, "2020-01-02 03:04:05", "B", None),
            (1, "2020-01-02 03:04:05", "0", "7"), (2, "2019-01-01 00:00:00", "B", "0.1")]  # fmt: skip
    frame = pl.DataFrame(rows, schema=["P", "T", "C", "V"], orient="row")
    frame.write_csv(tmp_path / "a.csv")
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress((tmp_path / "a.csv").read_bytes()))
    frame.reverse().write_csv(tmp_path / "a.tsv", separator="\t")
    (tmp_path / "a.jsonl").write_text(
        "".join(json.dumps(dict(zip("ptcv", r, strict=True))) + "\n" for r in rows)
    )
    (tmp_path / "a.json").write_text(json.dumps([dict(zip("ptcv", r, strict=True)) for r in rows]))
    pretty = json.dumps([dict(zip("ptcv", r, strict=True)) for r in rows[::-1]], indent=2)
    (tmp_path / "b.json.gz").write_bytes(gzip.compress(pretty.encode()))
    typed = frame.with_columns(pl.col("T").str.to_datetime(), pl.col("V").cast(pl.Float64))
    (tmp_path / "parts").mkdir()
    typed[:1].write_parquet(tmp_path / "parts/1.parquet")
    typed[1:].write_parquet(tmp_path / "parts/0.parquet")
    config = EventsConfig(subject="p", time="t", code="c", value="v")
    outputs = []
    names = ("a.csv", "a.csv.gz", "a.tsv", "a.jsonl", "a.json", "b.json.gz", "parts")
    for name in names:
        from_events(tmp_path / name, tmp_path / f"{name}.out", config)
        outputs.append(contents(tmp_path / f"{name}.out"))
    assert all(o == outputs[0] for o in outputs[1:])
    assert len(read(tmp_path / "parts.out")) == 4


def test_times_with_a_zone_become_utc_from_text_and_from_parquet(tmp_path):
    source = table(
        tmp_path / "e.csv", ["1,2020-07-01T10:00:00+02:00,A", "1,2020-07-01T10:00:00Z,B"]
    )
    from_events(source, tmp_path / "text", WHAT)
    typed = pl.read_csv(source).with_columns(
        t=pl.col("t").str.to_datetime(time_zone="UTC").dt.convert_time_zone("Europe/Berlin")
    )
    typed.write_parquet(tmp_path / "e.parquet")
    from_events(tmp_path / "e.parquet", tmp_path / "typed", WHAT)
    for out in ("text", "typed"):
        assert read(tmp_path / out)["time"].to_list() == [
            datetime(2020, 7, 1, 8),
            datetime(2020, 7, 1, 10),
        ]


def test_json_beside_tables_is_no_part_of_them(tmp_path):
    folder = tmp_path / "parts"
    folder.mkdir()
    (folder / "schema.json").write_text('{"columns": ["p", "t", "c"]}')
    table(folder / "0.csv", ["1,2020-01-01,A"])
    assert from_events(folder, tmp_path / "one", WHAT).written.events == 1
    (folder / "0.csv").unlink()
    row = {"p": 1, "t": "2020-01-01", "c": "A"}
    (folder / "schema.json").write_text(json.dumps([row, row | {"c": "B"}]))
    assert from_events(folder, tmp_path / "two", WHAT).written.events == 2


def test_number_of_shards_changes_files_but_no_subject(tmp_path):
    rows = [f"{i % 40},2020-01-{i % 28 + 1:02d},C{i % 7}" for i in range(400)]
    source = table(tmp_path / "e.csv", rows)
    from_events(source, tmp_path / "one", WHAT)
    small = load_config(
        EventsConfig, None, ["subject=p", "code=c", "time=t", "write.events_per_shard=50"]
    )
    from_events(source, tmp_path / "many", small)
    assert len(list((tmp_path / "many").rglob("data/*/*.parquet"))) > 6
    order = {"by": "subject_id", "maintain_order": True}
    assert read(tmp_path / "one").sort(**order).equals(read(tmp_path / "many").sort(**order))
    assert not check(tmp_path / "many").refused


def test_named_splits_and_text_ids(tmp_path):
    source = table(tmp_path / "e.csv", ["P1,2020-01-01,A,train", "x,2020-01-01,A,held_out",
                                        "5,2020-01-01,A,tuning"], "p,t,c,s")  # fmt: skip
    config = EventsConfig(subject="p", code="c", time="t", split="s")
    done = from_events(source, tmp_path / "out", config)
    assert done.written.splits == {"train": 1, "tuning": 1, "held_out": 1}
    ids = dict(
        pl.read_parquet(tmp_path / "out/metadata/source_subjects.parquet")
        .select("source_id", "subject_id")
        .rows()
    )
    assert ids.keys() == {"P1", "x"}
    for split, subject in (("train", ids["P1"]), ("held_out", ids["x"]), ("tuning", 5)):
        assert pl.read_parquet(tmp_path / f"out/data/{split}/*.parquet")[
            "subject_id"
        ].to_list() == [subject]


def test_ids_that_a_spreadsheet_made_decimal_stay_integers(tmp_path):
    source = table(tmp_path / "e.csv", ["17.0,2020-01-01,A", "18,2020-01-01,A"])
    from_events(source, tmp_path / "out", WHAT)
    assert sorted(read(tmp_path / "out")["subject_id"]) == [17, 18]
    assert not (tmp_path / "out/metadata/source_subjects.parquet").exists()


def test_repeated_events_are_kept_once_and_counted(tmp_path):
    source = table(tmp_path / "e.csv", ["1,2020-01-01,A", "1,2020-01-01,A", "1,2020-01-02,A"])
    done = from_events(source, tmp_path / "out", WHAT)
    assert (done.written.events, done.written.duplicates) == (2, 1)
    assert "left out 1 events that repeat another in every column" in done.lines()
    keep = load_config(
        EventsConfig, None, ["subject=p", "code=c", "time=t", "write.duplicates=keep"]
    )
    assert from_events(source, tmp_path / "kept", keep).written.events == 3


def test_rows_without_subject_or_code_are_counted_by_reason(tmp_path):
    source = table(tmp_path / "e.csv", [",2020-01-01,A", "1,2020-01-01,", "1,2020-01-01,A"])
    line = from_events(source, tmp_path / "out", WHAT).lines()[0]
    assert line == "e.csv: 3 rows, 1 events; left out: 1 without c; 1 without subject_id"


def test_no_time_is_refused_unless_said_what_it_means(tmp_path):
    source = table(
        tmp_path / "e.csv", ["1,2020-01-01,A,0", "1,,B,0", "1,2020-01-01,C,true"], "p,t,c,s"
    )
    with pytest.raises(UserError, match=r"e\.csv row 2, column t: there is no time"):
        from_events(source, tmp_path / "out", WHAT)
    dropped = EventsConfig(subject="p", code="c", time="t", static="s", without_time="drop")
    from_events(source, tmp_path / "drop", dropped)
    assert read(tmp_path / "drop").select("code", pl.col("time").is_null()).rows() == [
        ("C", True),
        ("A", False),
    ]
    static = EventsConfig(subject="p", code="c", time="t", without_time="static")
    from_events(source, tmp_path / "static", static)
    assert read(tmp_path / "static")["code"].to_list() == ["B", "A", "C"]


def test_numbers_that_float32_cannot_hold_are_counted(tmp_path):
    source = table(
        tmp_path / "e.csv",
        ["1,2020-01-01,A,1e39", "1,2020-01-01,B,nan", "1,2020-01-01,C,-0.0"],
        "p,t,c,v",
    )
    done = from_events(
        source,
        tmp_path / "out",
        EventsConfig(subject="p", code="c", time="t", value="v", missing=()),
    )
    assert done.written.not_finite == 2
    assert read(tmp_path / "out")["numeric_value"].to_list() == [None, None, 0.0]


def test_a_note_beside_a_value_is_kept(tmp_path):
    source = table(tmp_path / "e.csv", ["1,2020-01-01,A,4.1,hemolysed"], "p,t,c,v,n")
    config = EventsConfig(subject="p", code="c", time="t", value="v", text="n")
    from_events(source, tmp_path / "out", config)
    [row] = read(tmp_path / "out").select("numeric_value", "text_value").rows()
    assert row == (pytest.approx(4.1), "hemolysed")


def test_value_and_text_in_one_column(tmp_path):
    source = table(tmp_path / "e.csv", ["1,2020-01-01,A,12", "1,2020-01-01,B,trace"], "p,t,c,v")
    from_events(
        source, tmp_path / "out", EventsConfig(subject="p", code="c", time="t", value="v", text="v")
    )
    assert read(tmp_path / "out").select("numeric_value", "text_value").rows() == [
        (12.0, None),
        (None, "trace"),
    ]


@pytest.mark.parametrize(
    ("settings", "rows", "message"),
    [
        ({}, ["1,2020-13-01,A"], r"row 1, column t: '2020-13-01' is not a time"),
        ({"time_formats": ["%d.%m.%Y"]}, ["1,01.02.2020,A", "1,2020-01-01,A"], r"row 2, column t: '2020-01-01' is not a time"),
        ({"code": "{x}"}, ["1,2020-01-01,A"], r"column x is missing; it has p, t, c"),
        ({"code": "{c"}, ["1,2020-01-01,A"], r"code template '\{c'"),
        ({"code": "{c!r}"}, ["1,2020-01-01,A"], r"write \{column\} or"),
        ({"value": "c"}, ["1,2020-01-01,2", "1,2020-01-01,A"], r"row 2, column c: 'A' is not a number"),
        ({}, ["1,0000-01-01,A"], r"row 1, column t: '0000-01-01' is not a time in the years 1"),
        ({"static": "c"}, ["1,2020-01-01,maybe"], r"row 1, column c: 'maybe' is not true or false"),
        ({"split": "c"}, ["1,2020-01-01,test"], r"row 1, column c: split is 'test'"),
        ({"split": "c"}, ["1,2020-01-01,train", "1,2020-01-01,tuning"], r"row 2, column c: subject 1 is in two splits"),
        ({"extras": {"n": {"column": "c", "type": "integer"}}}, ["1,2020-01-01,1.5"], r"row 1, column c: '1.5' is not a whole number"),
        ({}, ["1,2020-01-01"], r"Row #2: Expected 3 columns, got 2$"),
        ({}, [], r"the source holds no event"),
        ({"encoding": "klingon"}, ["1,2020-01-01,A"], r"klingon is no encoding"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line_and_nothing_is_written(tmp_path, settings, rows, message):
    source = table(tmp_path / "e.csv", rows)
    recipe = tmp_path / "c.yaml"
    recipe.write_text(yaml.safe_dump({"subject": "p", "code": "c", "time": "t", **settings}))
    result = CliRunner().invoke(
        main, ["from", "events", str(source), "--out", str(tmp_path / "out"), "-c", str(recipe)]
    )
    assert result.exit_code == 2
    assert len(result.stderr.strip().splitlines()) == 1
    with pytest.raises(UserError, match=message):
        from_events(source, tmp_path / "out", load_config(EventsConfig, recipe))
    assert {p.name for p in tmp_path.iterdir()} == {"e.csv", "c.yaml"}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("e.csv", b"", "is empty"),
        ("e.csv", b"p,t,c\n1,2020-01-01,\xff\xfe\n", "invalid UTF8"),
        ("e.csv.gz", gzip.compress(b"p,t,c\n" + b"1,2020-01-01,A\n" * 99999)[:-900], "runcated"),
        ("e.csv.gz", b"p,t,c\n", "e.csv.gz"),
        ("e.parquet", b"PAR1", "e.parquet"),
        ("e.jsonl", b'{"p": 1, "t": "2020-01-01", "c": "A"}\nnope\n', "row 2: not JSON"),
        ("e.jsonl", b"[1]\n", "row 1: not a JSON object"),
        ("e.json", b'[{"p": 1}, ["2020-01-01"]]', "row 2: not a JSON object"),
        ("e.json", b'[{"p": 1}, "{}"]', "row 2: not a JSON object"),
        ("e.json", b'[{"p": 1},', "e.json: not JSON: "),
        ("e.json", b'[{"p": 1, "t": "2020-01-01"}]', "key c is in none of rows 1 to 1"),
        ("e.json", b"", "the source holds no event"),
        ("e.jsonl", b'{"p": 1, "t": "2020-01-01", "c": {}}\n', "row 1, column c: a nested value"),
        ("e.csv", b"p,t,c,C,c\n1,2020-01-01,A,B,C\n", "column c is there 2 times"),
        ("e.xlsx", b"PK", "not a CSV"),
    ],
)  # fmt: skip
def test_damaged_files_are_named(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        from_events(tmp_path / name, tmp_path / "out", WHAT)
    assert "\n" not in str(caught.value)
    assert {p.name for p in tmp_path.iterdir()} == {name}


def test_only_data_sets_that_we_wrote_are_replaced(tmp_path):
    source = table(tmp_path / "e.csv", ["1,2020-01-01,A"])
    from_events(source, tmp_path / "out", WHAT)
    with pytest.raises(UserError, match="pass --overwrite"):
        from_events(source, tmp_path / "out", WHAT)
    from_events(source, tmp_path / "out", WHAT, overwrite=True)
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match="not a data set that we wrote"):
        from_events(source, tmp_path / "theirs", WHAT, overwrite=True)
    # one rule, whichever command comes first
    synthesize(tmp_path / "out", SynthConfig(num_patients=3), overwrite=True)
    from_events(source, tmp_path / "out", WHAT, overwrite=True)
    assert {p.name for p in tmp_path.iterdir()} == {"e.csv", "out", "theirs"}


CELL = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=12)


@settings(max_examples=20)
@given(
    st.lists(
        st.tuples(
            st.integers(-(2**63), 2**63 - 1),
            st.datetimes(datetime(1, 1, 1), datetime(9999, 12, 31)),
            CELL,
            st.none() | st.floats(width=32, allow_nan=False, allow_infinity=False),
        ),
        min_size=1,
        max_size=20,
    )
)
def test_what_is_written_as_csv_comes_back(tmp_path_factory, rows):
    folder = tmp_path_factory.mktemp("events")
    frame = pl.DataFrame(
        {
            "p": [r[0] for r in rows],
            "t": [r[1].isoformat(" ") for r in rows],
            "c": [f"C{r[2]}" for r in rows],
            "v": [r[3] for r in rows],
        },
        schema={"p": pl.Int64, "t": pl.String, "c": pl.String, "v": pl.Float32},
    )
    frame.write_csv(folder / "e.csv")
    config = load_config(
        EventsConfig, None, ["subject=p", "code=c", "time=t", "value=v", "write.duplicates=keep"]
    )
    from_events(folder / "e.csv", folder / "out", config)
    got = read(folder / "out").select("subject_id", "time", "code", "numeric_value")
    want = [(r[0], r[1], f"C{r[2]}".strip(), r[3]) for r in rows]
    assert sorted(map(str, got.rows())) == sorted(
        str((s, t.replace(fold=0), c, None if v is None else v + 0.0)) for s, t, c, v in want
    )


@settings(max_examples=25)
@given(st.binary(max_size=200))
def test_any_bytes_give_events_or_one_line(tmp_path_factory, content):
    folder = tmp_path_factory.mktemp("bytes")
    (folder / "e.csv").write_bytes(b"p,t,c\n" + content)
    try:
        from_events(folder / "e.csv", folder / "out", WHAT)
    except UserError as e:
        assert len(str(e).splitlines()) == 1
        assert not (folder / "out").exists()
    else:
        assert len(read(folder / "out"))


def test_times_codes_and_values_that_stand_for_no_value(tmp_path):
    table = tmp_path / "t.csv"
    table.write_text(
        "p,c,t,v\n1,A,2020-01-01,NA\n1,NULL,2020-01-01,1\n1,B,NaT,None\n<NA>,A,2020-01-01,2\n"
    )
    config = EventsConfig(subject="p", code="c", time="t", value="v", without_time="drop")
    done = from_events(table, tmp_path / "out", config)
    (path,) = (tmp_path / "out").glob("data/*/*.parquet")
    assert pl.read_parquet(path)["code"].to_list() == ["A"]
    assert done.tallies["t.csv"].missing == {("v", "NA"): 1, ("v", "None"): 1, ("c", "NULL"): 1,
                                             ("t", "NaT"): 1, ("p", "<NA>"): 1}  # fmt: skip
