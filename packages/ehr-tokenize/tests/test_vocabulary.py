"""Maps, exclusions, delays, roll-up, limits and what is reported of them."""

import json

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from ehr_tokenize.build import inspection
from ehr_tokenize.build.summary import read_coverage
from ehr_tokenize.cli import main
from ehr_tokenize.config import TokenizeConfig
from ehr_tokenize.fit.passes import _occurrences
from ehr_tokenize.tokenizer.tokenizer import Tokenizer
from ehr_tracking.config import ConfigError, validate

DAY = "2020-01-0{}"


def rows(*codes):
    return [[DAY.format(i + 1), c] for i, c in enumerate(codes)]


@pytest.fixture
def made(tmp_path, write_meds):
    """Tokenise rows of (day, code) per subject and give back texts per subject, and the summary."""
    from datetime import datetime

    import polars as pl
    import pyarrow.parquet as pq

    from ehr_tokenize.build.build import tokenize

    def make(subjects, config=None, parents=None, splits=None, **kwargs):
        flat = [
            (s, t and datetime.fromisoformat(t), c, *(v or [None]))
            for s, found in subjects.items()
            for t, c, *v in found
        ]
        name = f"meds{len(list(tmp_path.iterdir()))}"
        meds = write_meds(flat, splits=splits, name=name)
        if parents:
            known = pl.read_parquet(meds / "metadata/codes.parquet")["code"].to_list()
            codes = list(dict.fromkeys([*known, *parents]))
            pl.DataFrame(
                {
                    "code": codes,
                    "description": [None] * len(codes),
                    "parent_codes": [parents.get(c) for c in codes],
                },
                {"code": pl.String, "description": pl.String, "parent_codes": pl.List(pl.String)},
            ).write_parquet(meds / "metadata/codes.parquet")
        out = tmp_path / f"out-{name}"
        done = tokenize(meds, out, validate(TokenizeConfig, config or {}, where="t"), **kwargs)
        texts = [t.text for t in Tokenizer.from_pretrained(out).tokens]
        found = [r for p in sorted(out.glob("*/*.parquet")) for r in pq.read_table(p).to_pylist()]
        return (
            done,
            {r["subject_id"]: [texts[i] for i in r["token"]][1:] for r in found},
            {r["subject_id"]: r["time"][1:] for r in found},
        )

    return make


def test_maps_come_first_and_what_they_do_not_know_is_kept_and_counted(made, tmp_path):
    (tmp_path / "map.csv").write_text("from,to\n250.00,E11.9\n")
    maps = [
        {"table": str(tmp_path / "map.csv"), "from": "ICD9//", "to": "ICD10CM//"},
        {"kind": "icd10", "from": "ICD10CM//", "characters": 3},
    ]
    subjects = {1: rows("ICD9//250.00", "ICD9//V99", "ICD10CM//E11.65", "LAB")}
    done, words, _ = made(subjects, {"maps": maps})
    assert words[1] == ["ICD10CM//E11", "ICD9//V99", "ICD10CM//E11", "LAB"]
    assert [(r.events_mapped, r.events_unmapped) for r in done.maps] == [(1, 1), (2, 0)]
    assert done.lines()[1].startswith(
        "map ICD9// -> ICD10CM// by map.csv: 1 of 2 codes mapped, 1 kept as they were (1 events)"
    )
    # the tokenizer holds the table itself: the file may go
    (tmp_path / "map.csv").unlink()
    _, again, _ = made(subjects, tokenizer=done.out)
    assert again == words
    assert str(tmp_path) not in (done.out / "tokenizer.json").read_text()
    assert str(tmp_path) not in (done.out / "manifest.json").read_text()


def test_codes_that_a_map_brings_together_share_their_bins(made):
    maps = [{"entries": {"A": "LAB", "B": "LAB"}}]
    subjects = {1: [[DAY.format(1), c, float(v)] for v, c in enumerate("ABAB")]}
    _, words, _ = made(subjects, {"maps": maps, "numeric": {"n_bins": 2, "min_values": 4}})
    assert words[1] == ["LAB//Q1", "LAB//Q1", "LAB//Q2", "LAB//Q2"]


def test_excluded_codes_are_as_if_they_were_not_there_but_counted(made):
    subjects = {1: rows("A", "BILL//1", "B", "BILL//2"), 2: rows("BILL//1")}
    done, words, times = made(subjects, {"vocabulary": {"exclude": ["^BILL//"]}})
    assert words == {1: ["A", "B"], 2: []}
    assert done.splits[0].excluded == 3
    assert "3 events excluded" in done.lines()[1]
    assert {f.name: f.excluded for f in read_coverage(done.out)["train"]}["BILL"] == 3
    without, same, same_times = made({1: [r for r in subjects[1] if "BILL" not in r[1]], 2: []})
    assert same[1] == words[1]
    assert same_times[1] == times[1]
    assert without.splits[0].excluded == 0


