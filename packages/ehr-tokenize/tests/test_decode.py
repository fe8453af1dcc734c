"""Tokens back to what a clinician reads, and to dated events, over a whole synthetic cohort."""

import math
import shutil
from bisect import bisect
from collections import Counter
from datetime import datetime
from itertools import pairwise

import polars as pl
import pyarrow.parquet as pq
import pytest

from ehr_tokenize.build.build import tokenize
from ehr_tokenize.config import TokenizeConfig
from ehr_tokenize.synthetic.cohort import synthesize
from ehr_tokenize.synthetic.config import SynthConfig
from ehr_tokenize.tokenizer.tokenizer import Tokenizer
from ehr_tracking.config import validate

DAY = 86_400
# ETHOS' intervals in seconds: 5, 15, 45, 75 minutes; 2 .. 18 hours; 1 .. 30 days; 2 and 6 months
ENDS = [60 * m for m in (5, 15, 45, 75)] + [3600 * h for h in (2, 3, 5, 8, 12, 18)]
ENDS += [DAY * d for d in (1, 2, 4, 7, 12, 20, 30, 60, 180)]
KINDS = ["joint", "visits", "clmbr", "cookbook", "desc", "timeline", "cehr"]


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    out = tmp_path_factory.mktemp("cohort") / "meds"
    synthesize(out, SynthConfig(num_patients=150, seed=2))
    return out


def made(cohort, out, kind):
    if kind == "desc":
        pytest.importorskip("tokenizers")
    tokenize(cohort, out, validate(TokenizeConfig, {"scheme": {"kind": kind}}, where="test"))
    return Tokenizer.from_pretrained(out)


def rows(out):
    found = [r for p in sorted(out.glob("*/*.parquet")) for r in pq.read_table(p).to_pylist()]
    return {r["subject_id"]: r["token"] for r in found}


@pytest.mark.parametrize("kind", KINDS)
def test_a_described_code_is_told_by_its_description_and_a_value_with_bounds_and_unit(
    cohort, tmp_path, kind
):
    tokenizer = made(cohort, tmp_path / "out", kind)
    listed = pl.read_parquet(cohort / "metadata/codes.parquet")
    described = dict(listed.select("code", "description").iter_rows())
    said = tokenizer.decode(range(len(tokenizer)))
    checked = 0
    for token, text in zip(tokenizer.tokens, said, strict=True):
        if token.kind not in {"code", "value", "category"}:
            continue
        if token.code not in described:
            assert kind == "timeline", token.text  # the first level of a code
            continue
        checked += 1
        assert described[token.code] in text
        if token.kind == "value":
            assert text.split(": ")[-1].split(" ")[0] in {f"{token.lower:.6g}", "below"}
            assert token.code.rsplit("//", 1)[-1] in text  # mmol/L, %
    assert checked > 100 or kind in {"desc", "timeline"}
    assert kind in {"desc", "timeline"} or sum(t.kind == "value" for t in tokenizer.tokens) > 50


def test_tokens_of_real_data_that_differ_in_what_happened_are_told_apart(mimic_demo, tmp_path):
    """The start and the end of an infusion, a specimen and its result have one description."""
    tokenizer = made(mimic_demo, tmp_path / "out", "joint")
    texts = [t.text for t in tokenizer.tokens]
    said = dict(zip(texts, tokenizer.decode(range(len(texts))), strict=True))
    assert said["INFUSION_START//220949"] == "infusion start Dextrose 5%"
    assert said["INFUSION_END//220949//Q1"].startswith("infusion end Dextrose 5%: below ")
    assert said["PROCEDURE//START//225402"] == "procedure start EKG"
    assert said["PROCEDURE//END//225402"] == "procedure end EKG"
    potassium = "Potassium [Moles/volume] in Serum or Plasma"
    assert said["LAB//SPECIMEN_COLLECTED//50971//STAT"] == f"specimen collected {potassium}"
    results = [s for t, s in said.items() if t.startswith("LAB//RESULT//50971//mEq/L//Q")]
    assert len(results) == 10
    assert all(s.startswith(f"{potassium}: ") and "mEq/L" in s for s in results)
    assert len(set(results)) == 10
    assert not any("//" in s for s in said.values())


