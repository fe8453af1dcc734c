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

import numpy as np
import polars as pl
import pytest
from click.testing import CliRunner

from ehr_eval.tasks.chexpert import FINDINGS
from ehr_tracking.checkpoints import resolve

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[1]
LINE = re.compile(r"^ {4}((?:[A-Z]+=\S+ )?(?:ehr-\w+|configs/recipes/\S+\.sh) .*)$", re.MULTILINE)
FEW = ["optim.epochs=null", "optim.steps=4", "validation.every=2", "validation.max_tokens=3000",
       "data.context=64", "data.batch_tokens=1024", "data.micro_tokens=512"]  # fmt: skip
BRIEF = {
    "ehr-train --tokens": FEW,
    "ehr-train text": FEW,
    "ehr-eval ehrshot": ["bootstraps=20", "ks=[-1]", "replicates_all=1"],
    "ehr-eval survival": ["bootstraps=20"],
    "ehr-eval perplexity": ["stride=60", "subjects=6", "least_subjects=2"],
    "ehr-eval strata": ["bootstraps=20"],
    "ehr-eval judge": ["bootstraps=20"],
    "ehr-eval generate": ["budget=24", "samples=3"],
    "ehr-eval zeroshot": ["draw.budget=24", "draw.samples=3"],
    "ehr-eval curve": ["draw.budget=24", "draw.samples=3"],
}
"""Command -> settings by which it takes less time; none that changes what it does."""


SMALL_HEADS = {
    "lr": {"kind": "lr", "c": [1.0]},
    "gbm": {
        "kind": "gbm",
        "learning_rate": [0.1],
        "max_depth": [3],
        "num_leaves": [10],
        "rounds": 10,
    },
}


def commands(guide):
    return [shlex.split(line) for line in LINE.findall((ROOT / "docs/guides" / guide).read_text())]


def smaller(words):
    """The same on few subjects, for few steps."""
    for name, settings in BRIEF.items():
        if " ".join(words).startswith(name):
            words = [*words, *(x for setting in settings for x in ("-s", setting))]
    if words[1] == "sweep":
        at = words.index("--run") + 1
        few = " ".join(f"-s {setting}" for setting in FEW)
        words = [*words[:at], f"{words[at]} {few}", *words[at + 1 :], "--trials", "1"]
    if words[1] in ("generate", "zeroshot"):  # each process would import torch anew
        words = [*words, "--workers", "1"]
    if words[1] == "ehrshot":
        words = [*words, "--workers", "1"]
        if "-c" not in words and not any(word.startswith("heads=") for word in words):
            words = [*words, "-s", f"heads={json.dumps(SMALL_HEADS)}"]
    if "configs/eval/exmed.yaml" in words:
        words = [*words, "-s", "heads.rf.trials=2", "-s", "heads.xgb.trials=2"]
        words = [*words, "-s", "heads.rf.n_estimators=[5,20]"]
    if "ehrshot/results-heads" in words:
        words = [*words, "-s", "tasks=[guo_los,new_hypertension]"]
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


SPLITS = {"train": "train", "tuning": "val", "held_out": "test"}
"""Of MEDS -> of EHRSHOT."""
THEIRS = {"readmission_30d": "guo_readmission", "long_stay": "guo_los", "abnormal_lab_next_visit": "lab_anemia",
          "new_diagnosis_1y": "new_hypertension"}  # fmt: skip
"""Tasks of the synthetic cohort -> whose shape they are given."""


