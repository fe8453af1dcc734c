"""Every command and every example that the guides show runs as it stands, where inputs are there."""

import csv
import json
import re
import shlex
import shutil
from pathlib import Path

import polars as pl
import pytest
from click.testing import CliRunner

from ehr_tokenize.cli import main
from ehr_tokenize.synthetic.cohort import synthesize, synthesize_json
from ehr_tokenize.synthetic.config import SynthConfig

ROOT = Path(__file__).parents[3]
GUIDES = {
    "ehr-tokenize": ROOT / "packages/ehr-tokenize/README.md",
    **{p.stem: p for p in sorted((ROOT / "docs").glob("*.md"))},
    **{p.stem: p for p in sorted((ROOT / "docs/sources").glob("*.md"))},
}
LINE = re.compile(r"^ {4}(?:\$ )?(ehr-tokenize (?:.*\\\n)*.*)$", re.MULTILINE)
PYTHON = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
REAL_DATA = {"mimic-iv-demo-2.2": "mimic_raw", "mimic-iv-demo": "mimic_demo"}
"""What guides call a real data set, and the fixture of it."""
QUICK = (
    "-s risks.true_draws=4 -s risks.cells=16 -s risks.chains=2 -s risks.kept=1 -s risks.sweeps=1"
)


def commands(path):
    found = [re.sub(r"\\\n", " ", x) for x in LINE.findall(path.read_text())]
    return [shlex.split(x, comments=True)[1:] for x in found]


def examples(path):
    found = PYTHON.findall(path.read_text())
    return found if any("ehr_tokenize" in x for x in found) else []


def asks_for(name, data_set):
    return any(data_set in words for words in commands(GUIDES[name]))


SHOWN = [name for name, path in GUIDES.items() if commands(path) or examples(path)]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """What the guides take for granted: data sets, labels and sources under the names they use."""
    root = tmp_path_factory.mktemp("inputs")
    for name, seed in (("demo", 0), ("other", 1), ("new", 2), ("broken", 3), ("big", 4)):
        synthesize(root / name / "meds", SynthConfig(num_patients=60, seed=seed))
    file = next((root / "broken/meds/data").rglob("*.parquet"))
    pl.read_parquet(file).reverse().write_parquet(file)
    events = pl.read_parquet(root / "demo/meds/data/train/*.parquet")
    keys = (
        events.drop_nulls("time").group_by("subject_id").agg(prediction_time=pl.col("time").max())
    )
    (root / "demo/labels/task").mkdir(parents=True)
    keys.sort("subject_id").write_parquet(root / "demo/labels/task/labels.parquet")
    synthesize_json(root / "synthetic_patients.json", SynthConfig(num_patients=20))
    entry = {"type": "code", "code_string": "GENDER//F"}
    clmbr = root / "clmbr_v8_original_dictionary.json"
    clmbr.write_text(json.dumps({"regular": [entry]}))
    theirs = root / "gpt-base-512-clmbr" / "tokenizer_config.json"
    theirs.parent.mkdir()
    theirs.write_text(json.dumps({"tokens": [{"type": "code", "code": "GENDER//F"}]}))
    for name, rows in {
        "labs.csv": [
            ["patient", "when", "kind", "code", "result", "units", "note", "encounter", "title"],
            ["17", "2021-03-01 08:30:00", "LAB", "2823-3", "4.1", "mmol/L", "", "901", "Potassium"],
        ],
        "tests.csv": [["patient", "test", "at"], ["1", "A", "2020-01-01"]],
        "cases.csv": [
            ["subject", "case", "index_date"],
            [str(keys["subject_id"][0]), "1", "2020-01-31"],
        ],
        "my-cdm/PERSON.csv": [["person_id", "year_of_birth"], ["1", "1970"]],
    }.items():
        (root / name).parent.mkdir(exist_ok=True)
        with (root / name).open("w", newline="") as f:
            csv.writer(f).writerows(rows)
    return root


@pytest.fixture
def here(inputs, tmp_path, monkeypatch):
    """A working directory with copies of the inputs, as a user at the root of the repository has it."""
    shutil.copytree(inputs, tmp_path, dirs_exist_ok=True)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def smaller(words):
    """The same command on a few subjects."""
    line = shlex.join(words).replace("--num-patients 2000", "--num-patients 60")
    if "--risks" in words:
        line = line.replace("--workers 2", QUICK)
    return shlex.split(line)


def test_the_guides_that_show_something_are_found():
    assert {"ehr-tokenize", "tokenize", "schemes", "narratives", "synthetic", "mimic"} <= set(SHOWN)
    assert {"omop", "events", "patients-json", "maps"} <= set(SHOWN)


def run_commands(path, missing=frozenset()):
    """Run what a guide shows in order; return what asks for `missing`, or for what that would make."""
    missing, left_out = set(missing), []
    for words in commands(path):
        out = words[words.index("--out") + 1] if "--out" in words else None
        if missing & (set(words) - {out}):
            left_out.append(shlex.join(words))
            missing.add(out)
            continue
        if words[0] == "synth":
            shutil.rmtree(out, ignore_errors=True)
        if "demo/tokens" in words and out is None and not Path("demo/tokens").exists():
            continue
        done = CliRunner().invoke(main, smaller(words), catch_exceptions=False)
        assert done.exit_code == 0, f"{shlex.join(words)}\n{done.output}"
    return left_out


def run_examples(path):
    given = {"meds": Path("demo/meds"), "labels": Path("demo/labels"), "out": Path("demo/again")}
    for example in examples(path):
        exec(compile(example, str(path), "exec"), given)


@pytest.mark.parametrize("name", SHOWN)
def test_every_command_and_example_of_a_guide_runs(name, here):
    """But for the commands that ask for real data, which the next test runs."""
    run_commands(GUIDES[name], set(REAL_DATA))
    run_examples(GUIDES[name])


@pytest.mark.parametrize(
    ("name", "data_set"), [(n, x) for n in SHOWN for x in REAL_DATA if asks_for(n, x)]
)
def test_every_command_of_a_guide_on_real_data_runs(name, data_set, here, real_data, request):
    Path(data_set).symlink_to(request.getfixturevalue(REAL_DATA[data_set]))
    left_out = run_commands(GUIDES[name], REAL_DATA.keys() - {data_set})
    assert not [line for line in left_out if data_set in shlex.split(line)]
