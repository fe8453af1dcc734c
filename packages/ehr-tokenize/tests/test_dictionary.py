# ruff: noqa: DTZ001 -- MEDS times have no zone
"""A dictionary that others fitted, against tokens worked out by hand."""

import json
from datetime import datetime

import polars as pl
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from ehr_tokenize.build.build import tokenize
from ehr_tokenize.cli import main
from ehr_tokenize.fit.dictionary import from_dictionary
from ehr_tokenize.tokenizer.tokenizer import Tokenizer
from ehr_tracking.errors import UserError

MAX = 1.7976931348623157e308  # how CLMBR writes that there is no bound


def femr(kind, code, lower=0.0, upper=0.0, text=""):
    return {"type": kind, "code_string": code, "val_start": lower, "val_end": upper,
            "text_string": text, "weight": -0.1}  # fmt: skip


FEMR = [
    femr("code", "Gender/F"),
    femr("numeric", "LOINC/K", 4.1, MAX),
    femr("numeric", "LOINC/K", -MAX, 3.5),  # from 3.5 to 4.1 the dictionary has no token
    femr("text", "CULTURE", text=" positive "),
    femr("unused", ""),
    femr("code", "LOINC/K"),
    femr("numeric", "LOINC/GAP", 0.0, 0.0),  # without width
    femr("text", "NOTE", text=""),
    femr("numeric", "LOINC/ALL", -MAX, MAX),
    femr("code", "LATE"),
]
HF_EHR = [
    {"code": "Gender/F", "type": "code", "description": "female", "tokenization": {}, "stats": []},
    {"code": "LOINC/K", "type": "numerical_range", "description": "Potassium",
     "tokenization": {"unit": "None", "range_start": 4.1, "range_end": MAX}},
    {"code": "LOINC/K", "type": "numerical_range", "description": "Potassium",
     "tokenization": {"unit": None, "range_start": -MAX, "range_end": 3.5}},
    {"code": "CULTURE", "type": "categorical", "tokenization": {"categories": ["positive"]}},
    {"code": "LOINC/K", "type": "code"},
    {"code": "LOINC/ALL", "type": "code"},
    {"code": "LATE", "type": "code"},
]  # fmt: skip
TOKENS = ["Gender/F", "LOINC/K//Q3", "LOINC/K//Q1", "CULTURE || positive", "LOINC/K", "LOINC/ALL",
          "LATE"]  # fmt: skip


def write(path, tree):
    path.write_text(json.dumps(tree))
    return path


def texts(out):
    return [t.text for t in Tokenizer.from_pretrained(out).tokens[7:]]


@pytest.mark.parametrize("tree", [{"regular": FEMR}, {"tokens": HF_EHR, "metadata": {}}])
def test_both_forms_give_the_tokens_in_their_order(tmp_path, tree):
    done = from_dictionary(write(tmp_path / "d.json", tree), tmp_path / "out")
    assert texts(tmp_path / "out") == TOKENS
    assert done.lines()[-1].endswith(
        ": 14 tokens in the vocabulary, of these 4 codes, 1 texts, 2 ranges"
    )
    if "regular" in tree:
        assert sorted(done.left_out.values()) == [1, 1, 1]


def test_types_may_be_numbers_and_the_first_entries_can_be_taken(tmp_path):
    kinds = {"code": 0, "numeric": 1, "text": 2, "unused": 3}
    rows = [row | {"type": kinds[row["type"]]} for row in FEMR]
    source = write(tmp_path / "d.json", {"regular": rows})
    from_dictionary(source, tmp_path / "out", size=5)
    assert texts(tmp_path / "out") == TOKENS[:4]


