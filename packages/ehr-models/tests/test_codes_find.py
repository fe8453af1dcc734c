"""Which vector a token starts from: what its code stands for, and what lies above it."""

import pytest

from ehr_models.codes.find import Finder, look_up, look_up_texts
from ehr_models.codes.mapping import Mapping, MappingConfig, mapping_of
from ehr_models.codes.report import report_table, summary_rows
from ehr_models.codes.systems import above, normal
from ehr_models.codes.vectors import Key
from ehr_tracking.config import load_config
from ehr_tracking.errors import UserError

from .clinvec import NODES, words

KEYS = [Key(v, c) for v, codes in NODES.items() for c in codes]
ROWS = {key: i for i, key in enumerate(KEYS)}
FINDER = Finder(Mapping(), look_up(KEYS, Mapping()))


def find(*codes, finder=FINDER, **of):
    return finder.find(words(*codes, **of))


@pytest.mark.parametrize(
    ("code", "key"),
    [
        # MIMIC-IV
        ("DIAGNOSIS//ICD//10//E1165", "icd10cm:E11.65"),
        ("DIAGNOSIS//ICD//10//S72001A", "icd10cm:S72.001A"),
        ("DIAGNOSIS//ICD//9//25000", "icd9cm:250.00"),
        ("DIAGNOSIS//ICD//9//E8859", "icd9cm:E885.9"),
        ("DIAGNOSIS//ICD//9//V1582", "icd9cm:V15.82"),
        ("PROCEDURE//ICD//9//0039", "icd9cm:00.39"),
        ("ICD9Proc/00.39", "icd9cm:00.39"),
        ("HCPCS//99213", "cpt:99213"),
        ("HCPCS//0042T", "cpt:0042T"),
        # OMOP
        ("ICD10CM/E11.65", "icd10cm:E11.65"),
        ("ICD9CM/250.0", "icd9cm:250.0"),
        ("LOINC/2823-3//mmol/L", "lnc:2823-3"),
        ("SNOMED/44054006", "snomedct:44054006"),
        ("RxNorm/161", "rxnorm:161"),
        ("CPT4/99213", "cpt:99213"),
        # patients in JSON, synthetic, and what tokenising maps codes to
        ("DIAGNOSIS//ICD10CM//e11.9", "icd10cm:E11.9"),
        ("MEDICATION//ATC//N02BE01", "atc:N02BE01"),
        ("PROCEDURE//CPT//99213", "cpt:99213"),
        ("LAB//LOINC//2823-3//mmol/L", "lnc:2823-3"),
        ("ATC//A10B", "atc:A10B"),
        ("PHECODE//250.0", "phecode:250.0"),
        ("UMLS/C0011849", "umls:C0011849"),
        # no codes of these
        ("PROCEDURE//ICD//10//0FT44ZZ", "None"),
        ("HCPCS//G0378", "None"),
        ("RxNorm Extension/OMOP123", "None"),
        ("MEDICATION//START//Aspirin//00904585861", "None"),
        ("LAB//RESULT//50912//mg/dL", "None"),
        ("VISIT_START//Visit/IP", "None"),
        ("OMOP//161", "None"),
        ("GENDER//F", "None"),
    ],
)
def test_what_the_codes_of_our_sources_stand_for(code, key):
    assert str(Mapping().locate(code)) == key


def test_rules_of_a_user_come_first(tmp_path):
    path = tmp_path / "mapping.yaml"
    path.write_text(
        "rules:\n"
        r"- {pattern: 'DX:(\w\d\d)-(\w+)', vocabulary: icd10cm, code: '{0}.{1}'}" + "\n"
        "- {pattern: 'ATC//(.+)', vocabulary: house}\n"
    )
    mapping = mapping_of(load_config(MappingConfig, path))
    assert str(mapping.locate("dx:E11-65")) == "icd10cm:E11.65"
    assert str(mapping.locate("ATC//A10")) == "house:A10"
    assert str(mapping.locate("CPT4/99213")) == "cpt:99213"
    alone = mapping_of(load_config(MappingConfig, path, ["defaults=false"]))
    assert alone.locate("CPT4/99213") is None
    for wrong, message in {"(": "not a regular expression", "x": "names a group"}.items():
        path.write_text(f"rules: [{{pattern: '{wrong}', vocabulary: atc}}]")
        with pytest.raises(UserError, match=message):
            load_config(MappingConfig, path)


