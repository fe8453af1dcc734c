"""Schemes, by cases worked by hand in `cases/<scheme>/{in,out}.yaml`, and by what must always hold."""

import hashlib
import json
from datetime import date, datetime, time
from pathlib import Path

import polars as pl
import pyarrow.parquet as pq
import pytest
import yaml

from ehr_tokenize.build.build import tokenize
from ehr_tokenize.config import TokenizeConfig
from ehr_tokenize.narrative.buckets import SCHEMA
from ehr_tokenize.tokenizer.tokenizer import Tokenizer
from ehr_tracking.config import validate

CASES = sorted((Path(__file__).parent / "cases").iterdir())
KINDS = [case.name for case in CASES]


def moment(found):
    if isinstance(found, date) and not isinstance(found, datetime):
        return datetime.combine(found, time())
    return datetime.fromisoformat(found) if isinstance(found, str) else found


def row(subject, when, code, value=None, unit=None):
    number, text = (None, value) if isinstance(value, str) else (value, None)
    return (subject, moment(when), code, number, text, unit)


def write(root, splits, codes=None):
    """`splits`: split -> subject -> rows."""
    for folder in ("data", "metadata"):
        (root / folder).mkdir(parents=True)
    rows = [row(s, *r) for found in splits.values() for s, rs in found.items() for r in rs]
    pl.DataFrame(rows, SCHEMA, orient="row").write_parquet(root / "data/0.parquet")
    named = [(s, split) for split, found in splits.items() for s in found]
    pl.DataFrame(named, {"subject_id": pl.Int64, "split": pl.String}, orient="row").write_parquet(
        root / "metadata/subject_splits.parquet"
    )
    infos = [(c, i.get("description"), i.get("parents")) for c, i in (codes or {}).items()]
    types = {"code": pl.String, "description": pl.String, "parent_codes": pl.List(pl.String)}
    pl.DataFrame(infos, types, orient="row").write_parquet(root / "metadata/codes.parquet")
    return root


def configured(tree):
    return validate(TokenizeConfig, tree, where="case")


def told(out):
    """Subject -> its row, with tokens as text."""
    texts = [t.text for t in Tokenizer.from_pretrained(out).tokens]
    rows = [r for p in sorted(out.glob("*/*.parquet")) for r in pq.read_table(p).to_pylist()]
    return {r["subject_id"]: r | {"text": [texts[i] for i in r["token"]]} for r in rows}


def words(out, subject):
    return told(out)[subject]["text"][1:]


def run(tmp_path, splits, config=None, codes=None):
    if (config or {}).get("scheme", {}).get("kind") == "desc":
        pytest.importorskip("tokenizers")
    meds = write(tmp_path / "meds", splits, codes)
    return tokenize(meds, tmp_path / "out", configured(config or {}))


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_a_hand_worked_case(case, tmp_path):
    given_, expected = (
        yaml.safe_load((case / name).read_text()) for name in ("in.yaml", "out.yaml")
    )
    config = given_["config"]
    assert config["scheme"]["kind"] == case.name
    if "path" in config.get("subwords", {}):
        config["subwords"]["path"] = str(case / config["subwords"]["path"])
    splits = {s: given_[s] for s in ("train", "tuning", "held_out") if s in given_}
    done = run(tmp_path, splits, config, given_.get("codes"))
    made = told(tmp_path / "out")
    for subject, rows in expected["tokens"].items():
        names = ("time", "text", "visit", "segment")[: len(rows[0])]
        found = list(zip(*(made[subject][n] for n in names), strict=True))
        assert found == [(moment(r[0]), *r[1:]) for r in rows]
    assert {s.split: s.unknown for s in done.splits} == expected["unknown"]
    tokenizer = Tokenizer.from_pretrained(tmp_path / "out")
    number = {t.text: i for i, t in enumerate(tokenizer.tokens)}
    for text, meaning in expected.get("meaning", {}).items():
        assert tokenizer.decode([number[text]]) == [meaning]
    if back := expected.get("events"):
        ids = made[1]["token"][back["from"] :]
        events = tokenizer.decode_timeline(ids, moment(back["start"]))
        assert [(e.time, e.code, e.text) for e in events] == [
            (moment(t), code, text) for t, code, text in back["are"]
        ]


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_the_vocabulary_tells_lengths_of_time_and_what_starts_a_visit(case, tmp_path):
    given_, expected = (
        yaml.safe_load((case / name).read_text()) for name in ("in.yaml", "out.yaml")
    )
    if "path" in given_["config"].get("subwords", {}):
        given_["config"]["subwords"]["path"] = str(case / given_["config"]["subwords"]["path"])
    run(tmp_path, {"train": given_["train"]}, given_["config"], given_.get("codes"))
    rows = pq.read_table(tmp_path / "out/vocab.parquet").to_pylist()
    assert [r["token"] for r in rows if r["starts_visit"]] == expected.get("starts", [])
    seconds = {r["token"]: r["seconds"] for r in rows if r["seconds"] is not None}
    assert set(seconds) == {r["token"] for r in rows if r["kind"] == "time"}
    for token, found in expected.get("seconds", {}).items():
        assert seconds[token] == pytest.approx(found)


