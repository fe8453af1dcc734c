"""A thousand damaged or odd data sets: each is refused in one line, or tokenised as plain Python does it.

A case begins as a small valid data set, and up to three faults are put into it. Plain rules over its
rows say what must be refused; where nothing must, an independent tokeniser in plain Python, subject
by subject and event by event, says what must come out.
"""

import json
import random
import re
import shutil
from collections import Counter
from contextlib import contextmanager
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ehr_tokenize.build.build import tokenize
from ehr_tokenize.config import (
    CehrScheme,
    ClmbrScheme,
    CookbookScheme,
    DescScheme,
    TimelineScheme,
    VisitsScheme,
)
from ehr_tokenize.meds.check import check
from ehr_tracking.errors import UserError
from ehr_tracking.manifest import verify

from .cases import ADMISSION, DAY, SPLIT_FILE, Case, File, Row, make, to_table, write
from .faults import SPECIALS
from .metadata_faults import ALL
from .reference import (
    NOTHING_LEFT,
    SPLITS,
    bin_edges,
    excluded,
    family,
    records,
    refusals,
    spell,
    split_of,
    tell,
    vocabulary,
)

BLOCKS, BLOCK = 20, 50
BY_SETTINGS = ["cannot be told from another token", NOTHING_LEFT]
"""What `check`, which knows no settings, does not see."""
OTHERS = [VisitsScheme(), ClmbrScheme(), CookbookScheme(), TimelineScheme(), CehrScheme()]
OTHERS += [DescScheme()] * bool(find_spec("tokenizers"))
MORE = [
    "(unit|text_value) is not UTF-8",
    "column (unit|text_value) is there twice",
    "cannot be told from another token",
]
"""What other schemes refuse as well."""


def read(out: Path) -> dict[int, dict]:
    """Subject -> its columns, times as microseconds."""
    found = {}
    for path in sorted(out.glob("*/*.parquet")):
        table = pq.ParquetFile(path).read()
        times = table["time"].cast(pa.list_(pa.int64()))
        columns = {n: table[n].to_pylist() for n in ("token", "age", "visit")}
        ids = table["subject_id"].to_pylist()
        assert ids == sorted(ids)
        for i, subject in enumerate(ids):
            assert subject not in found
            found[subject] = {n: column[i] for n, column in columns.items()}
            found[subject] |= {"time": times[i].as_py(), "split": path.parent.name}
    return found


def compare(case: Case, out: Path, done) -> None:
    edges, splits, whole = bin_edges(case), split_of(case), records(case)
    vocab = pq.ParquetFile(out / "vocab.parquet").read().to_pylist()
    texts = [v["token"] for v in vocab]
    expected = vocabulary(case)
    assert texts[:7] == SPECIALS
    assert [{k: v[k] for k in expected[0]} for v in vocab[7:]] == expected if expected else True
    known = {(v["token"], v["code"], v["bin"]) for v in expected}
    made = read(out)
    assert made.keys() == whole.keys()
    for subject, rows in whole.items():
        row, told = made[subject], tell(case, rows, edges, known)
        assert row["split"] == splits[subject]
        assert [texts[i] for i in row["token"]] == [x[0] for x in told]
        assert row["time"] == [x[1] for x in told]
        assert row["visit"] == [x[3] for x in told]
        assert row["age"] == pytest.approx([x[2] for x in told], rel=2e-7, abs=0)
    counted: dict[str, dict[str, list[int]]] = {}
    for split in SPLITS:
        own = [r for s, rows in whole.items() if splits[s] == split for r in rows]
        found = counted.setdefault(split, {})
        for r in own:
            three = found.setdefault(family(r.code), [0] * 6)
            gone = excluded(case, r)
            three[0] += not gone
            three[1] += not gone and spell(r, edges) not in known
            three[2] += gone
    counted = {split: found for split, found in counted.items() if found}
    assert json.loads((out / "coverage.json").read_text()) == counted
    assert [s.split for s in done.splits] == list(counted)
    for s in done.splits:
        own = [r for subject, rows in whole.items() if splits[subject] == s.split for r in rows]
        gone, people = sum(excluded(case, r) for r in own), {r.subject for r in own}
        assert (s.subjects, s.events, s.excluded) == (len(people), len(own), gone)
        assert s.tokens == len(own) - gone + len(people)
        assert s.unknown == sum(three[1] for three in counted[s.split].values())
    assert verify(out) == []