@pytest.mark.parametrize(
    ("vocabulary", "code", "expected"),
    [
        ("icd10cm", "E1165", ["E11.65", "E11.6", "E11"]),
        ("icd10cm", "s72.001a", ["S72.001A", "S72.001", "S72.00", "S72.0", "S72"]),
        ("icd10cm", "C7A00", ["C7A.00", "C7A.0", "C7A"]),
        ("icd10cm", "M1A.0110", ["M1A.0110", "M1A.011", "M1A.01", "M1A.0", "M1A"]),
        ("icd10cm", "O9A111", ["O9A.111", "O9A.11", "O9A.1", "O9A"]),
        ("icd10cm", "T360X1A", ["T36.0X1A", "T36.0X1", "T36.0X", "T36.0", "T36"]),
        ("icd10cm", "E08-E13", ["E08-E13"]),
        ("atc", "n02be01", ["N02BE01", "N02BE", "N02B", "N02", "N"]),
        ("atc", "N02B", ["N02B", "N02", "N"]),
        ("atc", "N", ["N"]),
        ("cpt", "99213", ["99213"]),
        ("rxnorm", "161", ["161"]),
        ("snomedct", "44054006", ["44054006"]),
        ("lnc", "2823-3", ["2823-3"]),
        ("phecode", "250.11", ["250.11", "250.1", "250"]),
        ("phecode", "008.5", ["008.5", "008"]),
        ("icd9cm", "25001", ["250.01", "250.0", "250"]),
        ("icd9cm", "E885.9", ["E885.9", "E885"]),
        ("icd9cm", "00.39", ["00.39", "00.3", "00"]),
    ],
)  # fmt: skip
def test_codes_above(vocabulary, code, expected):
    key = normal(Key(vocabulary, code))
    assert [k.code for k in (key, *above(key))] == expected


@pytest.mark.parametrize(
    ("code", "how", "used", "level"),
    [
        ("ICD10CM/E11.6", "exact", "icd10cm:E11.6", 0),
        ("DIAGNOSIS//ICD//10//E1165", "parent", "icd10cm:E11.6", 1),
        ("ICD10CM/E11.9", "parent", "icd10cm:E11", 1),
        ("ICD10CM/C7A.024", "parent", "icd10cm:C7A", 3),
        ("ICD10CM/S72.001A", "parent", "icd10cm:S72.0", 3),
        ("ICD10CM/J44", "random", None, 0),
        ("ATC/N02BE98", "parent", "atc:N02BE", 1),
        ("ATC/A10BA02", "parent", "atc:A10", 3),
        ("ATC/C01", "parent", "atc:C", 1),
        ("CPT4/99213", "exact", "cpt:99213", 0),
        ("CPT4/99214", "random", None, 0),
        ("RxNorm/162", "random", None, 0),
        ("PHECODE//250.0", "exact", "phecode:250.0", 0),
        ("DIAGNOSIS//ICD//9//2500", "exact", "icd9cm:250.0", 0),
        ("DIAGNOSIS//ICD//9//0039", "exact", "icd9cm:003.9", 0),
        ("PROCEDURE//ICD//9//0039", "exact", "icd9cm:00.39", 0),
        ("PHECODE//250.11", "parent", "phecode:250.1", 1),
        ("LOINC/14355-9", "random", None, 0),  # ClinVec has parts of LOINC, no tests
    ],
)
def test_the_vector_of_a_code(code, how, used, level):
    (found,) = find(code)
    assert (found.how, found.used and str(found.used), found.level) == (how, used, level)
    assert found.row == ROWS.get(found.used, -1)
    assert found.noisy == (how == "parent")


