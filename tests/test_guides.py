"""Every command of the guides in docs/guides runs as it stands, in order, on few subjects and for few steps."""

import csv
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from click.testing import CliRunner

ROOT = Path(__file__).parents[1]
LINE = re.compile(r"^ {4}((?:[A-Z]+=\S+ )?(?:ehr-\w+|configs/recipes/\S+\.sh) .*)$", re.MULTILINE)
FEW = ["optim.epochs=null", "optim.steps=4", "validation.every=2", "validation.max_tokens=3000",
       "data.context=64", "data.batch_tokens=1024", "data.micro_tokens=512"]  # fmt: skip
BRIEF = {
    "ehr-train --tokens": FEW,
    "ehr-eval ehrshot": ["bootstraps=20", "ks=[-1]"],
    "ehr-eval survival": ["bootstraps=20"],
    "ehr-eval perplexity": ["stride=60", "subjects=6", "least_subjects=2"],
    "ehr-eval strata": ["bootstraps=20"],
    "ehr-eval judge": ["bootstraps=20"],
    "ehr-eval generate": ["budget=24", "samples=3"],
    "ehr-eval zeroshot": ["draw.budget=24", "draw.samples=3"],
    "ehr-eval curve": ["draw.budget=24", "draw.samples=3"],
}
"""Command -> settings by which it takes less time; none that changes what it does."""


def commands(guide):
    return [shlex.split(line) for line in LINE.findall((ROOT / "docs/guides" / guide).read_text())]


def smaller(words):
    """The same on few subjects, for few steps."""
    for name, settings in BRIEF.items():
        if " ".join(words).startswith(name):
            words = [*words, *(x for setting in settings for x in ("-s", setting))]
    if words[1] in ("generate", "zeroshot"):  # each process would import torch anew
        words = [*words, "--workers", "1"]
    if "configs/eval/exmed.yaml" in words:
        words = [*words, "-s", "heads.rf.trials=2", "-s", "heads.xgb.trials=2"]
    return [{"1000": "240", "2000": "240"}.get(w, w) if words[1] == "synth" else w for w in words]


def run(words):
    """One command, in this process but for scripts."""
    if words[0].startswith("ehr-"):
        from importlib import import_module

        package = {"ehr-track": "ehr_tracking"}.get(words[0], words[0].replace("-", "_"))
        main = import_module(f"{package}.cli").main
        done = CliRunner().invoke(main, smaller(words)[1:], catch_exceptions=False)
        assert done.exit_code == 0, f"{shlex.join(words)}\n{done.output}"
        return done.output
    environment = {
        **os.environ,
        "SET": " ".join(FEW),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    while "=" in words[0]:
        name, _, value = words.pop(0).partition("=")
        environment[name] = value
    ran = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


VECTORS = {
    "icd10cm": ["E11", "E11.9", "E11.65", "I10", "I50.9", "N18.3", "J44.9", *(f"R{i}" for i in range(100, 220))],
    "atc": ["C07AB02", "C09", "A10BA02", "N02BE", "C10AA05"],
    "cpt": ["99213", "99214"],
}  # fmt: skip
"""Some codes of the synthetic cohort, by vocabulary."""


@pytest.fixture
def here(tmp_path, monkeypatch, write_clinvec):
    """A working directory as at the root of the repository, with what the guides take for granted."""
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    write_clinvec(tmp_path / "ClinVec", VECTORS)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_outcomes(patients, path):
    """A row a patient: its last day, and whether it has more than the median of diagnoses."""
    rows = json.loads(patients.read_text())["patients"]
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["patient_id", "date", "label"])
        for number, row in enumerate(rows):
            days = [entry["date"] for entry in row["diagnoses"] + row["prescriptions"]]
            if days:
                writer.writerow([row["patient_id"], max(days), number % 2])


def test_the_behrt_guide(here):
    shown = {shlex.join(words[:2]): run(words) for words in commands("behrt.md")}
    assert "lora" in shown["ehr-models parameters"]
    for page in (
        "results/report.html",
        "survival/report.html",
        "runs.html",
        "runs/mlm/report.html",
    ):
        assert (here / "behrt" / page).stat().st_size > 10_000
    assert list((here / "behrt/runs/mlm/tensorboard").glob("*tfevents*"))
    merged = {p.name for p in (here / "behrt/merged").iterdir()}
    assert {"model.safetensors", "config.json", "manifest.json"} <= merged


def test_the_ehr_fm_guide(here):
    for words in commands("ehr-fm.md"):
        run(words)
    results = pl.read_parquet(here / "fm/results/results.parquet")
    assert {"direct", "mc", "moe", "zeroshot", "chrono", "counts"} == set(results["model"])
    assert (here / "fm/curve/report.html").stat().st_size > 10_000
    assert (here / "fm/futures/events").is_dir()
    events = pl.read_parquet(here / "fm/meds/data/**/*.parquet").filter(subject_id=12)
    later = events.filter(pl.col("code") != "MEDS_BIRTH", pl.col("time").is_not_null())
    points = pl.read_parquet(here / "fm/curve/curve.parquet")["prediction_time"]
    assert points.min() == later["time"].min()


def test_the_hf_ehr_guide(here):
    for words in commands("hf-ehr.md"):
        run(words)
    for page in ("results", "perplexity", "strata", "judgement"):
        assert (here / "hf" / page / "report.html").stat().st_size > 10_000
    measured = pl.read_parquet(here / "hf/perplexity/perplexity.parquet")
    assert {"gpt2", "llama", "mamba2"} == set(measured["checkpoint"])
    ranked = pl.read_parquet(here / "hf/strata/strata.parquet")
    assert "ehrshot counts lr" in set(ranked["model"])
    job = (here / "hf/job.sh").read_text()
    assert re.findall(r"--out (hf/runs/\w)", job) == ["hf/runs/a", "hf/runs/b"]
    page = (ROOT / "docs/guides/hf-ehr.md").read_text()
    found: dict[str, Any] = {}
    exec(page.partition("```python\n")[2].partition("```")[0], found)
    words = found["encoded"].strings[0]
    assert len({words[-1], words[-2]}) == 2  # 0 is a value, in another bin than 144
    assert found["logits"].shape == (1, len(words) + 1, found["model"].config.vocab_size)
    assert found["representation"].shape == (1, found["model"].config.hidden_size)


def test_the_exmed_bert_guide(here):
    for words in commands("exmed-bert.md"):
        if words[-3:-1] == ["patients.json", "outcomes.csv"]:
            run(
                [
                    "ehr-tokenize",
                    "synth",
                    "--format",
                    "json",
                    "--num-patients",
                    "60",
                    "--out",
                    "patients.json",
                ]
            )
            write_outcomes(here / "patients.json", here / "outcomes.csv")
        run(words)
    assert (here / "exmed/all/runs/finetuned/report.html").is_file()
    assert (here / "exmed/results/report.html").is_file()
    shutil.rmtree(here / "exmed")