def test_a_start_of_a_visit_keeps_being_one_with_a_text(tmp_path):
    record = [
        ["2020-01-01", "VISIT"],
        ["2020-01-01", "VISIT", "home"],
        ["2020-01-02", "VISIT//END"],
    ]
    run(tmp_path, {"train": {1: record, 2: [["2020-01-01", "LAB"]]}}, {"scheme": {"kind": "clmbr"}})
    tokens = Tokenizer.from_pretrained(tmp_path / "out").tokens
    assert {t.text for t in tokens if t.starts_visit} == {"VISIT", "VISIT || home"}
    assert {t.text for t in tokens} > {"VISIT//END", "LAB"}


def test_a_vocabulary_of_an_older_version_tells_the_same(tmp_path):
    run(tmp_path, {"train": RECORD}, {"scheme": {"kind": "timeline"}})
    new, old = Tokenizer.from_pretrained(tmp_path / "out"), tmp_path / "old"
    old.mkdir()
    table = pq.read_table(tmp_path / "out/vocab.parquet").drop_columns(["seconds", "starts_visit"])
    pq.write_table(table, old / "vocab.parquet")
    tree = json.loads((tmp_path / "out/tokenizer.json").read_text())
    tree["seconds"] = {t.text: t.seconds for t in new.tokens if t.kind == "time"}
    tree["vocab_sha256"] = hashlib.sha256((old / "vocab.parquet").read_bytes()).hexdigest()
    (old / "tokenizer.json").write_text(json.dumps(tree))
    assert Tokenizer.from_pretrained(old).tokens == new.tokens


