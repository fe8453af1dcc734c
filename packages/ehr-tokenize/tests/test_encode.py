"""Events in memory get the tokens that a data set of them gets."""

import math
from datetime import datetime, timedelta

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest

from ehr_tokenize.build.build import tokenize
from ehr_tokenize.config import TokenizeConfig
from ehr_tokenize.narrative.buckets import SCHEMA
from ehr_tokenize.tokenizer.encode import Event
from ehr_tokenize.tokenizer.tokenizer import Tokenizer
from ehr_tracking.config import validate
from ehr_tracking.contracts import EOS_ID, UNK_ID
from ehr_tracking.errors import UserError

DAY = datetime.fromisoformat("2020-01-01")
KINDS = ["joint", "visits", "clmbr", "cookbook", "desc", "timeline", "cehr"]
COLUMNS = ("token", "time", "age", "visit", "segment")


def tokenised(meds, out, kind):
    """The tokenizer, and each subject's columns as the batch route wrote them."""
    if kind == "desc":
        pytest.importorskip("tokenizers")
    tokenize(meds, out, validate(TokenizeConfig, {"scheme": {"kind": kind}}, where="test"))
    made = {}
    for path in sorted(out.glob("*/*.parquet")):
        table = pq.read_table(path).combine_chunks()
        cuts = table["token"].chunk(0).offsets.to_numpy()
        flat = {
            name: table[name].chunk(0).values.to_numpy(zero_copy_only=False)
            for name in table.column_names
            if name != "subject_id"
        }
        for i, subject in enumerate(table["subject_id"].to_pylist()):
            made[subject] = {name: c[cuts[i] : cuts[i + 1]] for name, c in flat.items()}
    return Tokenizer.from_pretrained(out), made


def agree(tokenizer, expected, frame):
    flat = tokenizer(frame).flat
    assert set(flat.subject_id.tolist()) == expected.keys()
    columns = {n: getattr(flat, n) for n in COLUMNS if getattr(flat, n) is not None}
    columns["time"] = flat.time.view("datetime64[us]")  # the static is "not a time" there
    for subject, start, stop in zip(
        flat.subject_id.tolist(), flat.offsets[:-1], flat.offsets[1:], strict=True
    ):
        row = expected[subject]
        assert row.keys() == columns.keys()
        for name, column in columns.items():
            np.testing.assert_array_equal(column[start:stop], row[name], err_msg=name)


def odd(cohort):
    """With texts, units, codes that have levels, and a birth after an event at the same time."""
    texts, units = ["neg", " pos ", "", "x" * 101, None], ["mg", " g ", None]
    late = DAY + timedelta(days=9000, microseconds=1)
    rows = [
        *(r for own in cohort for r in own),
        *((99, t, c, None) for t, c in [(None, "GENDER//F"), (DAY, "DX"), (DAY, "MEDS_BIRTH")]),
        *((99, late, c, v) for c, v in [("LAB//1", math.inf), ("LAB//1", math.nan), ("DX", -0.0)]),
    ]
    made = []
    for i, (subject, time, code, value) in enumerate(rows):
        lab = code.startswith("LAB")
        made.append(
            (subject, time, "ICD10CM//E11.65" if code == "ICD//1" else code,
             None if lab and i % 5 == 0 else value, texts[i % 5] if lab else None,
             units[i % 3] if lab else None)
        )  # fmt: skip
    return pl.DataFrame(made, SCHEMA, orient="row")


def event(row):
    """The same as an `Event`, which has one value: the text where there is no number."""
    number, text = row["numeric_value"], row["text_value"]
    none = number is None or math.isnan(number)
    return Event(row["code"], text if none and text else number, row["unit"], row["time"])


@pytest.mark.parametrize("kind", KINDS)
def test_every_subject_as_in_the_batch_route(write_meds, cohort, tmp_path, kind):
    frame = odd(cohort(60))
    halves = [frame.filter(pl.col("subject_id") % 2 == i) for i in range(2)]
    splits = {s: "held_out" if s % 5 == 1 else "train" for s in frame["subject_id"].unique()}
    meds = write_meds(*halves, splits=splits, descriptions={"LAB//0": "Sodium in serum"})
    tokenizer, expected = tokenised(meds, tmp_path / "out", kind)
    agree(tokenizer, expected, frame)
    agree(tokenizer, expected, frame.to_arrow())
    agree(tokenizer, expected, frame.with_columns(pl.col("code").cast(pl.Categorical)))
    for (subject,), own in frame.group_by("subject_id", maintain_order=True):
        events = own.drop("subject_id")
        tuples = list(events.select("time", "code", "numeric_value", "text_value").iter_rows())
        forms = [events, dicts := list(events.iter_rows(named=True)), [event(d) for d in dicts]]
        for form in forms if kind == "cookbook" else [*forms, tuples]:  # which hold no unit
            assert tokenizer(form).ids == [expected[subject]["token"].tolist()]


