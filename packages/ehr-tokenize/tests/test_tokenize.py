"""The driver: from MEDS files to sealed tokens."""

import hashlib
import math
from collections import Counter
from datetime import datetime, timedelta
from itertools import chain
from pathlib import Path

import polars as pl
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ehr_tokenize.build.build import tokenize
from ehr_tokenize.config import (
    NumericConfig,
    ShardConfig,
    TokenizeConfig,
    VisitsScheme,
    VocabularyConfig,
)
from ehr_tokenize.tokenizer.tokenizer import Tokenizer
from ehr_tracking.contracts import SPLITS, TOKENS
from ehr_tracking.manifest import load_manifest, verify

FEW = TokenizeConfig(numeric=NumericConfig(n_bins=4, min_values=5))


def digest(root: Path, *, manifest: bool = False) -> dict[str, str]:
    files = [p for p in sorted(root.rglob("*")) if p.is_file()]
    return {
        p.relative_to(root).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in files
        if manifest or p.name != "manifest.json"
    }


def subjects(out: Path, split: str = "train") -> dict[int, dict]:
    rows = [
        r for p in sorted((out / split).glob("*.parquet")) for r in pq.read_table(p).to_pylist()
    ]
    return {r["subject_id"]: r for r in rows}


def words(out: Path, row: dict) -> list[str]:
    vocab = pq.read_table(out / "vocab.parquet")["token"].to_pylist()
    return [vocab[i] for i in row["token"]]


def test_a_hand_worked_data_set(write_meds, tmp_path):
    def at(year, month, day, *clock):
        return datetime.fromisoformat(f"{year}-{month:02}-{day:02}") + timedelta(
            **dict(zip(("hours", "minutes"), clock, strict=False))
        )

    rows = [
        (7, None, "GENDER//F", None),
        (7, at(2000, 1, 1), "MEDS_BIRTH", None),
        (7, at(2020, 1, 1), "HOSPITAL_ADMISSION//A", None),
        *((7, at(2020, 1, 1, 1, i), "LAB", float(i)) for i in range(8)),
        (7, at(2020, 1, 1, 2), "LAB", None),
        (7, at(2021, 1, 1), "HOSPITAL_ADMISSION//A", None),
    ]
    other = [(3, at(1990, 5, 5), "MEDS_BIRTH", None), (3, at(1991, 5, 5), "RARE", None)]
    meds = write_meds(rows, other, descriptions={"LAB": "a measurement"})
    config = TokenizeConfig(scheme=VisitsScheme(), numeric=NumericConfig(n_bins=2, min_values=8))
    done = tokenize(meds, tmp_path / "out", config)

    vocab = pq.read_table(tmp_path / "out/vocab.parquet").to_pylist()
    assert [v["id"] for v in vocab] == list(range(len(vocab)))
    assert [v["token"] for v in vocab] == [
        "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[BOS]", "[EOS]",
        "LAB//Q1", "LAB//Q2",  # 4 events each
        "HOSPITAL_ADMISSION//A", "MEDS_BIRTH",  # 2 each
        "GENDER//F", "LAB", "RARE",
    ]  # fmt: skip
    low, high = vocab[7], vocab[8]
    assert (low["lower"], low["upper"], high["lower"], high["upper"]) == (-math.inf, 4, 4, math.inf)
    assert (low["kind"], low["code"], low["bin"], low["count"], low["subjects"]) == (
        "value", "LAB", 1, 4, 1,
    )  # fmt: skip
    assert low["description"] == "a measurement"
    assert (vocab[10]["count"], vocab[10]["subjects"], vocab[10]["bin"]) == (2, 2, None)

    made = subjects(tmp_path / "out")
    assert list(made) == [3, 7]
    assert words(tmp_path / "out", made[7]) == [
        "[CLS]", "GENDER//F", "MEDS_BIRTH", "HOSPITAL_ADMISSION//A",
        *["LAB//Q1"] * 4, *["LAB//Q2"] * 4, "LAB", "[SEP]", "HOSPITAL_ADMISSION//A",
    ]  # fmt: skip
    assert made[7]["time"][:3] == [None, None, at(2000, 1, 1)]
    assert made[7]["time"][-2:] == [at(2021, 1, 1)] * 2
    assert made[7]["age"][-1] == 7671  # days from 2000-01-01 to 2021-01-01
    assert made[7]["visit"] == [0, 0, 0, *[1] * 11, 2]
    assert made[7]["segment"] == [0] * 14 + [1]
    assert [(s.split, s.subjects, s.events, s.tokens, s.unknown) for s in done.splits] == [
        ("train", 2, 15, 18, 0)
    ]
    schema = pq.read_schema(tmp_path / "out/train/00000.parquet")
    TOKENS.check({f.name: str(f.type) for f in schema}, where="train")
    assert str(schema.field("token").type.value_type) == "uint16"