RECORD = {
    1: [
        [None, "GENDER//F"],
        ["1950-01-01", "MEDS_BIRTH"],
        ["2020-03-01 08:00", "HOSPITAL_ADMISSION//A"],
        *(["2020-03-01 08:30", "LAB//K", float(i), "mg"] for i in range(20)),
        ["2020-03-02", "CULTURE", "negative"],
        ["2020-05-02", "ICD10CM//E11.65"],
    ]
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_token_can_be_read(kind, tmp_path):
    run(tmp_path, {"train": RECORD}, {"scheme": {"kind": kind}})
    tokenizer = Tokenizer.from_pretrained(tmp_path / "out")
    said = tokenizer.decode(range(len(tokenizer)))
    assert all(said)
    assert len(set(said)) > len(said) - 4  # both beginnings, and both ends of a visit, sound alike


@pytest.mark.parametrize("kind", KINDS)
def test_a_tokenizer_used_again_gives_the_same_bytes(kind, tmp_path):
    splits = {"train": RECORD, "held_out": {2: [*RECORD[1], ["2021-01-01", "NEW"]]}}
    run(tmp_path, splits, {"scheme": {"kind": kind}}, {"LAB//K": {"description": "potassium"}})
    tokenize(tmp_path / "meds", tmp_path / "again", tokenizer=tmp_path / "out")
    for path in (tmp_path / "out").rglob("*"):
        if path.is_file() and path.name != "manifest.json":
            again = tmp_path / "again" / path.relative_to(tmp_path / "out")
            assert again.read_bytes() == path.read_bytes(), path.name


def test_parts_can_be_put_together_otherwise(tmp_path):
    scheme = {"kind": "joint", "time": "interval", "visits": "start_end", "age": True}
    run(tmp_path, {"train": RECORD}, {"scheme": scheme, "numeric": {"n_bins": 2}})
    assert words(tmp_path / "out", 1)[:6] == [
        "GENDER//F", "MEDS_BIRTH", "AGE//70", "AGE//+0", "[VS]", "HOSPITAL_ADMISSION//A",
    ]  # fmt: skip
    assert words(tmp_path / "out", 1)[6:8] == ["TIME//15m-45m", "LAB//K//Q1"]
    assert words(tmp_path / "out", 1)[-5:] == [
        "CULTURE", "[VE]", "TIME//2mo-6mo", "[VS]", "ICD10CM//E11.65",
    ]  # fmt: skip


def test_a_unit_column_of_another_name_and_one_that_is_missing(tmp_path):
    rows = {1: [["2020-01-01", "LAB", float(i), "mg"] for i in range(4)]}
    numeric = {"n_bins": 2, "min_values": 2, "unit_column": "valueuom"}
    run(tmp_path, {"train": rows}, {"scheme": {"kind": "cookbook"}, "numeric": numeric})
    assert words(tmp_path / "out", 1)[0] == "LAB || -inf - 2.0"


def test_shared_bins_are_never_of_zero_width_and_all_in_the_vocabulary(tmp_path):
    values = [0.0] * 15 + [1.0] * 5  # nine deciles fall on two values
    rows = {1: [["2020-01-01", "LAB", v] for v in values]}
    run(tmp_path, {"train": rows}, {"scheme": {"kind": "timeline"}})
    tokenizer = Tokenizer.from_pretrained(tmp_path / "out")
    assert words(tmp_path / "out", 1) == ["LAB", "Q1"] * 15 + ["LAB", "Q2"] * 5
    assert {t.text for t in tokenizer.tokens if t.kind == "bin"} == {f"Q{i}" for i in range(1, 11)}
    assert sum(t.kind == "time" for t in tokenizer.tokens) == 19


def test_long_and_blank_texts_are_no_categories(tmp_path):
    rows = {1: [["2020-01-01", "NOTE", text] for text in ("x" * 101, "  ", "short")]}
    run(tmp_path, {"train": rows}, {"scheme": {"kind": "cookbook"}})
    assert words(tmp_path / "out", 1) == ["NOTE", "NOTE", "NOTE || short"]


def test_a_number_goes_before_a_text(tmp_path):
    meds = write(tmp_path / "meds", {"train": {1: [["2020-01-01", "LAB", 1.0]]}})
    path = meds / "data/0.parquet"
    pl.read_parquet(path).with_columns(text_value=pl.lit("1.0")).write_parquet(path)
    tokenize(meds, tmp_path / "out", configured({"scheme": {"kind": "cookbook"}}))
    assert words(tmp_path / "out", 1) == ["LAB"]


def test_subwords_are_trained_alike_every_time(tmp_path):
    codes = {f"DX//{i}": {"description": f"disease of the {c} organ"} for i, c in enumerate("abcd")}
    rows = {1: [["2020-01-01", c] for c in codes]}
    for name in "ab":
        run(tmp_path / name, {"train": rows}, {"scheme": {"kind": "desc"}}, codes)
    a, b = ((tmp_path / n / "out/tokenizer.json").read_bytes() for n in "ab")
    assert a == b