@pytest.mark.parametrize("kind", KINDS)
def test_every_subject_of_real_data(mimic_demo, tmp_path, kind):
    tokenizer, expected = tokenised(mimic_demo, tmp_path / "out", kind)
    # descriptions of codes that train does not have are in codes.parquet alone
    split = "train" if kind == "desc" else "**"
    files = sorted((mimic_demo / "data").glob(f"{split}/*.parquet"))
    frame = pl.concat([pl.read_parquet(p).select([*SCHEMA, "hadm_id"]) for p in files])
    subjects = set(frame["subject_id"])
    agree(tokenizer, {s: row for s, row in expected.items() if s in subjects}, frame)


@pytest.fixture
def tokenizer(write_meds, cohort, tmp_path):
    return tokenised(write_meds(*cohort(20)), tmp_path / "out", "visits")[0]


def test_padded_with_an_end_and_without_what_is_unknown(tokenizer):
    told = next(t.code for t in tokenizer.tokens if t.kind == "code" and "GENDER" not in t.code)
    many = [[(None, "GENDER//F"), (None, "NEW"), (DAY, told)], [(None, "NEW")]]
    encoded = tokenizer(many)
    known = [[i for i in ids if i != UNK_ID] for ids in encoded.ids]
    assert list(map(len, known)) == [3, 1]
    arrays = encoded.padded(end=True, unknown=False)
    assert arrays["token"].tolist() == [[*known[0], EOS_ID], [*known[1], EOS_ID, 0, 0]]
    assert arrays["attention_mask"].sum(1).tolist() == [4, 2]
    assert arrays["time"][0, 3] == arrays["time"][0, 2]
    assert arrays["age"][:, -1].tolist() == [arrays["age"][0, 2], 0]


def test_several_subjects_padded(tokenizer):
    one = [(None, "GENDER//F"), (DAY, "LAB//1", 5.0), (DAY, "never seen")]
    two = [{"time": DAY, "code": "GENDER//M"}]
    encoded = tokenizer([one, two])
    assert [s[0] for s in encoded.strings] == ["[CLS]", "[CLS]"]
    assert encoded.strings[0][1] == "GENDER//F"
    assert encoded.strings[0][-1] == "[UNK]"
    padded = encoded.padded()
    assert padded["attention_mask"].sum(axis=1).tolist() == [len(i) for i in encoded.ids]
    assert padded["token"][1].tolist() == [*encoded.ids[1], 0, 0]
    assert {"time", "age", "visit", "segment"} < padded.keys()


@pytest.mark.parametrize(
    ("events", "message"),
    [
        ([(datetime.fromisoformat("2020-01-02"), "A"), (DAY, "B")],
         "events row 1: time is before that of the row above, in subject 0"),
        ([(DAY, "A"), (None, "B")],
         "events row 1: a row without time comes after a row with one, in subject 0"),
        ([(DAY, None)], "events row 0: code is null"),
        ([(DAY, "A"), (DAY, "")], "events row 1: code is empty"),
        ([(DAY, "A\x1fB")], "events row 0: code holds the character U+001F"),
        (pl.DataFrame({"time": [DAY], "code": ["A"]}).with_columns(
            time=pl.lit(2**60).cast(pl.Datetime("us"))),
         "events row 0: time is not in the years 1 to 9999"),
        (pl.DataFrame({"time": ["2020"], "code": ["A"]}, {"time": pl.Categorical, "code": pl.String}),
         "events: column time is dictionary"),
        ([(DAY, "A", "high")], "events: column numeric_value: "),
        ([("2020", "A")], "events: column time: "),
        ([], "events: subject 0 has no event"),
        ([[(DAY, "A")], []], "events: subject 1 has no event"),
        ([7], "events: an event is a int; give an Event, a dict of columns or a tuple"),
        ("A B", "events are a str; give a list of events"),
        (pl.DataFrame({"time": [DAY]}), "events: column code is missing"),
        (pl.DataFrame({"time": [DAY], "code": [1]}), "events: column code is int64"),
    ],
)  # fmt: skip
def test_faults_in_one_line(tokenizer, events, message):
    with pytest.raises(UserError) as caught:
        tokenizer(events)
    assert str(caught.value).startswith(message)
    assert len(str(caught.value).splitlines()) == 1