def write_ehrshot_assets(root):
    """A synthetic cohort as EHRSHOT is published: labels, shots and splits as CSV and JSON, events as MEDS."""
    run(["ehr-tokenize", "synth", "--num-patients", "240", "--risks", "--out", str(root / "meds")])
    splits = pl.read_parquet(root / "meds/metadata/subject_splits.parquet")
    named = splits.select(
        pl.col("split").replace_strict(SPLITS), omop_person_id=pl.col("subject_id")
    )
    (root / "splits").mkdir()
    named.write_csv(root / "splits/person_id_map.csv")
    rng = np.random.default_rng(0)
    for task, name in THEIRS.items():
        rows = pl.read_parquet(root / "meds/labels" / task / "**/*.parquet").join(
            splits, on="subject_id"
        )
        rows = rows.sort("subject_id", "prediction_time")
        yes = rows["boolean_value"].to_numpy()
        severity = np.where(yes, rng.integers(1, 4, len(yes)), 0)
        write_ehrshot_task(
            root, name, rows, severity if name.startswith("lab_") else yes, {name: yes}
        )
        if name == "guo_los":
            number = rng.integers(0, 1 << 14, len(yes))
            findings = {f: (number >> (13 - i) & 1).astype(bool) for i, f in enumerate(FINDINGS)}
            write_ehrshot_task(root, "chexpert", rows, number, findings)
    shutil.rmtree(root / "meds/labels")


def write_ehrshot_task(root, name, rows, value, sub_tasks):
    folder = root / "benchmark" / name
    folder.mkdir(parents=True)
    kind = "boolean" if value.dtype == bool else "categorical"
    times = [time.isoformat() for time in rows["prediction_time"]]
    columns = {"patient_id": rows["subject_id"], "prediction_time": times, "value": value.astype(str), "label_type": [kind] * len(times)}  # fmt: skip
    pl.DataFrame(columns).write_csv(folder / "labeled_patients.csv")
    tree = {}
    for sub_task, yes in sub_tasks.items():
        one = {}
        for split, theirs in (("train", "train"), ("tuning", "val")):
            at = np.flatnonzero(rows["split"].to_numpy() == split)
            one |= {f"{theirs}_idxs": at.tolist(), f"label_values_{theirs}_k": yes[at].astype(int).tolist(),
                    f"patient_ids_{theirs}_k": rows["subject_id"].to_numpy()[at].tolist(),
                    f"label_times_{theirs}_k": [times[i] for i in at]}  # fmt: skip
        tree[sub_task] = {"-1": {"0": one}}
    (folder / "all_shots_data.json").write_text(json.dumps(tree))


def test_the_ehrshot_guide(here):
    write_ehrshot_assets(here / "EHRSHOT_ASSETS")
    for words in commands("ehrshot.md"):
        run(words)
    results = here / "ehrshot/results"
    groups = pl.read_parquet(results / "groups.parquet").filter(metric="brier", k=-1)
    assert dict(groups.select("group", "tasks").iter_rows()) == {
        "Operational": 2, "Labs": 1, "New diagnoses": 1, "Chest X-ray": 14, "all tasks": 18, "mean of groups": 18,
    }  # fmt: skip
    assert "published" in (results / "report.md").read_text()
    assert (
        pl.read_parquet(results / "pairs.parquet").filter(baseline_head="gbm", head="lr").height
        == 1
    )
    tuned = pl.read_parquet(here / "ehrshot/results-tuned/results.parquet").filter(model="tuned")
    assert tuned.select("task", "head", "k").unique().rows() == [("guo_los", "given", -1)]
    heads = pl.read_parquet(here / "ehrshot/results-heads/results.parquet")["head"]
    assert set(heads) == {"prototype", "knn", "probe"}


def test_the_text_guide(here):
    page = (ROOT / "docs/guides/text.md").read_text()
    make, infer = (block.partition("```")[0] for block in page.split("```python\n")[1:])
    given = commands("text.md")
    for words in given[:4]:
        run(words)
    exec(make, {})
    for words in given[4:]:
        run(words)
    results = pl.read_parquet(here / "text/results/results.parquet")
    assert {"bert", "llama", "tuned", "words"} <= set(results["model"])
    assert len(list((here / "text/sweep").rglob("SUMMARY.txt"))) == 1
    found: dict[str, Any] = {}
    exec(
        infer.replace("text/runs/bert/checkpoints/BEST", str(resolve(here / "text/runs/bert"))),
        found,
    )
    assert found["prediction"].item() in (0, 1)
    assert 0 < found["probability"] < 1
    assert found["told"].startswith(f"<s>{found['text']}")