def test_a_delayed_code_is_known_later_and_takes_its_place_there(made):
    subjects = {1: rows("DX", "LAB", "LAB", "LAB")}
    _, words, times = made(subjects, {"delay": {"^DX": 2.0}})
    assert words[1] == ["LAB", "DX", "LAB", "LAB"]
    assert [t.day for t in times[1]] == [2, 3, 3, 4]


def test_what_is_always_known_is_not_delayed(made):
    subjects = {1: [[None, "DX"], [DAY.format(1), "LAB"]]}
    _, words, times = made(subjects, {"delay": {".*": 400.0}})
    assert words[1] == ["DX", "LAB"]
    assert [t and (t.year, t.month) for t in times[1]] == [None, (2021, 2)]


def test_a_token_that_few_people_have_is_left_out(made):
    subjects = {1: rows("RARE", "RARE", "RARE", "A"), 2: rows("A"), 3: rows("A")}
    _, words, _ = made(subjects, {"vocabulary": {"min_subjects": 2}})
    assert words[1] == ["[UNK]", "[UNK]", "[UNK]", "A"]


@pytest.mark.parametrize(
    ("vocabulary", "message"),
    [
        ({"exclude": [".*"]}, r"vocabulary\.exclude leaves no event of train"),
        (
            {"min_subjects": 9},
            r"min_count = 1 and min_subjects = 9 leave none of the 2 tokens that",
        ),
        ({"min_count": 9}, r"min_count = 9 and min_subjects = 1 leave none of the 2 tokens that"),
    ],
)
@pytest.mark.parametrize("kind", ["joint", "timeline"])
def test_a_vocabulary_without_any_code_is_refused(made, tmp_path, kind, vocabulary, message):
    subjects = {1: rows("A", "B"), 2: rows("A")}
    with pytest.raises(ConfigError, match=message):
        made(subjects, {"scheme": {"kind": kind}, "vocabulary": vocabulary})
    assert not list(tmp_path.glob("*out*"))
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("n_tokens", [7, 10_000])  # counted in a table, and by sorting
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 6)), max_size=40))
def test_events_and_subjects_of_tokens_are_what_a_dictionary_counts(n_tokens, pairs):
    subject, token = (np.array([p[i] for p in pairs], int) for i in (0, 1))
    events, subjects = _occurrences(subject, token.astype(np.uint32), (5, n_tokens))
    for t in range(n_tokens if n_tokens < 10 else 8):
        assert events[t] == sum(p[1] == t for p in pairs)
        assert subjects[t] == len({p[0] for p in pairs if p[1] == t})
    assert events.sum() == len(pairs)
    assert len(events) == len(subjects) == n_tokens


def test_values_of_few_people_are_not_in_the_tokenizer_either(made):
    def labs(code):
        return [[DAY.format(1), code, float(v)] for v in range(9)]

    subjects = {1: labs("RARE") + labs("LAB"), 2: labs("LAB")}
    config = {"vocabulary": {"min_subjects": 2}, "numeric": {"n_bins": 2, "min_values": 2}}
    done, words, _ = made(subjects, config)
    assert words[1][:9] == ["[UNK]"] * 9
    assert set(words[2]) == {"LAB//Q1", "LAB//Q2"}
    assert "RARE" not in (done.out / "tokenizer.json").read_text()


@pytest.mark.parametrize("kind", ["joint", "clmbr"])
def test_a_small_vocabulary_is_chosen_by_count_or_by_entropy(made, kind):
    """V has most events but everybody has it, so it tells nobody apart: its entropy is 0."""
    subjects = {s: rows("V", "V", *("F" * (s % 2)), *("C" * 3 * (s == 4))) for s in range(1, 5)}
    kept = {}
    for rank in ("count", "entropy"):
        config = {"scheme": {"kind": kind}, "vocabulary": {"max_size": 8, "rank": rank}}
        _, words, _ = made(subjects, config)
        kept[rank] = {w for found in words.values() for w in found} - {"[UNK]"}
    assert kept == {"count": {"V"}, "entropy": {"F"}}


PARENTS = {
    "E11.1": ["E11"], "E11.2": ["E11"], "E11": ["E"], "F10.1": ["F10"], "E": [], "X.1": ["X"],
    "X": ["X.1"],
}  # fmt: skip


