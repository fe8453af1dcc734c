"""What holds of any valid data set under every recipe of `configs/tokenize`."""

import itertools
import json
import math
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from ehr_tokenize.build.build import tokenize
from ehr_tokenize.build.summary import read_coverage
from ehr_tokenize.config import ShardConfig, TokenizeConfig
from ehr_tokenize.narrative.buckets import SCHEMA
from ehr_tracking.config import load_config

ROOT = Path(__file__).parents[3]
RECIPES = sorted(p.stem for p in (ROOT / "configs/tokenize").glob("*.yaml"))
SCHEMES = ["cehr", "clmbr", "cookbook", "desc", "joint", "timeline", "visits"]
COLUMNS = ("token", "time", "age", "visit", "segment")
DESCRIBED = {
    "LAB//K": "Potassium in serum",
    "LAB//NA": "Sodium in serum",
    "ICD10CM//E11.65": "Type 2 diabetes with hyperglycemia",
    "ATC//A10BA02": "metformin",
}
LEVELS = {
    "ICD10CM//E11.65": ["ICD10CM//E11", "ICD10CM//3-6//.65"],
    "DIAGNOSIS//ICD//10//S72001A": [
        "DIAGNOSIS//ICD//10//S72", "DIAGNOSIS//ICD//10//3-6//001", "DIAGNOSIS//ICD//10//SFX//A",
    ],
    "ICD10PCS//0DTJ4ZZ": ["ICD10PCS//0", *(f"ICD10PCS//CHAR//{c}" for c in "DTJ4ZZ")],
    "ATC//A10BA02": ["ATC//A10", "ATC//4//B", "ATC//SFX//A02"],
}  # fmt: skip
CODES = [
    *("LAB//K", "LAB//K", "LAB//NA", "MEDS_BIRTH", "HOSPITAL_ADMISSION//X", "ED_REGISTRATION"),
    *("MEDS_DEATH", "BILLING//1", "DIAGNOSIS//ICD//9//4019", "é//☃", *LEVELS),
]
GAPS = [
    timedelta(),
    *(timedelta(minutes=m) for m in (0, 0, 4, 5, 30)),
    *(timedelta(days=d) for d in (0.25, 1, 3, 40, 400, 15_000)),
    timedelta(days=1, microseconds=1),
]

values = st.one_of(
    st.none(),
    st.sampled_from([0.0, -0.0, 1.0, 2.0, 3.0]),
    st.floats(width=32),
    st.sampled_from(["neg", " NEG ", "", "  ", "x" * 101, "é"]),
)
events = st.lists(
    st.tuples(
        st.sampled_from([None, *GAPS]),
        st.sampled_from(CODES),
        values,
        st.sampled_from([None, "", "mg", " g "]),
    ),
    min_size=1,
    max_size=14,
)
cohorts = st.dictionaries(st.integers(-5, 99), events, min_size=1, max_size=5)
quick = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    max_examples=10,
)


def dated(cohort):
    """Subject -> rows (time, code, number, text, unit) in order, from the gaps between them."""
    made = {}
    for subject, rows in cohort.items():
        at, own = datetime(1960 + subject % 7, 1, 1), []  # noqa: DTZ001 -- MEDS has no zone
        for gap, code, value, unit in sorted(rows, key=lambda r: r[0] is not None):
            at += gap or timedelta()
            number, text = (None, value) if isinstance(value, str) else (value, None)
            own.append((None if gap is None else at, code, number, text, unit))
        made[subject] = own
    return made


def recipe(name):
    if name == "desc":
        pytest.importorskip("tokenizers")
    settings = ["numeric.min_values=2", "numeric.n_bins=3", "max_unknown=1.0"]
    settings += ["vocabulary.min_subjects=1"]  # else a handful of subjects have no token at all
    return load_config(TokenizeConfig, ROOT / f"configs/tokenize/{name}.yaml", settings)


def has_code(name, rows):
    """Whether a recipe keeps an event; one that leaves all of train out is refused."""
    return name != "private" or any(r[1] != "BILLING//1" for r in rows)