def test_data_get_its_tokens_and_nothing_is_fitted(tmp_path, write_meds):
    from_dictionary(write(tmp_path / "d.json", {"regular": FEMR}), tmp_path / "clmbr")
    at = datetime(2020, 1, 1)
    rows = [
        (None, "Gender/F", None, None),
        (at, "LOINC/K", 3.4, None),
        (at, "LOINC/K", 3.5, None),  # between the ranges: no token, but no event is lost
        (at, "LOINC/K", 4.1, None),
        (at, "LOINC/K", None, None),
        (at, "LOINC/ALL", 7.0, None),
        (at, "CULTURE", None, "positive"),
        (at, "CULTURE", None, "negative"),
        (at, "NEW", None, None),
    ]
    schema = {"subject_id": pl.Int64, "time": pl.Datetime("us"), "code": pl.String,
              "numeric_value": pl.Float32, "text_value": pl.String}  # fmt: skip
    meds = write_meds(pl.DataFrame([(1, *r) for r in rows], schema, orient="row"))
    done = tokenize(meds, tmp_path / "out", tokenizer=tmp_path / "clmbr")
    [row] = pq.read_table(tmp_path / "out/train").to_pylist()
    tokens = Tokenizer.from_pretrained(tmp_path / "out").tokens
    assert [tokens[i].text for i in row["token"]] == [
        "[BOS]", "Gender/F", "LOINC/K//Q1", "[UNK]", "LOINC/K//Q3", "LOINC/K", "LOINC/ALL",
        "CULTURE || positive", "[UNK]", "[UNK]",
    ]  # fmt: skip
    assert done.splits[0].unknown == 3
    assert (tokens[8].lower, tokens[8].upper) == (pytest.approx(4.1), float("inf"))


def test_a_tokenizer_of_hf_ehr_says_what_its_tokens_mean(tmp_path):
    from_dictionary(write(tmp_path / "d.json", {"tokens": HF_EHR}), tmp_path / "out")
    tokenizer = Tokenizer.from_pretrained(tmp_path / "out")
    said = tokenizer.decode(range(7, 11))
    assert said == ["female", "Potassium: 4.1 or more", "Potassium: below 3.5", "CULTURE: positive"]


ONE = HF_EHR[1]


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ([], 'expected {"regular": [...]} (FEMR) or {"tokens": [...]} (hf_ehr)'),
        ({"regular": {}}, "expected"),
        ({"regular": []}, "holds no token"),
        ({"regular": [1]}, "regular[0]: not an object"),
        ({"regular": [{"type": "age"}]}, "regular[0]: type is 'age', expected one of code, numeric"),
        ({"regular": [femr("code", None)]}, "regular[0]: code_string is None, expected text"),
        ({"regular": [femr("numeric", "A", "1", 2)]}, "regular[0]: val_start is '1', expected a num"),
        ({"regular": [femr("code", "A")] * 2}, "regular[1]: 'A' is there twice, first in {}/d.json"),
        ({"regular": [femr("code", "[UNK]")]}, "'[UNK]' is there twice, first in the special tokens"),
        ({"regular": [femr("numeric", "A", 1, 3), femr("numeric", "A", 2, 4)]},
         "regular[1]: its range overlaps that of {}/d.json regular[0], of the same code"),
        ({"tokens": [ONE | {"tokenization": {"unit": "mg", "range_start": 1, "range_end": 2}}]},
         "tokens[0]: a range of one unit; fit the scheme cookbook"),
        ({"tokens": [ONE | {"tokenization": 3}]}, "tokens[0]: tokenization is no object"),
    ],
)  # fmt: skip
def test_a_wrong_dictionary_is_refused_in_one_line(tmp_path, tree, message):
    source = write(tmp_path / "d.json", tree)
    command = ["dictionary", str(source), "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(main, command)
    assert done.exit_code == 2
    assert message.replace("{}", str(tmp_path)) in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert {p.name for p in tmp_path.iterdir()} == {"d.json"}


def test_what_is_no_json_or_not_there_is_refused_and_nothing_is_replaced(tmp_path):
    (tmp_path / "d.json").write_text("{")
    with pytest.raises(UserError, match="not JSON"):
        from_dictionary(tmp_path / "d.json", tmp_path / "out")
    with pytest.raises(UserError, match="no such file"):
        from_dictionary(tmp_path / "none.json", tmp_path / "out")
    source = write(tmp_path / "d.json", {"regular": FEMR})
    from_dictionary(source, tmp_path / "out")
    with pytest.raises(UserError, match="exists"):
        from_dictionary(source, tmp_path / "out")


def test_the_command_tells_what_was_left_out(tmp_path):
    source = write(tmp_path / "d.json", {"regular": FEMR})
    done = CliRunner().invoke(main, ["dictionary", str(source), "--out", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    assert "left out 1 entries of ranges without width" in done.output.splitlines()