@pytest.fixture
def splits():
    return {s: SPLITS[0 if s % 5 else 1 + s % 2] for s in range(60)}


@pytest.mark.parametrize("kind", ["joint", "visits"])
def test_files_order_and_workers_do_not_change_a_byte(write_meds, cohort, splits, tmp_path, kind):
    rows = cohort(60)
    layouts = {
        "one": [[r for s in rows for r in s]],
        "two": [[r for s in rows[::2] for r in s], [r for s in rows[1::2] for r in s]],
        "four reversed": [[r for s in rows[i::4][::-1] for r in s] for i in range(4)],
        "one a subject": rows,
    }
    config = TokenizeConfig(
        scheme=VisitsScheme() if kind == "visits" else TokenizeConfig().scheme,
        numeric=FEW.numeric,
        shard=ShardConfig(subjects=20),
    )
    found = []
    for i, (name, files) in enumerate(layouts.items()):
        meds = write_meds(*files, splits=splits, name=name)
        for workers in (1, 2, 4):
            out = tmp_path / f"out-{i}-{workers}"
            tokenize(meds, out, config, workers=workers)
            assert verify(out) == []
            found.append(digest(out))
    again = tmp_path / "again"
    tokenize(tmp_path / "one", again, config)
    assert digest(again, manifest=True) == digest(tmp_path / "out-0-1", manifest=True)
    assert all(f == found[0] for f in found)
    assert "train/00002.parquet" in found[0]
    order = [list(subjects(again, s)) for s in SPLITS]
    assert all(ids == sorted(ids) for ids in order)


def test_the_size_of_a_batch_does_not_change_a_byte(write_meds, cohort, tmp_path, monkeypatch):
    meds = write_meds([r for s in cohort(30) for r in s])
    tokenize(meds, tmp_path / "whole", FEW)
    monkeypatch.setattr("ehr_tokenize.meds.dataset._BATCH_ROWS", 7)
    tokenize(meds, tmp_path / "bits", FEW)
    assert digest(tmp_path / "whole", manifest=True) == digest(tmp_path / "bits", manifest=True)


def test_held_out_data_changes_nothing_that_is_fitted(write_meds, cohort, splits, tmp_path):
    rows, others = cohort(60), cohort(60, seed=9)
    changed = [rows[s] if splits[s] == "train" else others[s][:-1] for s in range(60)]
    changed[0].append((0, changed[0][-1][1], "ONLY HERE", 5.0))
    for name, files in {"a": rows, "b": changed}.items():
        meds = write_meds([r for s in files for r in s], splits=splits, name=name)
        tokenize(meds, tmp_path / f"out-{name}", FEW)
    a, b = digest(tmp_path / "out-a"), digest(tmp_path / "out-b")
    same = {"vocab.parquet", "tokenizer.json", "train/00000.parquet"}
    assert {k for k in a if a[k] == b[k]} == same


