"""What public tokenizers were seen to get wrong, held in every scheme: see docs/schemes.md."""

from collections import Counter
from datetime import datetime, timedelta

import polars as pl
import pyarrow.parquet as pq
import pytest

from ehr_tokenize.build import inspection
from ehr_tokenize.build.build import tokenize
from ehr_tokenize.config import TokenizeConfig
from ehr_tokenize.narrative.buckets import SCHEMA
from ehr_tokenize.tokenizer.tokenizer import Tokenizer
from ehr_tracking.config import validate
from ehr_tracking.contracts import SPECIALS

KINDS = ["joint", "visits", "clmbr", "cookbook", "desc", "timeline", "cehr"]
VALUED = [k for k in KINDS if k != "desc"]  # which leaves values out, and says so
START = datetime.fromisoformat("2020-01-01")
LABS = [("LAB//K", v, "mmol/L") for v in (0.0, 0.0, 1.0, 2.0, 3.0, 4.0)]
LABS += [("LAB//CONSTANT", 5.0, "g")] * 6 + [("LAB//NULL", None, None)] * 6
"""Train: the edge of potassium is 2."""


@pytest.fixture
def tell(tmp_path, write_meds):
    """The words of one held-out event each, a day apart, and what was counted of them."""

    def do(kind, events, train=tuple(LABS), **settings):
        if kind == "desc":
            pytest.importorskip("tokenizers")
        rows = [
            (subject, START + timedelta(days=i), code, value, None, unit)
            for subject, found in ((1, train), (2, events))
            for i, (code, value, unit) in enumerate(found)
        ]
        frame = pl.DataFrame(rows, SCHEMA, orient="row")
        meds = write_meds(frame, splits={1: "train", 2: "held_out"})
        tree = {"scheme": {"kind": kind}, "numeric": {"n_bins": 2, "min_values": 2}, **settings}
        out = tmp_path / "out"
        done = tokenize(meds, out, validate(TokenizeConfig, tree, where="test"))
        tokenizer = Tokenizer.from_pretrained(out)
        [row] = pq.read_table(out / "held_out").to_pylist()
        said = [[] for _ in events]
        for token, time in zip(row["token"], row["time"], strict=True):
            kept = tokenizer.tokens[token]
            if time is not None and (kept.kind not in {"time", "visit"}) and kept.text != "[SEP]":
                said[(time - START).days].append(kept)
        assert done.splits[-1].events == len(events)
        assert all(said), "an event is dropped"
        return said, done.splits[-1]

    return do


def bins(said):
    return [next((t.bin for t in event if t.bin), None) for event in said]


@pytest.mark.parametrize("kind", VALUED)
def test_zero_is_a_value_and_not_a_missing_one(tell, kind):
    said, split = tell(kind, [("LAB//K", 0.0, "mmol/L"), ("LAB//K", None, None)])
    assert bins(said) == [1, None]
    assert split.unknown <= 1  # where the bare code is no token of train: a null, not the zero


@pytest.mark.parametrize("kind", VALUED)
def test_a_value_outside_all_of_train_goes_to_the_outer_bin(tell, kind):
    values = (-1e30, float("-inf"), 1e30, float("inf"))
    said, split = tell(kind, [("LAB//K", v, "mmol/L") for v in values])
    assert bins(said) == [1, 1, 2, 2]
    assert split.unknown == 0


@pytest.mark.parametrize("kind", VALUED)
def test_a_constant_code_has_no_bins_and_no_event_of_it_is_lost(tell, kind):
    said, split = tell(kind, [("LAB//CONSTANT", v, "g") for v in (5.0, 6.0, 0.0)])
    assert bins(said) == [None] * 3
    assert [[t.text for t in event] for event in said] == [["LAB//CONSTANT"]] * 3
    assert split.unknown == 0


@pytest.mark.parametrize("kind", VALUED)
def test_a_code_without_any_value_in_train_is_told_plainly(tell, kind):
    said, split = tell(kind, [("LAB//NULL", v, None) for v in (None, float("nan"), 1.0, 0.0)])
    assert [[t.text for t in event] for event in said] == [["LAB//NULL"]] * 4
    assert split.unknown == 0


@pytest.mark.parametrize("kind", VALUED)
@pytest.mark.parametrize("unit", ["mg/dL", None])
def test_a_unit_that_train_did_not_have_loses_no_event(tell, kind, unit):
    train = [*LABS, ("LAB//K", None, None)]  # the bare code is known
    said, split = tell(kind, [("LAB//K", 1.0, unit)], train)
    assert bins(said) == [None if kind == "cookbook" else 1]
    assert split.unknown == 0


@pytest.mark.parametrize("kind", KINDS)
def test_a_code_that_train_did_not_have_is_unknown_at_its_time_and_counted(tell, kind):
    said, split = tell(kind, [("ŽÝ", 1.0, "g"), ("LAB//NULL", None, None)])
    marks = {"▁"} if kind == "desc" else set()  # a word begins
    assert {t.text for t in said[0]} - marks == {"[UNK]"}
    assert "[UNK]" not in {t.text for t in said[1]}
    assert split.unknown == 1  # events, not tokens


