"""Events in memory get the tokens that a data set of them gets."""

from datetime import datetime

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest

from ehr_tokenize.config import TokenizeConfig
from ehr_tokenize.driver import tokenize
from ehr_tokenize.tokenizer import Tokenizer
from ehr_tracking.config import validate
from ehr_tracking.errors import UserError

DAY = datetime.fromisoformat("2020-01-01")
KINDS = ["joint", "visits", "timeline"]


def tokenised(meds, out, kind):
    tokenize(meds, out, validate(TokenizeConfig, {"scheme": {"kind": kind}}, where="test"))
    rows = [r for p in sorted(out.glob("*/*.parquet")) for r in pq.read_table(p).to_pylist()]
    return Tokenizer.from_pretrained(out), {r["subject_id"]: r for r in rows}


def agree(tokenizer, expected, frame):
    encoded = tokenizer(frame)
    flat = encoded.flat
    assert set(flat.subject_id.tolist()) == expected.keys()
    cuts = flat.offsets
    for i, subject in enumerate(flat.subject_id.tolist()):
        row, own = expected[subject], slice(cuts[i], cuts[i + 1])
        assert flat.token[own].tolist() == row["token"]
        np.testing.assert_array_equal(flat.age[own], np.array(row["age"], np.float32))


@pytest.mark.parametrize("kind", KINDS)
def test_every_subject_as_in_the_batch_route(write_meds, cohort, tmp_path, kind):
    meds = write_meds(*cohort(60))
    tokenizer, expected = tokenised(meds, tmp_path / "out", kind)
    frame = pl.concat([pl.read_parquet(p) for p in sorted((meds / "data").glob("*"))])
    agree(tokenizer, expected, frame)
    agree(tokenizer, expected, frame.to_arrow())
    for (subject,), own in frame.group_by("subject_id", maintain_order=True):
        events = own.drop("subject_id")
        tuples = list(events.select("time", "code", "numeric_value", "text_value").iter_rows())
        for form in (events, tuples, list(events.iter_rows(named=True))):
            assert tokenizer(form).ids == [expected[subject]["token"]]


@pytest.mark.real_data
@pytest.mark.parametrize("kind", KINDS)
def test_every_subject_of_real_data(mimic_demo, tmp_path, kind):
    tokenizer, expected = tokenised(mimic_demo, tmp_path / "out", kind)
    files = sorted((mimic_demo / "data").glob("**/*.parquet"))
    columns = ["subject_id", "time", "code", "numeric_value", "text_value"]
    found = [pl.read_parquet(p) for p in files]
    agree(tokenizer, expected, pl.concat([f.select(c for c in columns if c in f) for f in found]))


@pytest.fixture
def tokenizer(write_meds, cohort, tmp_path):
    return tokenised(write_meds(*cohort(20)), tmp_path / "out", "visits")[0]


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
        ([(DAY, "A", "high")], "events: column numeric_value: "),
        ([("2020", "A")], "events: column time: "),
        ([], "events: subject 0 has no event"),
        ([[(DAY, "A")], []], "events: subject 1 has no event"),
        ([7], "events: an event is a int; give a dict of columns or a tuple"),
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
