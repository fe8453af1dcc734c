"""What becomes of rare bins, rare texts and values of few people whose code is common."""

from collections import defaultdict
from datetime import datetime

import numpy as np
import polars as pl
import pytest

from ehr_tokenize.build.build import tokenize
from ehr_tokenize.build.inspection import inspect
from ehr_tokenize.build.summary import read_coverage
from ehr_tokenize.config import TokenizeConfig
from ehr_tokenize.fit.fallback import fall_back
from ehr_tokenize.fit.selection import Count
from ehr_tokenize.scheme.words import Fitted, Word
from ehr_tokenize.tokenizer.tokenizer import Tokenizer
from ehr_tracking.config import validate

EDGES = np.array([1, 2, 3], np.float32)


def config(**vocabulary):
    return validate(TokenizeConfig, {"vocabulary": vocabulary}, where="t")


def bin_(number, who, events=None, code="LAB"):
    word = Word(f"{code}//Q{number}", "value", code, number)
    return Count(word, events or len(who), len(who), who=who)


def plain(who, code="LAB"):
    return Count(Word(code, "code", code), len(who), len(who), who=who)


def told(counts):
    return {c.word.text: (c.events, c.subjects) for c in counts}


def test_a_rare_bin_joins_its_rarer_neighbour_and_bounds_follow():
    found = [bin_(1, [1, 2, 3]), bin_(2, [4]), bin_(3, [1, 4]), bin_(4, [1, 2, 3, 4], 9)]
    counts, fitted = fall_back(found, Fitted({"LAB": EDGES}), config(min_subjects=2))
    assert told(counts) == {"LAB//Q1": (3, 3), "LAB//Q2": (3, 2), "LAB//Q3": (9, 4)}
    assert fitted.edges["LAB"].tolist() == [1, 3]
    assert dict(fitted.wider) == {"LAB": [2]}
    assert not fitted.plain


def test_bins_of_the_same_person_are_merged_on_until_enough_people_have_them():
    found = [bin_(1, [1, 2, 3]), bin_(2, [1], 5), bin_(3, [1], 6), bin_(4, [1, 2], 7)]
    counts, fitted = fall_back(found, Fitted({"LAB": EDGES}), config(min_subjects=2))
    assert told(counts) == {"LAB//Q1": (3, 3), "LAB//Q2": (18, 2)}
    assert fitted.edges["LAB"].tolist() == [1]


def test_a_code_of_which_one_bin_is_left_has_none():
    found = [bin_(1, [1]), bin_(2, [2]), bin_(3, [3]), bin_(4, [4])]
    counts, fitted = fall_back(found, Fitted({"LAB": EDGES}), config(min_subjects=3))
    assert told(counts) == {"LAB": (4, 4)}
    assert fitted.edges == {}
    assert dict(fitted.plain) == {"LAB": [0]}


def test_a_bin_joins_the_plain_code_where_too_few_people_have_that():
    found = [
        plain([9]),
        bin_(1, [1, 2, 3]),
        bin_(2, [4, 5]),
        bin_(3, [1, 2, 3]),
        bin_(4, [1, 2, 3]),
    ]
    counts, fitted = fall_back(found, Fitted({"LAB": EDGES}), config(min_subjects=2))
    assert told(counts)["LAB"] == (3, 3)
    assert "LAB//Q2" not in told(counts)
    assert dict(fitted.plain) == {"LAB": [2]}
    assert fitted.edges["LAB"].tolist() == [1, 2, 3]


def test_a_code_that_is_rare_itself_stays_as_it_is():
    found = [bin_(1, [1]), bin_(2, [1]), bin_(3, [1]), bin_(4, [1])]
    fitted = Fitted({"LAB": EDGES})
    assert fall_back(found, fitted, config(min_subjects=2)) == (found, fitted)


def test_no_order_of_words_shows():
    found = [bin_(n, [n % 3, n], code=c) for c in ("A", "B") for n in range(1, 5)]
    fitted = Fitted({"A": EDGES, "B": EDGES})
    one, two = (fall_back(x, fitted, config(min_count=3)) for x in (found, found[::-1]))
    assert told(one[0]) == told(two[0])
    assert one[1].wider == two[1].wider


def labs(values, code="LAB", text=None):
    return [(datetime(2020, 1, 1), code, v, text) for v in values]  # noqa: DTZ001


def write(write_meds, subjects):
    rows = [(s, t, c, v, x) for s, found in subjects.items() for t, c, v, x in found]
    names = ["subject_id", "time", "code", "numeric_value", "text_value"]
    types = [pl.Int64, pl.Datetime("us"), pl.String, pl.Float32, pl.String]
    return write_meds(pl.DataFrame(rows, dict(zip(names, types, strict=True)), orient="row"))


