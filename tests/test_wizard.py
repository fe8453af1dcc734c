"""The wizard, driven as a person would: through a terminal."""

import json
import os
import pty
import select
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from ehr_tracking.errors import UserError
from ehr_train.wizard.find import data_below, form_of, vectors_below

EHR_TRAIN = str(Path(sys.executable).with_name("ehr-train"))


def drive(folder, answers, *options):
    """Everything that was shown, and how it ended; `answers` is (part of the question, answer)."""
    master, slave = pty.openpty()
    environment = {**os.environ, "COLUMNS": "200"}
    process = subprocess.Popen(
        [EHR_TRAIN, "--interactive", *options],
        cwd=folder, stdin=slave, stdout=slave, stderr=slave, env=environment,
    )  # fmt: skip
    os.close(slave)
    shown, asked, left, end = "", 0, list(answers), time.monotonic() + 240
    while time.monotonic() < end:
        if not select.select([master], [], [], 0.02)[0]:
            if left and left[0][0] in shown[asked:] and shown.rstrip(" ").endswith(":"):
                asked = len(shown)
                os.write(master, f"{left.pop(0)[1]}\n".encode())
            continue
        try:
            part = os.read(master, 65_536)
        except OSError:  # the other end is closed
            break
        if not part:
            break
        shown += part.decode()
    process.kill() if time.monotonic() >= end else None
    os.close(master)
    assert not left, shown[asked:]
    return shown.replace("\r\n", "\n"), process.wait()


@pytest.fixture(scope="module")
def workplace(tmp_path_factory, write_clinvec):
    """Patients, a ClinVec directory, and a hidden folder that is nobody's business."""
    folder = tmp_path_factory.mktemp("work")
    rows = [
        {
            "patient_id": f"P{i}", "sex": "FM"[i % 2], "birth_date": "1950-06-01",
            "diagnoses": [{"code": c, "date": f"20{10 + j}-01-1{i % 9}"} for j, c in enumerate(["I10", "E11.65"])],
            "prescriptions": [{"code": "N02BE01", "date": "2020-01-16"}],
        }
        for i in range(40)
    ]  # fmt: skip
    (folder / "data").mkdir()
    (folder / "data" / "patients.json").write_text(json.dumps({"patients": rows}))
    (folder / ".hidden").mkdir()
    (folder / ".hidden" / "patients.json").write_text(json.dumps({"patients": rows}))
    icd = ["I10", "E11", *(f"A{i}" for i in range(10, 90))]
    write_clinvec(folder / "ClinVec", {"icd10cm": icd, "atc": ["N02BE"]})
    return folder


ANSWERS = [
    ("Folder for everything", "data"),  # refused: it holds something
    ("Folder for everything", "made"),
    ("Generate new synthetic data", "n"),
    ("Number or path", "nowhere"),  # refused
    ("Number or path", "1"),
    ("Share of patients", "1.5"),  # refused
    ("Share of patients", "0.7"),
    ("Scheme of tokens", "joint"),
    ("Kind of model", "behrt"),
    ("Size", "tiny"),
    ("Maximum sequence length", "64"),
    ("Use pretrained vectors", "y"),
    ("ClinVec directory", ""),
    ("atc: include it", "y"),
    ("icd10cm: include it", "y"),
    ("Start novel codes", "y"),
    ("Embedding resize", "auto"),
    ("Keep the vectors", "n"),
    ("Passes over the data", "1"),
    ("Learning rate", "0.001"),
]


def test_from_patients_to_a_run_and_again_without_questions(workplace):
    shown, code = drive(workplace, [*ANSWERS, ("Proceed with training", "y")])
    assert code == 0, shown
    for part in (
        "STEP 1: Data", "STEP 2: Conversion", "STEP 3: Pretrained", "STEP 4: Review",
        "[1] data/patients.json (patients)", "data holds something already", "nowhere does not exist",
        "1.5 is not in the range", "[FOUND] ClinVec", "context: 64", "--vocabularies atc,icd10cm",
    ):  # fmt: skip
        assert part in shown
    assert ".hidden" not in shown
    made = workplace / "made"
    config = yaml.safe_load((made / "config.yaml").read_text())
    assert (config["model"]["kind"], config["optim"]["epochs"]) == ("behrt", 1)
    run = json.loads((made / "run" / "manifest.json").read_bytes())
    assert set(run["inputs"]) == {"tokens", "init"}
    train = json.loads((made / "tokens" / "manifest.json").read_bytes())["files"]
    assert 20 <= sum(f["rows"] for name, f in train.items() if name.startswith("train/")) <= 36
    again = made.rename(workplace / "elsewhere")
    before = (again / "run" / "manifest.json").read_bytes()
    paths = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    subprocess.run(["bash", str(again / "again.sh")], check=True, capture_output=True, env=paths)
    assert (again / "run" / "manifest.json").read_bytes() == before


def test_a_no_at_the_end_writes_nothing(workplace):
    answers = [
        ("Folder for everything", "untouched"), ("Generate new", "y"), ("Number of patients", "30"),
        ("Novel code", "0.02"), ("Seed", "1"), ("Share of patients", "0.8"), ("Scheme", "visits"),
        ("Kind of model", "gpt2"), ("Size", "tiny"), ("Maximum", "128"), ("Use pretrained", "n"),
        ("Passes", "2"), ("Learning rate", "0.001"), ("Proceed", "n"),
    ]  # fmt: skip
    shown, code = drive(workplace, answers)
    assert code == 0
    assert "Nothing was written." in shown
    assert not (workplace / "untouched").exists()
    assert "--novel-prob 0.02 --seed 1" in shown
    assert "kind: clm" in shown  # what that kind is pretrained for


def test_without_a_terminal_one_line_says_what_to_do(tmp_path):
    done = subprocess.run(
        [EHR_TRAIN, "--interactive"], cwd=tmp_path, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.strip().splitlines() == [
        "Error: --interactive asks questions, but there is no terminal; give --tokens, --out and -c"
    ]


def test_what_lies_below_a_folder(workplace):
    assert [f.form for f in data_below(workplace / "data")] == ["patients"]
    assert vectors_below(workplace) == [workplace / "ClinVec"]
    with pytest.raises(UserError, match="neither patients in JSON nor a MEDS data set nor tokens"):
        form_of(workplace)