def truncated(rng: random.Random, case: Case) -> tuple[Case, dict[int, int]] | None:
    """Each subject's rows up to a time of its own."""
    cut = {}
    for subject, rows in records(case).items():
        times = [r.time for r in rows if r.time is not None] or [0]
        cut[subject] = rng.choice(times) - rng.choice([0, 0, 1])
    kept = [r for r in case.rows if r.time is None or r.time <= cut[r.subject]]
    if not kept:
        return None
    return Case([File("data/0.parquet", kept)], split_of(case), case.config, 1), cut


def compare_truncated(whole: dict[int, dict], part: dict[int, dict], cut: dict[int, int]) -> None:
    assert part.keys() <= whole.keys()
    for subject, row in part.items():
        times = whole[subject]["time"]
        seen = sum(t is None or t <= cut[subject] for t in times)
        for name in ("token", "time", "age", "visit"):
            assert row[name] == whole[subject][name][:seen]


def build(number: int) -> tuple[random.Random, Case]:
    rng = random.Random(number)
    case = make(rng)
    for one in rng.sample(ALL, rng.choice([0, 1, 1, 1, 2, 3])):
        case.faults.append(one.__name__)
        one(rng, case)
    for file in case.files:
        if file.valueless:
            file.rows = [replace(r, value=None) for r in file.rows]
    return rng, case


@contextmanager
def naming(number: int, case: Case):
    try:
        yield
    except BaseException as e:
        e.add_note(f"case {number}: {', '.join(case.faults)}")
        raise


def one_line(message: str) -> bool:
    return len(message.splitlines()) == 1 and message.isprintable()


def try_another(case: Case, root: Path, expected: list[str]) -> None:
    """Another scheme refuses the same and little more, and loses no event either."""
    out = root / "other"
    try:
        done = tokenize(root / "meds", out, case.config, workers=case.workers)
    except UserError as e:
        message = str(e)
        assert one_line(message), message
        assert case.unsure or any(re.search(p, message) for p in expected + MORE), message
        return
    assert set(expected) <= set(MORE)
    if not case.unsure:
        assert sum(s.events for s in done.splits) == len(case.rows)
        made = read(out)
        assert made.keys() == records(case).keys()
        for subject, rows in records(case).items():
            times = [r.time for r in rows if not excluded(case, r)]
            assert set(made[subject]["time"]) == {None, *times}
    shutil.rmtree(out)


def run(number: int, root: Path) -> str:
    """Try one case; say what came of it."""
    rng, case = build(number)
    with naming(number, case):
        meds, out = root / "meds", root / "out"
        write(case, meds)
        before = sorted(root.rglob("*"))
        report = check(meds)
        assert all(map(one_line, report.lines()))
        expected = refusals(case) if not case.unsure else []
        if expected and not all(f.rows for f in case.files):  # one may have lost its types, too
            expected.append("has no rows, and columns without a type")
        if number % 4 == 0:
            other = replace(case.config, scheme=rng.choice(OTHERS))
            try_another(replace(case, config=other), root, expected)
            assert sorted(root.rglob("*")) == before, "something is left"
        try:
            done = tokenize(meds, out, case.config, workers=case.workers)
        except UserError as e:
            message = str(e)
            assert one_line(message), message
            assert sorted(root.rglob("*")) == before, "something is left"
            assert case.unsure or any(re.search(p, message) for p in expected), (message, expected)
            by_rows = not any(re.search(p, message) for p in BY_SETTINGS)
            assert case.unsure or report.refused == by_rows, report.lines()
            return "refused"
        assert not expected, expected
        assert sorted(p for p in root.rglob("*") if not p.is_relative_to(out)) == before
        if case.unsure:
            return "unsure"
        assert not report.refused, report.lines()
        counts = (report.files, report.subjects, report.events, report.static, report.numeric)
        rows = case.rows
        assert counts == (
            len(case.files), len(records(case)), len(rows),
            sum(r.time is None for r in rows), sum(r.value is not None for r in rows),
        )  # fmt: skip
        assert report.codes == len({r.code for r in rows})
        compare(case, out, done)
        assert all(map(one_line, done.lines()))
        found = truncated(rng, case) if rng.random() < 0.25 else None
        if found:
            part, cut = found
            write(part, root / "part")
            tokenize(root / "part", root / "part-out", part.config, tokenizer=out)
            compare_truncated(read(out), read(root / "part-out"), cut)
        return "tokenised"