@pytest.fixture(scope="module")
def told(cohort, tmp_path_factory):
    """Per subject: raw events with time (birth apart), and the same told back from tokens."""
    out = tmp_path_factory.mktemp("tokens") / "out"
    tokenizer = made(cohort, out, "timeline")
    events = pl.concat(pl.read_parquet(p) for p in sorted(cohort.glob("data/*/*.parquet")))
    timed = events.filter(pl.col("time").is_not_null())
    pairs = []
    for subject, tokens in rows(out).items():
        raw = timed.filter(pl.col("subject_id") == subject).sort("time", maintain_order=True)
        first = raw.filter(pl.col("code") != "MEDS_BIRTH")["time"].min()
        if first is not None:
            statics = events.filter(pl.col("subject_id") == subject, pl.col("time").is_null())
            back = tokenizer.decode_timeline(tokens, first)[len(statics) :]
            pairs.append((raw.to_dicts(), back))
    assert len(pairs) > 120
    return pairs


def test_every_event_comes_back_with_its_code_and_bounds_that_hold_its_value(told):
    bounded = 0
    for raw, back in told:
        assert [e.code for e in back] == [r["code"] for r in raw]
        for event, row in zip(back, raw, strict=True):
            if event.lower is not None:
                bounded += 1
                assert event.lower <= row["numeric_value"] < event.upper
                assert row["code"].rsplit("//", 1)[-1] in event.text  # the unit
    assert bounded > 5000


def test_every_event_comes_back_at_its_interval_from_the_one_before(told):
    """To the interval: a clock moves by the mean that a time token told in train."""
    long = 0
    for raw, back in told:
        assert [e.time is None for e in back] == [r["code"] == "MEDS_BIRTH" for r in raw]
        when = [r["time"] for r in raw if r["code"] != "MEDS_BIRTH"]
        again = [e.time for e in back if e.time is not None]
        assert again[0] == when[0]
        for (a, b), (c, d) in zip(pairwise(when), pairwise(again), strict=True):
            true, found = (b - a).total_seconds(), (d - c).total_seconds()
            if true < ENDS[0]:
                assert found == 0
            elif true < ENDS[-1]:
                assert bisect(ENDS, found) == bisect(ENDS, true)
            else:
                long += 1
                steps = math.floor(true / (180 * DAY) + 0.5)
                assert abs(found - true) <= (90 + 10 * steps) * DAY
    assert long > 100


@pytest.mark.parametrize("kind", ["joint", "timeline", "visits"])
def test_no_order_of_rows_at_one_time_shows_in_what_is_fitted_or_told(cohort, tmp_path, kind):
    """What is told of one time is the same; in which order, the rows say."""
    other = tmp_path / "meds"
    shutil.copytree(cohort, other)
    for path in other.glob("data/*/*.parquet"):
        frame = pl.read_parquet(path)
        mixed = frame.sample(fraction=1, shuffle=True, seed=1).sort(
            "subject_id", "time", nulls_last=False, maintain_order=True
        )
        assert not mixed.equals(frame.sort("subject_id", "time", maintain_order=True))
        mixed.write_parquet(path)
    one, two = (made(x, tmp_path / n, kind) for x, n in ((cohort, "one"), (other, "two")))
    for name in ("tokenizer.json", "vocab.parquet"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    again = rows(tmp_path / "two")
    start = datetime(2024, 1, 1)  # noqa: DTZ001
    for subject, tokens in rows(tmp_path / "one").items():
        assert sorted(tokens) == sorted(again[subject])
        told = [
            Counter((e.time, e.code, e.lower, e.upper) for e in t.decode_timeline(ids, start))
            for t, ids in ((one, tokens), (two, again[subject]))
        ]
        assert told[0] == told[1]