def write(root, files, train, **options):
    """`files`: of rows by subject."""
    for folder in ("data", "metadata"):
        (root / folder).mkdir(parents=True)
    for i, found in enumerate(files):
        rows = [(s, *r) for s, own in found.items() for r in own]
        frame = pl.DataFrame(rows, SCHEMA, orient="row")
        pq.write_table(frame.to_arrow(), root / f"data/{i}.parquet", **options)
    named = {s: "train" if s in train else "held_out" for found in files for s in found}
    pl.DataFrame(
        {"subject_id": list(named), "split": list(named.values())},
        {"subject_id": pl.Int64, "split": pl.String},
    ).write_parquet(root / "metadata/subject_splits.parquet")
    codes = sorted(set(CODES))
    pl.DataFrame(
        {
            "code": codes,
            "description": [DESCRIBED.get(c) for c in codes],
            "parent_codes": [["ICD10CM//E11"] if c == "ICD10CM//E11.65" else None for c in codes],
        },
        {"code": pl.String, "description": pl.String, "parent_codes": pl.List(pl.String)},
    ).write_parquet(root / "metadata/codes.parquet")
    return root


def read(out):
    """Subject -> its row."""
    rows = [r for p in sorted(out.glob("*/*.parquet")) for r in pq.read_table(p).to_pylist()]
    return {r["subject_id"]: r for r in rows}


def test_every_scheme_has_a_recipe():
    assert set(SCHEMES) <= set(RECIPES)
    assert [recipe(name).scheme.kind for name in SCHEMES] == SCHEMES