def test_rare_codes_become_their_parents_as_far_up_as_it_takes(made):
    subjects = {
        1: rows("E11.1", "F10.1", "X.1"),
        2: rows("E11.2"),
        3: rows("OFTEN"),
        4: rows("OFTEN"),
        5: rows("E11.9"),  # rare, and without a parent
    }
    config = {"vocabulary": {"min_subjects": 2, "roll_up": True}}
    done, words, _ = made(subjects, config, PARENTS)
    # two people under E11; F10 has one, and no parent; X is its own grandparent
    assert words == {
        1: ["E11", "[UNK]", "[UNK]"], 2: ["E11"], 3: ["OFTEN"], 4: ["OFTEN"], 5: ["[UNK]"],
    }  # fmt: skip
    token = next(t for t in Tokenizer.from_pretrained(done.out).tokens if t.text == "E11")
    assert (token.count, token.subjects, token.kind) == (2, 2, "code")
    _, again, _ = made(subjects, tokenizer=done.out)
    assert again == words


def test_a_rolled_up_value_is_told_by_its_parent_alone(made):
    subjects = {s: [[DAY.format(1), f"LAB//{s}", float(v)] for v in range(9)] for s in (1, 2)}
    config = {
        "vocabulary": {"min_subjects": 2, "roll_up": True},
        "numeric": {"n_bins": 2, "min_values": 2},
    }
    _, words, _ = made(subjects, config, {"LAB//1": ["LAB"], "LAB//2": ["LAB"]})
    assert words == {1: ["LAB"] * 9, 2: ["LAB"] * 9}


def test_the_structure_of_a_scheme_is_always_in_the_vocabulary(made):
    subjects = {1: rows(*"AABCDE")}
    config = {"scheme": {"kind": "timeline"}, "vocabulary": {"max_size": 57, "min_subjects": 1}}
    _, words, _ = made(subjects, config)  # 7 + 19 + 20 + 10 leave room for one
    assert [w for w in words[1] if not w.startswith("TIME")] == ["A", "A", *["[UNK]"] * 4]
    config["vocabulary"]["max_size"] = 56
    with pytest.raises(ConfigError, match="max_size = 56 has no room for codes"):
        made(subjects, config)


def test_time_tokens_of_train_have_its_mean_and_others_a_usual_length(made):
    subjects = {
        1: [["2020-01-01 00:00", "A"], ["2020-01-01 00:06", "A"], ["2020-01-01 00:18", "A"]],
        2: [["2020-01-01", "A"], ["2021-01-01", "A"]],
    }
    done, _, _ = made(
        subjects, {"scheme": {"kind": "timeline"}}, splits={1: "train", 2: "held_out"}
    )
    tokens = Tokenizer.from_pretrained(done.out).tokens
    seconds = {t.text: t.seconds for t in tokens}
    assert seconds["TIME//5m-15m"] == (6 + 12) * 60 / 2
    assert seconds["TIME//6mo"] == 180 * 86_400


def test_inspect_tells_the_unknown_by_split_and_family(made, tmp_path):
    subjects = {1: rows("LAB//1", "LAB//2", "DX/1"), 2: rows("LAB//1", "LAB//9", "DX/9", "DX/8")}
    done, _, _ = made(subjects, splits={1: "train", 2: "held_out"})
    found = inspection.inspect(done.out)
    assert found.families == [
        {"family": "LAB", "events": 4, "unknown in train": "0.00%", "unknown in held_out": "50.00%"},
        {"family": "DX", "events": 3, "unknown in train": "0.00%",
         "unknown in held_out": "100.00%"},
    ]  # fmt: skip
    assert [r["unknown"] for r in found.splits] == ["0.00%", "75.00%"]
    shown = CliRunner().invoke(main, ["inspect", str(done.out)])
    assert "unknown in held_out" in shown.output
    new, _, _ = made(
        {3: rows("LAB//1", "NEW//1", "NEW//2")}, {"max_unknown": 0.9}, tokenizer=done.out
    )
    assert "most unknown events: NEW (2 of 2)" in "\n".join(new.lines())


def test_a_tokenizer_of_an_older_version_can_be_read(made):
    done, words, _ = made({1: rows("A", "B")})
    path = done.out / "tokenizer.json"
    tree = json.loads(path.read_text())
    old = {k: tree[k] for k in ("format", "vocab_sha256", "edges")}
    old["config"] = {
        "scheme": {"kind": "joint"},
        "numeric": {"n_bins": 10, "min_values": 20},
        "vocabulary": {"min_count": 1, "max_size": None},
        "visits": tree["config"]["visits"],
    }
    (done.out / "manifest.json").unlink()
    path.write_text(json.dumps(old))
    _, again, _ = made({1: rows("A", "B")}, tokenizer=done.out)
    assert again == words