def test_specials_and_tokens_without_a_code_have_none_and_bins_share_one():
    code = "LAB//ICD10CM//I10"
    bins = [{"token": f"{code}//Q{i}", "kind": "value", "code": code, "bin": i} for i in (1, 2)]
    lead = {"token": "[VS]", "kind": "special", "code": "ICD10CM/E11"}
    found = find(code, *bins, {"token": "[1d]", "kind": "time"}, lead)
    assert [f.word.token for f in found] == [code, f"{code}//Q1", f"{code}//Q2"]
    assert {f.row for f in found} == {ROWS["icd10cm", "I10"]}
    assert [f.noisy for f in found] == [False, True, True]


def test_rxnorm_by_way_of_atc():
    finder = Finder(Mapping(), FINDER.rows, atc_of={"999": ["J01", "n02be51"]})
    found = find("RxNorm/161", "RxNorm/999", "RxNorm/5", finder=finder)
    assert [(f.how, str(f.used), f.level) for f in found] == [
        ("exact", "rxnorm:161", 0), ("parent", "atc:N02BE", 2), ("random", "None", 0),
    ]  # fmt: skip


def test_parents_that_the_vocabulary_tells():
    parents = {
        "HOUSE//1": {"parents": ["HOUSE//2", "HOUSE//3"]},
        "HOUSE//3": {"parents": ["ICD10CM/E11.65", "HOUSE//1"]},
        "HOUSE//4": {"parents": ["HOUSE//5"]},
    }
    found = {f.word.code: f for f in find(*parents, **parents)}
    assert (str(found["HOUSE//3"].used), found["HOUSE//3"].level) == ("icd10cm:E11.6", 2)
    assert (str(found["HOUSE//1"].used), found["HOUSE//1"].level) == ("icd10cm:E11.6", 3)
    assert found["HOUSE//4"].how == "random"
    flat = Finder(Mapping(), FINDER.rows, hierarchy=False)
    assert {f.how for f in find(*parents, finder=flat, **parents)} == {"random"}


def test_names_of_a_table_count_as_they_stand_and_as_what_they_stand_for():
    keys = [Key("", "HOUSE//1"), Key("", "icd10cm/e11.9"), Key("", "DIAGNOSIS//ICD//10//E119")]
    finder = Finder(Mapping(), look_up(keys, Mapping()))
    codes = ("HOUSE//1", "DIAGNOSIS//ICD//10//E119", "ICD10CM/E11.9", "ICD10CM/E11.91", "HOUSE")
    found = find(*codes, finder=finder)
    assert [f.row for f in found] == [0, 2, 1, 1, -1]


def test_descriptions_stand_in_for_codes_that_are_not_found():
    texts = [Key("", "Type 2 diabetes"), Key("", "HOUSE//2"), Key("", "Essential hypertension")]
    finder = Finder(Mapping(), FINDER.rows, look_up_texts(texts))
    of = {
        "ICD10CM/I10": {"description": "Essential hypertension"},
        "ICD10CM/E11.9": {"description": "type 2  Diabetes"},
        "HOUSE//1": {"description": "TYPE 2 DIABETES"},
        "HOUSE//3": {"description": "Other"},
    }
    found = find(*of, "HOUSE//2", finder=finder, **of)
    assert [f.how for f in found] == [
        "exact",
        "description",
        "description",
        "random",
        "description",
    ]
    assert [f.row for f in found][1:3] == [0, 0]
    assert [f.noisy for f in found] == [False, False, True, False, False]


def test_the_report_has_a_row_a_token_and_its_summary_counts_them():
    found = find("ICD10CM/E11.6", "ICD10CM/E11.65", "ICD10CM/S72.001A", "ATC/J01", "HOUSE//1")
    table = report_table(found)
    assert table.select(["code", "vocabulary", "found", "used", "level"]).to_pylist()[1] == {
        "code": "ICD10CM/E11.65", "vocabulary": "icd10cm", "found": "parent",
        "used": "icd10cm:E11.6", "level": 1,
    }  # fmt: skip
    assert table["id"].to_pylist() == [7, 8, 9, 10, 11]
    rows = {row["vocabulary"]: row for row in summary_rows(found)}
    assert list(rows) == ["atc", "icd10cm", "(none)", "all"]
    assert rows["all"] == {
        "vocabulary": "all", "tokens": 5, "exact": 1, "description": 0, "parent 1": 1, "parent 2": 0,
        "parent 3+": 1, "random": 2,
    }  # fmt: skip