def test_counts_are_those_of_the_train_split(write_meds, cohort, splits, tmp_path):
    rows = cohort(60)
    meds = write_meds([r for s in rows for r in s], splits=splits)
    tokenize(meds, tmp_path / "out", FEW)
    events, people = Counter(), {}
    for s, row in subjects(tmp_path / "out").items():
        for word in words(tmp_path / "out", row)[1:]:
            events[word] += 1
            people.setdefault(word, set()).add(s)
    vocab = pq.read_table(tmp_path / "out/vocab.parquet").to_pylist()[7:]
    assert {v["token"]: v["count"] for v in vocab} == dict(events)
    assert {v["token"]: v["subjects"] for v in vocab} == {k: len(v) for k, v in people.items()}
    assert [v["token"] for v in vocab] == sorted(events, key=lambda w: (-events[w], w))
    assert any(v["kind"] == "value" for v in vocab)


def test_unseen_codes_become_unknown_and_stay_counted(write_meds, tmp_path):
    day = datetime.fromisoformat("2020-01-01")
    rows = [(s, day, c, None) for s, c in [(1, "A"), (2, "B"), (2, "A")]]
    meds = write_meds(rows, splits={1: "train", 2: "held_out"})
    done = tokenize(meds, tmp_path / "out")
    assert words(tmp_path / "out", subjects(tmp_path / "out", "held_out")[2]) == [
        "[BOS]", "[UNK]", "A",
    ]  # fmt: skip
    assert [(s.split, s.unknown, s.unknown_share) for s in done.splits] == [
        ("train", 0, 0.0),
        ("held_out", 1, 0.5),
    ]
    assert "held_out: 1 subjects, 2 events, 3 tokens, 50.00% unknown, 1 shard" in done.lines()


def test_rare_tokens_and_a_small_vocabulary_become_unknown(write_meds, cohort, tmp_path):
    meds = write_meds([r for s in cohort(30) for r in s])
    config = TokenizeConfig(vocabulary=VocabularyConfig(min_count=5, max_size=12))
    done = tokenize(meds, tmp_path / "out", config)
    vocab = pq.read_table(tmp_path / "out/vocab.parquet").to_pylist()
    assert len(vocab) == done.vocab_size == 12
    assert min(v["count"] for v in vocab[7:]) >= 5
    assert done.splits[0].events == sum(len(s) for s in cohort(30))
    assert done.splits[0].unknown == done.splits[0].events - sum(v["count"] for v in vocab)


@pytest.mark.parametrize("kind", ["joint", "visits"])
def test_a_tokenizer_used_again_gives_the_same_tokens(write_meds, cohort, splits, tmp_path, kind):
    meds = write_meds([r for s in cohort(60) for r in s], splits=splits)
    config = TokenizeConfig(numeric=FEW.numeric)
    if kind == "visits":
        config = TokenizeConfig(numeric=FEW.numeric, scheme=VisitsScheme())
    tokenize(meds, tmp_path / "first", config)
    tokenize(meds, tmp_path / "second", tokenizer=tmp_path / "first")
    assert digest(tmp_path / "first") == digest(tmp_path / "second")
    # one subject alone, no train split to fit on, and only the two files of the tokenizer
    bare = tmp_path / "bare"
    bare.mkdir()
    for name in ("tokenizer.json", "vocab.parquet"):
        (bare / name).write_bytes((tmp_path / "first" / name).read_bytes())
    alone = write_meds(cohort(60)[7], splits={7: "held_out"}, name="alone")
    tokenize(alone, tmp_path / "alone-out", tokenizer=bare)
    one = subjects(tmp_path / "alone-out", "held_out")[7]
    assert one == subjects(tmp_path / "first")[7]
    inputs = load_manifest(tmp_path / "second").inputs
    assert inputs["tokenizer"].contract == "tokens/1"


def test_a_tokenizer_survives_its_own_files(write_meds, cohort, tmp_path):
    tokenize(write_meds([r for s in cohort(40) for r in s]), tmp_path / "out", FEW)
    loaded = Tokenizer.from_pretrained(tmp_path / "out")
    loaded.save(tmp_path)
    for name in ("tokenizer.json", "vocab.parquet"):
        assert (tmp_path / name).read_bytes() == (tmp_path / "out" / name).read_bytes()
    assert len(loaded.fitted.edges) == 3


