"""Code maps: tables worked by hand, and what holds of any."""

import csv
import io
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ehr_tokenize.codes.maps import (
    AtcLevel,
    Icd9Level,
    Icd10Level,
    PhecodeLevel,
    TableMap,
    apply_maps,
    cut_atc,
    cut_icd9,
    cut_icd10,
    cut_phecode,
    resolve,
)
from ehr_tokenize.codes.pairs import read_pairs
from ehr_tracking.config import ConfigError, to_dict, validate
from ehr_tracking.errors import UserError

# CMS general equivalence mappings, 2018: a few rows, in their order
GEM = """from,to,flags
250.00,E11.9,10000
401.9,I10,10000
428.0,I50.9,10000
V58.67,Z79.4,00000
"""


def table(tmp_path, text, name="map.csv"):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return path


def test_diagnoses_through_two_tables_and_a_level(tmp_path):
    phecodes = table(tmp_path, "from,to\nE11,250.2\nI10,401.1\n", "phecodes.csv")
    steps = [
        TableMap(table=table(tmp_path, GEM), from_="ICD9CM//", to="ICD10CM//"),
        Icd10Level(from_="ICD10CM//", characters=3),
        TableMap(table=phecodes, from_="ICD10CM//", to="PHECODE//"),
    ]
    codes = ["ICD9CM//250.00", "ICD10CM//E11.65", "ICD9CM//401.9", "ICD9CM//E849.0", "ICD9CM//428.0",
             "ICD9CM//V58.67", "LAB//250.00", "ICD9CM"]  # fmt: skip
    counts = [5, 4, 3, 7, 1, 2, 9, 9]
    done = apply_maps(codes, steps, counts)
    assert done.codes == ["PHECODE//250.2", "PHECODE//250.2", "PHECODE//401.1", "ICD9CM//E849.0",
                          "ICD10CM//I50", "ICD10CM//Z79", "LAB//250.00", "ICD9CM"]  # fmt: skip
    first, second, third = done.report
    assert (first.candidates, first.mapped, first.unmapped) == (5, 4, 1)
    assert (first.events_mapped, first.events_unmapped) == (11, 7)
    assert first.examples == ("ICD9CM//E849.0",)
    assert (second.candidates, second.mapped) == (5, 5)
    assert (third.mapped, third.unmapped, third.examples) == (
        3,
        2,
        ("ICD10CM//Z79", "ICD10CM//I50"),
    )
    assert first.line() == (
        "ICD9CM// -> ICD10CM// by map.csv: 4 of 5 codes mapped, 1 kept as they were (7 events), "
        "such as ICD9CM//E849.0"
    )


def test_drugs_to_atc_keep_leading_zeros_and_letter_case(tmp_path):
    path = tmp_path / "ndc.parquet"
    columns = {
        "from": ["00093104801", "93104801", "aB", "AB"],
        "to": ["A10BA02", "N02BE01", "X", "Y"],
    }
    pq.write_table(pa.table(columns), path)
    steps = [TableMap(table=path, from_="NDC//", to="ATC//"), AtcLevel(from_="ATC//", level=3)]
    codes = ["NDC//00093104801", "NDC//93104801", "NDC//093104801", "NDC//ab", "NDC//aB"]
    done = apply_maps(codes, steps)
    assert done.codes == ["ATC//A10B", "ATC//N02B", "NDC//093104801", "NDC//ab", "ATC//X"]
    assert [(r.mapped, r.unmapped) for r in done.report] == [(3, 2), (3, 0)]


def test_numbers_for_codes_are_refused(tmp_path):
    path = tmp_path / "ndc.parquet"
    pq.write_table(pa.table({"from": [93104801], "to": ["A10BA02"]}), path)
    with pytest.raises(UserError, match=r"ndc.parquet: column from is int64; codes are text"):
        apply_maps([], [TableMap(table=path)])


SEVERAL = "from,to\n1,A\n2,B\n2,B\n1,C\n"


def test_several_targets_are_refused_by_row(tmp_path):
    path = table(tmp_path, SEVERAL)
    with pytest.raises(
        UserError, match=r"row 5: '1' maps to 'C', but row 2 maps it to 'A'.*many: first"
    ):
        apply_maps(["X//2"], [TableMap(table=path, from_="X//")])


def test_or_the_first_is_taken_and_counted(tmp_path):
    step = TableMap(table=table(tmp_path, SEVERAL), from_="X//", to="Y//", many="first")
    for steps in ([step], resolve([step])):
        done = apply_maps(["X//1", "X//2"], steps)
        assert done.codes == ["Y//A", "Y//B"]
    assert apply_maps(["X//1", "X//2"], [step]).report[0].ambiguous == 1


