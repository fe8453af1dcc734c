"""Vectors of codes as people have them, and what is refused."""

import json
import pickle

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from ehr_models.codes.clinvec import NTYPES, read_clinvec
from ehr_models.codes.tables import read_vectors
from ehr_models.codes.vectors import Key, joined
from ehr_tracking.errors import UserError

from .clinvec import NODES, NTYPE, vector, write_clinvec

TABLE = {"E11.65": [1.5, -2, 3], "I10": [0.25, 0, -10]}


@pytest.fixture
def clinvec(tmp_path):
    return write_clinvec(tmp_path / "ClinVec")


def test_a_clinvec_directory_is_keyed_by_vocabulary_and_code(clinvec):
    found = read_clinvec(clinvec)
    assert set(found.keys) == {Key(v, c) for v, codes in NODES.items() for c in codes}
    for key, row in zip(found.keys, found.matrix, strict=True):
        assert np.array_equal(row, vector(*key)), key
    assert not np.array_equal(vector("phecode", "250.0"), vector("icd9cm", "250.0"))
    assert NTYPES == NTYPE


def test_of_a_directory_the_vocabularies_that_are_asked_for_are_read(tmp_path):
    directory = write_clinvec(tmp_path / "c", ["atc", "icd10cm"])
    assert {k.vocabulary for k in read_clinvec(directory).keys} == {"atc", "icd10cm"}
    assert {k.vocabulary for k in read_vectors(directory, ["atc"]).keys} == {"atc"}


def edit(path, change):
    path.write_text(change(path.read_text()))


def _line(number, change):
    def edited(text):
        lines = text.split("\n")
        lines[number] = change(lines[number])
        return "\n".join(lines)

    return edited


def cell(column, value):
    return lambda line: ",".join(value if i == column else x for i, x in enumerate(line.split(",")))


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("ClinVec_atc.csv", _line(3, cell(5, "nan")), r"ClinVec_atc.csv row 3 \(atc:A10\), column 4: nan"),
        ("ClinVec_atc.csv", _line(3, cell(128, "-inf")), r"ClinVec_atc.csv row 3 \(atc:A10\), column 127: -inf"),
        ("ClinVec_atc.csv", _line(2, cell(3, "x")), "ClinVec_atc.csv row 2, column 2: 'x' is not a number"),
        ("ClinVec_atc.csv", _line(2, cell(3, "")), "ClinVec_atc.csv row 2, column 2: '' is not a number"),
        ("ClinVec_atc.csv", _line(2, cell(0, "1.5")), "row 2, column node_index: '1.5' is not an integer"),
        ("ClinVec_atc.csv", _line(4, lambda s: s + ",1"), "ClinVec_atc.csv row 4: 130 columns .expected 129"),
        ("ClinVec_atc.csv", _line(1, cell(0, "9")), "row 1, column node_index: node 9 is not in .*ClinGraph_nodes.csv"),
        ("ClinVec_atc.csv", lambda s: s + s.split("\n")[2] + "\n", r"row 5, column node_index: \d+ is in row 2 too"),
        ("ClinVec_atc.csv", _line(0, lambda s: s[: s.rindex(",")]), "ClinVec_atc.csv: width 127 .expected an unnamed"),
        ("ClinVec_atc.csv", _line(0, lambda s: "node_index" + s), "ClinVec_atc.csv: first column 'node_index'"),
        ("ClinVec_atc.csv", lambda s: s.split("\n")[0] + "\n", "ClinVec_atc.csv holds no vector"),
        ("ClinGraph_nodes.csv", lambda s: s.split("\n")[0] + "\n", "ClinGraph_nodes.csv holds no node"),
        ("ClinGraph_nodes.csv", lambda s: s.replace("A10:atc", "C:atc"), r"row 4, column code: atc:C is in row 3 too"),
        ("ClinGraph_nodes.csv", lambda s: s.replace("A10:atc", "A10"), "ClinGraph_nodes.csv row 16, column node_id: 'A10'"),
        ("ClinGraph_nodes.csv", lambda s: s.replace("\tATC", "\tCPT"), r"row 14, column ntype: CPT \(expected ATC"),
        ("ClinGraph_nodes.csv", lambda s: s.replace("\t", ","), "column node_id is missing .tab-separated"),
        ("ClinGraph_nodes.csv", lambda s: s + s.split("\n")[3] + "\n", r"row 23, column node_index: \d+ is in row 3 too"),
    ],
)  # fmt: skip
def test_a_directory_that_is_wrong_is_refused_by_file_row_and_column(
    clinvec, name, change, message
):
    edit(clinvec / name, change)
    with pytest.raises(UserError, match=message) as caught:
        read_clinvec(clinvec, ["icd10cm", "atc"])
    assert "\n" not in str(caught.value)


def test_what_is_not_there_is_refused(clinvec, tmp_path):
    (clinvec / "ClinVec_cpt.csv").unlink()
    for given, vocabularies, message in [
        (clinvec, ["cpt"], r"ClinVec_cpt.csv: no such file; there is atc, icd10cm"),
        (clinvec, ["icd11"], "no vocabulary icd11 in ClinVec; it has atc, cpt"),
        (tmp_path, None, "holds no ClinVec_<vocabulary>.csv"),
        (tmp_path / "none.csv", None, "none.csv: no such file or directory"),
        (clinvec / "ClinVec_atc.csv", None, "column code is missing"),
    ]:
        with pytest.raises(UserError, match=message):
            read_vectors(given, vocabularies)
    (clinvec / "ClinGraph_nodes.csv").unlink()
    with pytest.raises(UserError, match=r"ClinGraph_nodes.csv: no such file"):
        read_clinvec(clinvec)