def test_splits_by_hash_are_stable_and_follow_the_seed(write_meds, cohort, tmp_path):
    meds = write_meds([r for s in cohort(60) for r in s], hashed=True)
    tokenize(meds, tmp_path / "a")
    tokenize(meds, tmp_path / "b", TokenizeConfig(seed=1))
    a = {s: sorted(subjects(tmp_path / "a", s)) for s in SPLITS}
    b = {s: sorted(subjects(tmp_path / "b", s)) for s in SPLITS}
    assert sorted(chain(*a.values())) == list(range(60))
    assert len(a["train"]) > 40
    assert a != b


def test_numeric_value_is_optional(write_meds, cohort, tmp_path):
    meds = write_meds(to_frame(cohort(10)).drop("numeric_value", "text_value"))
    tokenize(meds, tmp_path / "out", FEW)
    kinds = pq.read_table(tmp_path / "out/vocab.parquet")["kind"].to_pylist()
    assert set(kinds) == {"special", "code"}


def to_frame(rows) -> pl.DataFrame:
    schema = {
        "subject_id": pl.Int64,
        "time": pl.Datetime("us"),
        "code": pl.String,
        "numeric_value": pl.Float32,
        "text_value": pl.String,
    }
    flat = [(*r, None) for s in rows for r in s]
    return pl.DataFrame(flat, schema=schema, orient="row")


events = st.lists(
    st.tuples(
        st.one_of(st.none(), st.datetimes()),
        st.sampled_from(["A", "B", "MEDS_BIRTH", "HOSPITAL_ADMISSION//X", "é//☃"]),
        st.one_of(st.none(), st.floats(width=32)),
    ),
    min_size=1,
    max_size=12,
).map(lambda rows: sorted(rows, key=lambda r: (r[0] is not None, r[0])))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25)
@given(st.dictionaries(st.integers(-(2**62), 2**62), events, min_size=1, max_size=5))
def test_any_valid_frame_gives_one_token_an_event_in_order(tmp_path_factory, data):
    root = tmp_path_factory.mktemp("any")
    (root / "meds/data").mkdir(parents=True)
    rows = [[(s, *e) for e in found] for s, found in data.items()]
    to_frame(rows).write_parquet(root / "meds/data/0.parquet")
    (root / "meds/metadata").mkdir()
    pl.DataFrame({"subject_id": list(data), "split": ["train"] * len(data)}).write_parquet(
        root / "meds/metadata/subject_splits.parquet"
    )
    tokenize(root / "meds", root / "out", TokenizeConfig(numeric=NumericConfig(min_values=2)))
    made = subjects(root / "out")
    assert list(made) == sorted(data)
    for subject, found in data.items():
        row = made[subject]
        spoken = words(root / "out", row)
        assert [w.partition("//Q")[0] for w in spoken] == ["[BOS]", *(c for _, c, _ in found)]
        assert row["time"] == [None, *(t for t, _, _ in found)]


def test_the_mimic_demo(mimic_demo, tmp_path):
    for workers in (1, 2):
        done = tokenize(mimic_demo, tmp_path / str(workers), workers=workers)
    assert digest(tmp_path / "1", manifest=True) == digest(tmp_path / "2", manifest=True)
    assert sum(s.events for s in done.splits) == 356_063
    assert sum(s.subjects for s in done.splits) == 100
    assert done.splits[0].unknown == 0
    assert max(s.unknown_share for s in done.splits) < 0.05
    frame = pl.read_parquet(mimic_demo / "data/train/0.parquet")
    one = frame.filter(pl.col("subject_id") == 10000032)
    row = subjects(tmp_path / "1")[10000032]
    plain = [w.partition("//Q")[0] for w in words(tmp_path / "1", row)[1:]]
    assert plain == one["code"].to_list()
    assert row["time"][1:] == one["time"].to_list()
    age = row["age"][-1] / 365.25
    birth = one.filter(pl.col("code") == "MEDS_BIRTH")["time"][0]
    assert age == pytest.approx((one["time"][-1] - birth).days / 365.25, abs=0.01)