def test_a_bom_is_no_part_of_the_header_and_quotes_none_of_the_code(tmp_path):
    path = table(tmp_path, '\ufefffrom,to\r\n"a,b",c\r\n')
    assert apply_maps(["a,b"], [TableMap(table=path)]).codes == ["c"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n", "column from is missing; its header has 'a', 'b'"),
        ("", "column from is missing; its header has nothing"),
        ("from,to\n1\n", "row 2: 1 columns, need 2"),
        ("from,to\n1,\n", "row 2: to is empty"),
        ("from,to\n,1\n", "row 2: from is empty"),
    ],
)
def test_a_bad_table_is_refused(tmp_path, text, message):
    with pytest.raises(UserError, match=message):
        apply_maps(["1"], [TableMap(table=table(tmp_path, text))])


def test_a_step_needs_one_table():
    for step in (TableMap(from_="A//"), TableMap(table="x.csv", entries={})):
        with pytest.raises(ConfigError, match="name its table, or give its entries"):
            apply_maps([], [step])


@pytest.mark.parametrize(
    ("code", "cut"),
    [
        ("E11.65", ["E11", "E11.6", "E11.65", "E11.65", "E11.65"]),
        ("E1165", ["E11", "E116", "E1165", "E1165", "E1165"]),
        ("S52.521A", ["S52", "S52.5", "S52.52", "S52.521", "S52.521A"]),
        ("C7A.00", ["C7A", "C7A.0", "C7A.00", "C7A.00", "C7A.00"]),
        ("I10", ["I10"] * 5),
        ("250.00", [None] * 5),
        ("e11", [None] * 5),
        ("E11.", [None] * 5),
        ("", [None] * 5),
    ],
)
def test_levels_of_icd10(code, cut):
    assert [cut_icd10(code, n) for n in range(3, 8)] == cut


@pytest.mark.parametrize(
    ("code", "cut"),
    [
        ("C09AA05", ["C", "C09", "C09A", "C09AA", "C09AA05"]),
        ("C09A", ["C", "C09", "C09A", "C09A", "C09A"]),
        ("C0", [None] * 5),
        ("C09AA0", [None] * 5),
        ("aspirin", [None] * 5),
    ],
)
def test_levels_of_atc(code, cut):
    assert [cut_atc(code, n) for n in range(1, 6)] == cut


@pytest.mark.parametrize(
    ("code", "cut"),
    [
        ("250.02", ["250", "250.0", "250.02"]),
        ("25002", ["250", "2500", "25002"]),
        ("0030", ["003", "0030", "0030"]),  # Salmonella; the zeros are part of it
        ("401", ["401"] * 3),
        ("V58.67", ["V58", "V58.6", "V58.67"]),
        ("E885.9", ["E885", "E885.9", "E885.9"]),  # causes of injury: a letter and three digits
        ("E8859", ["E885", "E8859", "E8859"]),
        ("E11.9", [None] * 3),  # ICD-10
        ("38.93", [None] * 3),  # a procedure
        ("250.", [None] * 3),
    ],
)
def test_levels_of_icd9(code, cut):
    assert [cut_icd9(code, n) for n in range(3, 6)] == cut


@pytest.mark.parametrize(
    ("code", "cut"),
    [
        ("250.11", ["250", "250.1", "250.11"]),
        ("008.5", ["008", "008.5", "008.5"]),
        ("8", ["8"] * 3),
        ("E11.9", [None] * 3),
        ("250.111", [None] * 3),
    ],
)
def test_levels_of_phecodes(code, cut):
    assert [cut_phecode(code, n) for n in range(3)] == cut


def test_codes_that_read_alike_in_two_systems_stay_apart():
    """250.0 is a phecode and an ICD-9 code; only what stands before it tells."""
    steps = [
        TableMap(entries={"250.0": "E11.9"}, from_="ICD9CM//", to="ICD10CM//"),
        PhecodeLevel(from_="PHECODE//", decimals=0),
    ]
    done = apply_maps(["ICD9CM//250.0", "PHECODE//250.0"], steps, [3, 4])
    assert done.codes == ["ICD10CM//E11.9", "PHECODE//250"]
    assert [(r.candidates, r.events_mapped) for r in done.report] == [(1, 3), (1, 4)]
    assert done.report[1].line().startswith("PHECODE// cut to 0 decimals: 1 of 1 codes mapped")


def test_what_is_no_code_of_the_kind_is_kept_and_counted():
    steps = [Icd10Level(from_="ICD//", characters=3), AtcLevel(from_="ATC//", level=1)]
    done = apply_maps(["ICD//E11.9", "ICD//9//4280", "ATC//UNK"], steps)
    assert done.codes == ["ICD//E11", "ICD//9//4280", "ATC//UNK"]
    assert [(r.mapped, r.unmapped) for r in done.report] == [(1, 1), (0, 1)]