@pytest.mark.parametrize("name", RECIPES)
@quick
@given(cohort=cohorts, choice=st.randoms(use_true_random=False))
def test_what_comes_later_changes_no_token_before(tmp_path_factory, name, cohort, choice):
    root, subjects, config = tmp_path_factory.mktemp("cut"), dated(cohort), recipe(name)
    train = list(subjects)[: len(subjects) // 2 + 1]
    assume(any(has_code(name, subjects[s]) for s in train))
    tokenize(write(root / "meds", [subjects], train), root / "out", config)
    cut = {
        s: choice.choice([r[0] for r in rows if r[0] is not None] or [datetime(9999, 1, 1)])  # noqa: DTZ001
        for s, rows in subjects.items()
    }
    kept = {
        s: own
        for s, rows in subjects.items()
        if (own := [r for r in rows if r[0] is None or r[0] <= cut[s]])
    }
    meds = write(root / "part", [kept], train)
    tokenize(meds, root / "part-out", config, tokenizer=root / "out")
    whole, part = read(root / "out"), read(root / "part-out")
    assert part.keys() == kept.keys()
    for subject in kept:
        sides = []
        for row in (whole[subject], part[subject]):
            seen = sum(t is None or t <= cut[subject] for t in row["time"])
            sides.append({c: row[c][:seen] for c in COLUMNS if c in row})
        assert sides[0] == sides[1]
        always = [r for r in kept[subject] if r[0] is None and has_code(name, [r])]
        assert len(sides[0]["token"]) > len(always)


def key(kind, row):
    """What has bins of its own, if the event has a number."""
    _, code, number, _, unit = row
    if number is None or math.isnan(number):
        return None
    return code, (unit or "").strip() if kind == "cookbook" else ""


def thirds(kind, rows):
    """Inner edges of three bins: the values of rank n/3 and 2n/3, without the least of all."""
    found = {}
    for row in rows:
        if key(kind, row) and math.isfinite(row[2]):
            found.setdefault(key(kind, row), []).append(row[2] + 0.0)  # -0.0 is 0.0
    edges = {}
    for k, own in found.items():
        own.sort()
        ranked = sorted({own[len(own) * i // 3] for i in (1, 2)} - {own[0]})
        if len(own) >= 2 and ranked:
            edges[k] = ranked
    return edges


def spell(kind, row, edges, subwords):
    """The words of an event."""
    _, code, number, text, _ = row
    unit_of = key(kind, row)
    if kind == "desc":
        pieces = subwords.encode(f"{DESCRIBED.get(code) or code} ", add_special_tokens=False).tokens
        return pieces or [code]
    words = LEVELS.get(code, [code]) if kind == "timeline" else [code]
    text = (text or "").strip()
    if kind in ("clmbr", "cookbook") and text and len(text) <= 100:
        return [f"{code} || {text}"]
    if unit_of not in edges:
        return words
    inner = edges[unit_of]
    i = sum(e <= number for e in inner)
    if kind == "timeline":
        return [*words, f"Q{i + 1}"]
    if kind == "cookbook":
        low, high = (np.float32(x) for x in [-math.inf, *inner, math.inf][i : i + 2])
        unit = f"{unit_of[1]} || " if unit_of[1] else ""
        return [f"{code} || {unit}{low} - {high}"]
    return [f"{code}//Q{i + 1}"]


@pytest.mark.parametrize("kind", SCHEMES)
@quick
@given(cohort=cohorts)
def test_every_event_is_told_in_its_place(tmp_path_factory, kind, cohort):
    root, subjects = tmp_path_factory.mktemp("told"), dated(cohort)
    train = list(subjects)[: len(subjects) // 2 + 1]
    done = tokenize(write(root / "meds", [subjects], train), root / "out", recipe(kind))
    total = sum(map(len, subjects.values()))
    assert sum(s.events for s in done.splits) == total
    counted = read_coverage(root / "out")
    assert sum(f.events for found in counted.values() for f in found) == total
    subwords = None
    if kind == "desc":
        from tokenizers import Tokenizer

        tree = json.loads((root / "out/tokenizer.json").read_text())
        subwords = Tokenizer.from_str(tree["subwords"])
    fitted = [r for s in train for r in subjects[s]]
    edges = thirds(kind, fitted)
    known = {w for r in fitted for w in spell(kind, r, edges, subwords)} | {"Q1", "Q2", "Q3"}
    vocab = pq.read_table(root / "out/vocab.parquet").to_pylist()
    added = {v["token"] for v in vocab if v["kind"] in ("time", "age", "visit")} | {"[SEP]"}
    made = read(root / "out")
    assert made.keys() == subjects.keys()
    for subject, rows in subjects.items():
        row = made[subject]
        told = list(zip([vocab[i]["token"] for i in row["token"]], row["time"], strict=True))
        assert told[0] == ("[CLS]" if kind in ("visits", "cehr") else "[BOS]", None)
        expected = [
            (w if w in known else "[UNK]", r[0])
            for r in rows
            for w in spell(kind, r, edges, subwords)
        ]
        assert [t for t in told[1:] if t[0] not in added] == expected
        if kind not in ("visits", "cehr", "timeline"):
            assert len(told) == len(expected) + 1
        words, later = [t[0] for t in told], max(0, max(row["visit"]) - 1)
        if kind == "visits":
            assert words.count("[SEP]") == later
            assert row["segment"] == [(v + 1) % 2 if v else 0 for v in row["visit"]]
        if kind == "cehr":
            assert words.count("[VE]") == later
            assert words.count("[VS]") == max(row["visit"])
            assert sum(w.startswith("TIME//") for w in words) == later


@pytest.mark.parametrize("name", RECIPES)
@quick
@given(cohort=cohorts, choice=st.randoms(use_true_random=False))
def test_neither_files_nor_shards_change_an_order(tmp_path_factory, name, cohort, choice):
    root, subjects, config = tmp_path_factory.mktemp("dealt"), dated(cohort), recipe(name)
    train = list(subjects)[: len(subjects) // 2 + 1]
    assume(any(has_code(name, subjects[s]) for s in train))
    tokenize(write(root / "one", [subjects], train), root / "one-out", config)
    shuffled = list(subjects)
    choice.shuffle(shuffled)
    cuts = sorted(choice.choices(range(len(shuffled) + 1), k=2))
    parts = [shuffled[a:b] for a, b in itertools.pairwise([0, *cuts, len(shuffled)])]
    files = [{s: subjects[s] for s in part} for part in parts]  # some without a row
    meds = write(root / "many", files, train, row_group_size=1)
    tokenize(meds, root / "same-out", config, workers=3)
    small = replace(config, shard=ShardConfig(subjects=1))
    tokenize(meds, root / "small-out", small, workers=2)
    assert read(root / "small-out") == read(root / "one-out")
    for path in sorted((root / "one-out").rglob("*")):
        if path.is_file() and path.name != "manifest.json":
            again = root / "same-out" / path.relative_to(root / "one-out")
            assert again.read_bytes() == path.read_bytes(), path.name