def test_tokens_decode_to_the_bounds_of_the_wider_bin_and_each_step_is_counted(
    write_meds, tmp_path
):
    """Bins of four: subject 1 alone has the highest; the value of OTHER is had by one each."""
    subjects = {s: labs([1, 2, 3]) + labs([s], "OTHER") for s in (1, 2, 3, 4)}
    subjects[1] += labs([9, 9, 9, 9])
    subjects[2] += labs([5], "RARE")
    settings = {
        "vocabulary": {"min_subjects": 2},
        "numeric": {"n_bins": 4, "min_values": 2},
    }
    out = tmp_path / "out"
    done = tokenize(write(write_meds, subjects), out, validate(TokenizeConfig, settings, where="t"))
    tokenizer = Tokenizer.from_pretrained(out)
    last = tokenizer(labs([9.0])[:1]).ids[0][1]
    assert tokenizer.decode([last]) == ["LAB: 3 or more"]
    (event,) = tokenizer.decode_timeline([last], datetime(2024, 1, 1))  # noqa: DTZ001
    assert (event.lower, event.upper) == (3, np.inf)
    assert all(t.subjects >= 2 for t in tokenizer.tokens if t.kind != "special")
    (family,) = read_coverage(out)["train"]
    assert (family.events, family.unknown, family.parent) == (21, 1, 0)
    assert (family.wider, family.plain) == (12, 0)  # LAB: four of 9 and of 3; OTHER: 1 or 2, 3 or 4
    assert any(
        line.startswith("too rare, told by less: 12 by a wider bin") for line in done.lines()
    )
    assert "by a wider bin" in inspect(out).text()


@pytest.mark.parametrize("kind", ["clmbr", "cookbook"])
def test_a_rare_text_of_a_common_code_is_told_as_the_code(write_meds, tmp_path, kind):
    subjects = {s: labs([None], "CULTURE", "negative") for s in (1, 2, 3)}
    subjects[4] = labs([None], "CULTURE", "ESCHERICHIA") + labs([None], "CULTURE")
    subjects[5] = labs([None], "CULTURE")
    settings = {"scheme": {"kind": kind}, "vocabulary": {"min_subjects": 2}}
    out = tmp_path / "out"
    tokenize(write(write_meds, subjects), out, validate(TokenizeConfig, settings, where="t"))
    tokenizer = Tokenizer.from_pretrained(out)
    assert tokenizer(subjects[4]).strings[0][1:] == ["CULTURE", "CULTURE"]
    new = tokenizer(labs([None], "CULTURE", "of no one") + labs([None], "NEW", "of no one"))
    assert new.strings[0][1:] == ["CULTURE", "[UNK]"]
    assert new.flat.families.sum(axis=(0, 1)).tolist() == [2, 1, 0, 0, 1, 0, 0]
    assert "ESCHERICHIA" not in {t.text for t in tokenizer.tokens}
    assert [f.plain for f in read_coverage(out)["train"]] == [1]


def test_an_event_whose_parent_is_unknown_too_is_counted_as_unknown_alone(write_meds, tmp_path):
    """RARE/1 and RARE/2 make a common RARE; ODD/1 alone makes no common ODD."""
    subjects = {s: labs([None], "A") for s in (1, 2, 3)}
    subjects[1] += labs([None], "RARE/1") + labs([None], "ODD/1")
    subjects[2] += labs([None], "RARE/2")
    meds = write(write_meds, subjects)
    parents = {"RARE/1": ["RARE"], "RARE/2": ["RARE"], "ODD/1": ["ODD"]}
    pl.DataFrame(
        {"code": list(parents), "description": [None] * 3, "parent_codes": list(parents.values())},
        {"code": pl.String, "description": pl.String, "parent_codes": pl.List(pl.String)},
    ).write_parquet(meds / "metadata/codes.parquet")
    tokenize(meds, tmp_path / "out", config(min_subjects=2, roll_up=True))
    found = {
        f.name: (f.events, f.unknown, f.parent) for f in read_coverage(tmp_path / "out")["train"]
    }
    assert found == {"(no prefix)": (3, 0, 0), "RARE": (2, 0, 2), "ODD": (1, 1, 0)}


@pytest.mark.real_data
@pytest.mark.parametrize(
    "limit",
    [
        {"min_subjects": 5},
        {"min_subjects": 10},
        {"min_count": 10},
        {"min_subjects": 3, "min_count": 50},
    ],
)
def test_no_event_of_a_common_code_of_real_data_is_unknown(mimic_demo, tmp_path, limit):
    out = tmp_path / "out"
    tokenize(mimic_demo, out, config(**limit))
    tokenizer = Tokenizer.from_pretrained(out)
    splits = pl.read_parquet(mimic_demo / "metadata/subject_splits.parquet")
    train = set(splits.filter(pl.col("split") == "train")["subject_id"])
    events = pl.read_parquet(sorted(mimic_demo.glob("data/**/*.parquet")))
    events = events.filter(pl.col("subject_id").is_in(train))
    per = events.group_by("code").agg(pl.len(), pl.col("subject_id").n_unique().alias("who"))
    common = set(
        per.filter(
            (pl.col("len") >= limit.get("min_count", 1))
            & (pl.col("who") >= limit.get("min_subjects", 1))
        )["code"]
    )
    unknown = defaultdict(int)
    for subject in train:
        own = events.filter(pl.col("subject_id") == subject)
        for code, token in zip(own["code"], tokenizer(own.to_arrow()).strings[0][1:], strict=True):
            unknown[code in common] += token == "[UNK]"
    assert unknown[True] == 0
    assert unknown[False] == len(events.filter(~pl.col("code").is_in(common)))
    fewest = limit.get("min_subjects", 1)
    assert all(t.subjects >= fewest for t in tokenizer.tokens if t.kind != "special")