def test_steps_are_written_as_in_yaml_and_survive_a_round_trip(tmp_path):
    from pydantic.dataclasses import dataclass

    from ehr_tokenize.codes.maps import MapStep
    from ehr_tracking.config import STRICT

    @dataclass(frozen=True, kw_only=True, config=STRICT)
    class Config:
        maps: tuple[MapStep, ...] = ()

    path = table(tmp_path, GEM)
    tree = {
        "maps": [
            {"table": str(path), "from": "ICD9CM//", "to": "ICD10CM//"},
            {"kind": "icd10", "from": "ICD10CM//", "characters": 3},
            {"kind": "icd9", "from": "ICD9CM//", "characters": 3},
            {"kind": "phecode", "from": "PHECODE//", "decimals": 1},
            {"kind": "atc", "from": "ATC//", "level": 5},
        ]
    }
    config = validate(Config, tree, where="test")
    fixed = Config(maps=resolve(config.maps))
    path.unlink()  # a resolved step no longer needs its table
    again = validate(Config, to_dict(fixed), where="test")
    assert again == fixed
    assert apply_maps(["ICD9CM//250.00"], again.maps).codes == ["ICD10CM//E11"]
    for wrong in ({"kind": "loinc"}, {"tabel": "x"}, {"kind": "atc", "from": "A", "level": 6}):
        with pytest.raises(ConfigError, match="maps"):
            validate(Config, {"maps": [wrong]}, where="test")


rests = st.text(st.sampled_from("AE1250./"), max_size=5)
prefixes = st.sampled_from(["ICD9CM//", "ICD10CM//", "ATC//", "LAB//", ""])
steps = st.one_of(
    st.builds(
        TableMap,
        entries=st.dictionaries(rests, rests),
        from_=st.just("ICD9CM//"),
        to=st.sampled_from(["ICD10CM//", "PHECODE//"]),
    ),
    st.builds(Icd10Level, from_=st.just("ICD10CM//"), characters=st.integers(3, 7)),
    st.builds(Icd9Level, from_=st.just("ICD9CM//"), characters=st.integers(3, 5)),
    st.builds(PhecodeLevel, from_=st.just("ICD9CM//"), decimals=st.integers(0, 2)),
    st.builds(AtcLevel, from_=st.just("ATC//"), level=st.integers(1, 5)),
)


@given(st.lists(st.builds("".join, st.tuples(prefixes, rests)), max_size=30), steps)
def test_no_code_is_lost_and_a_second_time_changes_nothing(codes, step):
    once = apply_maps(codes, [step])
    report = once.report[0]
    assert len(once.codes) == len(codes)
    assert report.mapped + report.unmapped == report.candidates
    assert report.candidates == sum(c.startswith(step.from_) for c in codes)
    for before, after in zip(codes, once.codes, strict=True):
        assert before == after or before.startswith(step.from_)
    assert apply_maps(once.codes, [step]).codes == once.codes


@given(st.lists(rests, unique=True, max_size=20), st.lists(steps, max_size=4))
def test_the_same_code_becomes_the_same_wherever_it_stands(codes, chain):
    codes = [p + c for c in codes for p in ("ICD9CM//", "ATC//")]
    together = apply_maps(codes, chain).codes
    assert together == [apply_maps([c], chain).codes[0] for c in codes]
    assert apply_maps(codes[::-1], chain).codes == together[::-1]


cells = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8)


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    return tmp_path_factory.mktemp("tables") / "t.csv"


@given(st.lists(st.tuples(cells, cells), max_size=8), st.sampled_from(["", "\ufeff"]))
def test_what_a_csv_writer_wrote_is_read_as_it_was(scratch: Path, pairs, bom):
    text = io.StringIO(newline="")
    writer = csv.writer(text, quoting=csv.QUOTE_ALL)
    writer.writerows([("note", "to", "from"), *(("x", value, key) for key, value in pairs)])
    scratch.write_bytes((bom + text.getvalue()).encode())
    assert [(p.key, p.value) for p in read_pairs(scratch, "from", "to")] == pairs


@given(st.binary(max_size=60), st.sampled_from([b"", b"from,to\n"]))
def test_any_bytes_are_a_table_or_one_clear_line(scratch: Path, data, header):
    scratch.write_bytes(header + data)
    try:
        assert all(p.key and p.value for p in read_pairs(scratch, "from", "to"))
    except UserError as e:
        assert str(e).startswith(str(scratch))
        assert "\n" not in str(e)