@pytest.mark.parametrize("kind", KINDS)
def test_inspect_shows_what_was_not_known_by_split_and_family(tell, tmp_path, kind):
    tell(kind, [("ŽÝ/1", None, None), ("LAB//NULL", None, None), ("LAB//ŽÝ", None, None)])
    [lab] = [f for f in inspection.inspect(tmp_path / "out").families if f["family"] == "LAB"]
    [new] = [f for f in inspection.inspect(tmp_path / "out").families if f["family"] == "ŽÝ"]
    assert lab["unknown in train"] == "0.00%"
    assert lab["unknown in held_out"] == "50.00%"
    assert (new["unknown in train"], new["unknown in held_out"]) == ("-", "100.00%")


@pytest.mark.parametrize("kind", VALUED)
def test_no_two_bins_are_alike_and_none_is_empty(tell, tmp_path, kind):
    values = [0.0] * 30 + [1.0] * 3 + [2.0] * 2  # eight of nine deciles fall on 0
    train = [("LAB//K", v, "g") for v in values]
    tell(kind, [("LAB//K", 0.5, "g")], train, numeric={"n_bins": 10, "min_values": 2})
    tokens = Tokenizer.from_pretrained(tmp_path / "out").tokens
    [edges] = Tokenizer.from_pretrained(tmp_path / "out").fitted.edges.values()
    assert len(set(edges)) == len(edges) > 0
    if kind != "timeline":  # whose Q1 .. Q10 are shared, and all in the vocabulary
        told = [t for t in tokens if t.kind == "value"]
        assert len(told) == len(edges) + 1
        assert all(t.lower < t.upper and t.count > 0 for t in told)


@pytest.mark.parametrize("kind", KINDS)
def test_special_tokens_are_all_different_and_padding_is_no_token_of_the_data(tell, tmp_path, kind):
    """Left padding with the id of a real token, and a mask that is the padding, were both seen."""
    tell(kind, [("LAB//K", 1.0, "mmol/L"), ("NEW", None, None)])
    texts = [t.text for t in Tokenizer.from_pretrained(tmp_path / "out").tokens]
    assert tuple(texts[: len(SPECIALS)]) == SPECIALS
    assert len(set(texts)) == len(texts)
    counts = Counter(
        token
        for path in (tmp_path / "out").glob("*/*.parquet")
        for row in pq.read_table(path)["token"].to_pylist()
        for token in row
    )
    assert not counts.keys() & {SPECIALS.index(t) for t in ("[PAD]", "[MASK]", "[EOS]")}


@pytest.mark.parametrize("kind", KINDS)
def test_a_birth_or_death_with_a_longer_code_is_one(tell, tmp_path, kind):
    """MEDS_BIRTH and MEDS_DEATH may be the beginning of a longer code."""
    events = [("MEDS_BIRTH//REGISTRY", None, None), ("LAB//NULL", None, None)]
    tell(kind, events, [*LABS, ("MEDS_BIRTH//REGISTRY", None, None)])
    [row] = pq.read_table(tmp_path / "out/held_out").to_pylist()
    assert row["age"][-1] == 1.0
    assert row["visit"][-1] == 1
    assert [v for t, v in zip(row["time"], row["visit"], strict=True) if t == START] == [0] * len(
        [t for t in row["time"] if t == START]
    )


def test_an_export_like_that_of_ehrshot_is_read_as_it_is(tmp_path):
    """One file, further columns, units beside the values, no codes.parquet: 0% of values lost."""
    meds = tmp_path / "meds"
    (meds / "data").mkdir(parents=True)
    (meds / "metadata").mkdir()
    rows = [(s, START + timedelta(days=d), "LOINC/K", float(d), None, "mmol/L", "measurement", None)
            for s in (1, 2) for d in range(20)]  # fmt: skip
    schema = {**SCHEMA, "omop_table": pl.String, "visit_id": pl.Int64}
    pl.DataFrame(rows, schema, orient="row").write_parquet(meds / "data/data.parquet")
    pl.DataFrame({"subject_id": [1, 2], "split": ["train", "held_out"]}).write_parquet(
        meds / "metadata/subject_splits.parquet"
    )
    tree = {"scheme": {"kind": "cookbook"}, "numeric": {"n_bins": 4}}
    done = tokenize(meds, tmp_path / "out", validate(TokenizeConfig, tree, where="test"))
    assert [s.unknown for s in done.splits] == [0, 0]
    tokens = Tokenizer.from_pretrained(tmp_path / "out").tokens
    assert {t.text for t in tokens if t.kind == "value"} == {
        f"LOINC/K || mmol/L || {a} - {b}"
        for a, b in (("-inf", "5.0"), ("5.0", "10.0"), ("10.0", "15.0"), ("15.0", "inf"))
    }


@pytest.mark.parametrize("kind", KINDS)
def test_no_subject_is_in_two_splits_and_all_of_one_subject_is_in_one_row(
    write_meds, cohort, tmp_path, kind
):
    """Windows that were cut over token offsets, not subjects, put one person on both sides."""
    if kind == "desc":
        pytest.importorskip("tokenizers")
    meds = write_meds([r for s in cohort(40) for r in s], hashed=True)
    config = validate(TokenizeConfig, {"scheme": {"kind": kind}}, where="test")
    tokenize(meds, tmp_path / "out", config)
    ids = [
        s for p in (tmp_path / "out").glob("*/*.parquet") for s in pq.read_table(p)["subject_id"]
    ]
    assert sorted(s.as_py() for s in ids) == list(range(40))