@pytest.mark.parametrize("block", range(BLOCKS))
def test_a_fuzzed_data_set_is_refused_in_one_line_or_tokenised_rightly(tmp_path, block):
    came = Counter()
    for number in range(block * BLOCK, (block + 1) * BLOCK):
        root = tmp_path / str(number)
        root.mkdir()
        came[run(number, root)] += 1
        shutil.rmtree(root)
    assert sum(came.values()) == BLOCK
    assert came["refused"] >= 5
    assert came["tokenised"] >= 5


def test_a_million_events_of_one_subject(tmp_path):
    """One an hour, every eleventh an admission, the others a value from 0 to 9 in turn."""
    n, hour = 1_100_000, DAY // 24  # more than are read at once
    i = np.arange(n)
    admitted = i % 11 == 0
    lead = [Row(7, None, "GENDER//F"), Row(7, -30 * DAY, "MEDS_BIRTH")]
    events = pa.table(
        {
            "subject_id": np.full(n, 7),
            "time": pa.array(i * hour).cast(pa.timestamp("us")),
            "code": np.where(admitted, ADMISSION, "LAB"),
            "numeric_value": pa.array((i % 10).astype(np.float32), mask=admitted),
        }
    )
    other = File("", [Row(9, 0, "DX")])
    parts = [to_table(f).select(events.column_names) for f in (File("", lead), other)]
    for folder in ("data", "metadata"):
        (tmp_path / "meds" / folder).mkdir(parents=True)
    splits = pa.table({"subject_id": [7, 9], "split": ["train", "train"]})
    pq.write_table(splits, tmp_path / "meds" / SPLIT_FILE)
    pq.write_table(pa.concat_tables([parts[0], events, parts[1]]), tmp_path / "meds/data/0.parquet")
    done = tokenize(tmp_path / "meds", tmp_path / "out")
    assert [(s.subjects, s.events, s.tokens, s.unknown) for s in done.splits] == [
        (2, n + 3, n + 5, 0)
    ]
    texts = np.array(pq.read_table(tmp_path / "out/vocab.parquet")["token"].to_pylist())
    table = pq.read_table(tmp_path / "out/train/00000.parquet")
    token, time, age, visit = (
        table[c][0].values.to_numpy(zero_copy_only=False) for c in ("token", "time", "age", "visit")
    )
    assert texts[token[:3]].tolist() == ["[BOS]", "GENDER//F", "MEDS_BIRTH"]
    assert texts[token[3:25]].tolist() == [
        ADMISSION if k % 11 == 0 else f"LAB//Q{k % 10 + 1}" for k in range(22)
    ]
    assert len(token) == n + 3
    values = np.array([f"LAB//Q{v + 1}" for v in range(10)])
    assert (texts[token[3:]] == np.where(admitted, ADMISSION, values[i % 10])).all()
    assert np.isnat(time[:2]).all()
    assert (time[2:].astype(np.int64) == np.concatenate([[-30 * DAY], i * hour])).all()
    np.testing.assert_array_equal(age[:3], [0, 0, 0])
    np.testing.assert_allclose(age[3:], 30 + i / 24, rtol=1e-7)
    assert visit[:3].tolist() == [0, 0, 0]
    assert (visit[3:] == np.minimum(i // 11 + 1, 65_535)).all()