def tensors():
    return {name: torch.tensor(v, dtype=torch.float64) for name, v in TABLE.items()}


def rows():
    return "".join(f"{name} {' '.join(map(str, v))}\n" for name, v in TABLE.items())


def whole():
    return {"codes": list(TABLE), "embeddings": torch.stack(list(tensors().values()))}


WRITERS = {
    "csv.csv": lambda p: p.write_text("code,b,a,c\n" + rows().replace(" ", ",")),
    "header.txt": lambda p: p.write_text("2 3\n" + rows()),
    "blank.vec": lambda p: p.write_text(rows().replace("\n", " \n")),
    "dict.pt": lambda p: torch.save(tensors(), p),
    "whole.pth": lambda p: torch.save(whole(), p),
    "dict.safetensors": lambda p: save_file(tensors(), p),
    "meta.safetensors": lambda p: save_file(
        {"embeddings": whole()["embeddings"].bfloat16()}, p, {"codes": json.dumps(list(TABLE))}
    ),
    "side.safetensors": lambda p: (
        save_file({"embeddings": whole()["embeddings"]}, p),
        p.with_name("side.codes.txt").write_text("\n".join(TABLE)),
    ),
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_form_of_a_table_gives_the_same(tmp_path, name):
    WRITERS[name](tmp_path / name)
    found = read_vectors(tmp_path / name)
    assert dict(zip(found.keys, found.matrix.tolist(), strict=True)) == {
        Key("", code): v for code, v in TABLE.items()
    }
    assert found.matrix.dtype == np.float32
    assert set(read_vectors(f"ICD10CM={tmp_path / name}").keys) == {
        Key("icd10cm", c) for c in TABLE
    }


def test_a_csv_may_name_vocabularies_and_codes_with_leading_zeros(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("vocabulary,code,x\nphecode,250.0,1\nICD9CM,250.0,2\nphecode,008,3\n")
    assert read_vectors(path).keys == [
        Key("phecode", "250.0"), Key("icd9cm", "250.0"), Key("phecode", "008"),
    ]  # fmt: skip


def test_names_with_blanks_are_read_where_the_width_is_told(tmp_path):
    (tmp_path / "t.txt").write_text("1 2\nType 2 diabetes 0.5 1\n")
    assert read_vectors(tmp_path / "t.txt").keys == [Key("", "Type 2 diabetes")]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.txt", "a 1 2\nb 1\n", "t.txt row 2: 1 numbers .expected 2"),
        ("t.txt", "a 1 2\nb 1 x\n", "t.txt row 2, column 1: 'x' is not a number"),
        ("t.txt", "a 1 2\na 3 4\n", "t.txt row 2, column code: a is in row 1 too"),
        ("t.txt", "3 2\na 1 2\n", "1 vectors, but its first line says 3"),
        ("t.txt", "a 1 2\nb 1 nan\n", r"t.txt row 2 \(b\), column 1: nan is not a finite"),
        ("t.txt", "", "t.txt holds no vector"),
        ("t.csv", "code,x,x\na,1,2\n", "names no numbers, or a column twice"),
        ("t.csv", "code,x\na,1e50\n", "column 0: inf is not a finite number"),
        ("t.parquet", "", r"ends in .csv, .txt, .vec, .safetensors, .pt, .pth, or is a ClinVec"),
        ("t.safetensors", "none", "no safetensors file"),
        ("t.pt", {"a": torch.ones(2), "b": torch.ones(3)}, r"b is \[3\] .expected a tensor \[2\]"),
        ("t.pt", {"weight": torch.ones(2, 2)}, r"weight is \[2, 2\]"),
        ("t.pt", {"embeddings": torch.ones(2, 2)}, "does not say which code each row"),
        ("t.pt", {"codes": ["a"], "embeddings": torch.ones(2, 2)}, "not a list of 2 names"),
        ("t.pt", {1: torch.ones(2)}, "1 is no code"),
        ("t.pt", torch.ones(2), "holds a Tensor, not a dict"),
    ],
)
def test_a_table_that_is_wrong_is_refused_in_one_line(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_text(content) if isinstance(content, str) else torch.save(content, path)
    with pytest.raises(UserError, match=message) as caught:
        read_vectors(path)
    assert "\n" not in str(caught.value)


class Malicious:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.mark.parametrize("save", [torch.save, lambda x, p: p.write_bytes(pickle.dumps(x))])
def test_a_malicious_pickle_is_refused_without_being_run(tmp_path, save):
    trace = tmp_path / "was-run"
    save({"I10": torch.ones(2), "x": Malicious(trace)}, tmp_path / "t.pt")
    with pytest.raises(UserError, match="was not loaded: only tensors"):
        read_vectors(tmp_path / "t.pt")
    assert not trace.exists()
    pickle.loads(pickle.dumps(Malicious(trace))).close()  # noqa: S301 -- it would have been seen
    assert trace.exists()


def test_tables_of_several_widths_are_refused(tmp_path):
    for name, line in {"a.txt": "a 1 2", "b.txt": "b 1"}.items():
        (tmp_path / name).write_text(line)
    with pytest.raises(UserError, match=r"b.txt has vectors of width 1, .*a.txt of 2"):
        joined([read_vectors(tmp_path / n) for n in ("a.txt", "b.txt")])
