import hashlib
import json
import re

import meds
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from ehr_tokenize.cli import main
from ehr_tokenize.synthetic import codes, novel
from ehr_tokenize.synthetic.block import BLOCK
from ehr_tokenize.synthetic.cohort import synthesize, synthesize_json
from ehr_tokenize.synthetic.config import SynthConfig
from ehr_tokenize.synthetic.records import VOCABULARY
from ehr_tracking.errors import UserError


def events(out):
    return [
        event
        for path in sorted((out / "data").rglob("*.parquet"))
        for event in pq.read_table(path).to_pylist()
    ]


def digest(out):
    return {
        str(p.relative_to(out)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(out.rglob("*"))
        if p.is_file()
    }


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """The same cohort without and with novel codes."""
    root = tmp_path_factory.mktemp("novel")
    for name, p in (("plain", 0.0), ("novel", 0.05)):
        synthesize(root / name, SynthConfig(num_patients=300, seed=3, novel_prob=p))
    return root / "plain", root / "novel"


def test_novel_codes_replace_diagnoses_and_medication_with_that_probability(pair) -> None:
    plain, new = (events(x) for x in pair)
    changed = eligible = 0
    for before, after in zip(plain, new, strict=True):
        kind = before["code"].split("//")[0]
        eligible += kind in ("DIAGNOSIS", "MEDICATION")
        if before == after:
            continue
        changed += 1
        assert kind in ("DIAGNOSIS", "MEDICATION")
        assert {**after, "code": before["code"]} == before  # nothing but the code
        assert after["code"] not in VOCABULARY
    sd = (eligible * 0.05 * 0.95) ** 0.5
    assert abs(changed - 0.05 * eligible) < 4 * sd


def test_a_novel_code_is_in_no_table_but_its_parents_are(pair) -> None:
    listed = pq.read_table(pair[1] / meds.code_metadata_filepath)
    meds.CodeMetadataSchema.validate(listed)
    rows = {r["code"]: r for r in listed.to_pylist()}
    found = {e["code"] for e in events(pair[1])} - set(VOCABULARY)
    assert len(found) > 50
    for code in found:
        assert rows[code]["description"] is None
        assert rows[code]["parent_codes"]
        assert all(rows[p]["description"] for p in rows[code]["parent_codes"])


def test_novel_codes_keep_the_form_of_their_vocabulary_and_lead_up_to_a_known_code() -> None:
    for code in novel.NOVEL:
        _, vocabulary, text = code.split("//")
        if vocabulary == "ATC":
            assert re.fullmatch(r"[A-Z]\d\d[A-Z]{2}\d\d", text)
            assert text not in codes.ATC
            assert f"ATC/{text[:5]}" in VOCABULARY
        else:  # truncating one character at a time meets a code that has a title
            assert re.fullmatch(r"[A-Z]\d\w(\.\w{1,4})?", text)
            assert text not in codes.ICD10CM
            shorter = [text[:n].rstrip(".") for n in range(3, len(text))]
            assert any(s in codes.ICD10CM or f"ICD10CM/{s}" in VOCABULARY for s in shorter)


def test_json_has_the_diagnoses_and_medication_of_the_meds_data_set(pair, tmp_path) -> None:
    config = SynthConfig(num_patients=300, seed=3, novel_prob=0.05)
    synthesize_json(tmp_path / "p.json", config)
    patients = json.loads((tmp_path / "p.json").read_text())["patients"]
    assert [p["patient_id"] for p in patients] == [f"P{i:04d}" for i in range(1, 301)]
    wanted: dict[str, dict[str, list]] = {
        p["patient_id"]: {"diagnoses": [], "prescriptions": []} for p in patients
    }
    for e in events(pair[1]):
        kind, _, text = e["code"].rpartition("//")
        name = {"DIAGNOSIS//ICD10CM": "diagnoses", "MEDICATION//ATC": "prescriptions"}.get(kind)
        if name:
            day = e["time"].date().isoformat()
            wanted[f"P{e['subject_id']:04d}"][name].append({"code": text, "date": day})
    assert patients == [{"patient_id": i} | lists for i, lists in wanted.items()]


def test_json_is_replaced_only_when_asked(tmp_path) -> None:
    config = SynthConfig(num_patients=3)
    synthesize_json(tmp_path / "p.json", config)
    with pytest.raises(UserError, match="--overwrite"):
        synthesize_json(tmp_path / "p.json", config)
    with pytest.raises(UserError, match="exists"):
        synthesize_json(tmp_path, config, overwrite=True)
    synthesize_json(tmp_path / "p.json", config, overwrite=True)
    assert [p.name for p in tmp_path.iterdir()] == ["p.json"]


def test_the_command_writes_json_with_novel_codes(tmp_path) -> None:
    words = ["synth", "--num-patients", "40", "--novel-prob", "0.5", "--format", "json", "--out"]
    done = CliRunner().invoke(main, [*words, str(tmp_path / "p.json")])
    assert done.exit_code == 0, done.output
    assert "40 subjects" in done.output
    text = (tmp_path / "p.json").read_text()
    assert sum(f'"{c.rsplit("//")[-1]}"' in text for c in novel.NOVEL) > 20
    assert CliRunner().invoke(main, [*words, str(tmp_path / "q.json"), "--risks"]).exit_code == 2


@pytest.mark.dist
def test_the_number_of_workers_changes_no_byte(tmp_path) -> None:
    config = SynthConfig(num_patients=BLOCK + 50, seed=1, novel_prob=0.01)
    synthesize(tmp_path / "one", config)
    synthesize(tmp_path / "two", config, workers=2)
    assert digest(tmp_path / "one") == digest(tmp_path / "two")
