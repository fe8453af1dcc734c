"""The whole wire: MEDS to report, each arrow one command, each artifact sealed and traceable."""

import ast
import json
import os
import re
import shutil
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import matplotlib
import polars as pl
import pytest
import torch
import yaml

from ehr_models.checkpoint import load_checkpoint
from ehr_tokenize.tokenizer.tokenizer import Tokenizer
from ehr_tracking.manifest import load_manifest

Run = Callable[..., str]
ROOT = Path(__file__).parents[1]
SMALLER = {
    "steps=200": "steps=2",
    "nproc=2": "nproc=1",
    "ks=(8, 64, -1), replicates=3": "ks=(8,), replicates=1, bootstraps=20, tasks=('long_stay',)",
}
"""What makes an example quick, and nothing else."""


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory, shell: Run) -> Path:
    """A tiny demo: 200 synthetic subjects, two models of a few steps, evaluated."""
    w = tmp_path_factory.mktemp("wire")
    shell("ehr-tokenize synth --num-patients 300 --seed 1 --out", w / "meds")
    shell("ehr-tokenize check", w / "meds")
    shell("ehr-tokenize --meds", w / "meds", "--out", w / "tokens")
    for model, objective in (("behrt", "mlm"), ("gpt2", "clm")):
        shell(
            f"ehr-train -c configs/train/{model}-{objective}.yaml -s optim.steps=4",
            "-s validation.every=2 -s validation.max_tokens=3000 -s checkpoint.every=2",
            "-s data.batch_tokens=2048 -s data.micro_tokens=2048 --tokens", w / "tokens",
            "--out", w / "runs" / model, "--device cpu",
        )  # fmt: skip
    shell("ehr-eval labels --meds", w / "meds", "--out", w / "labels")
    for model in ("behrt", "gpt2"):
        shell(
            "ehr-eval features --device cpu --checkpoint", w / "runs" / model,
            "--tokens", w / "tokens", "--labels", w / "labels", "--out", w / "features" / model,
        )  # fmt: skip
    shell(
        "ehr-eval counts --meds", w / "meds", "--labels", w / "labels",
        "--out", w / "features/counts",
    )  # fmt: skip
    said = shell(
        "ehr-eval ehrshot -c configs/eval/demo.yaml -s bootstraps=20 -s replicates=1 --labels",
        w / "labels", *(f"--features {m}={w}/features/{m}" for m in ("behrt", "gpt2", "counts")),
        "--out", w / "results",
    )  # fmt: skip
    assert str(w / "results" / "report.html") in said
    shell(
        "ehr-eval compare --results", w / "results", "--out", w / "comparison",
        *(f"--run {m}={w}/runs/{m} --features {m}={w}/features/{m}" for m in ("behrt", "gpt2")),
        "--tokens", f"visits={w}/tokens", "--labels", w / "labels",
    )  # fmt: skip
    return w


@pytest.mark.slow
def test_every_artifact_verifies(work: Path, shell: Run) -> None:
    said = shell("ehr-track verify", work)
    for name in (
        "tokens",
        "runs/behrt",
        "runs/gpt2",
        "labels",
        "features/counts",
        "results",
        "comparison",
    ):
        assert f"holds    {work / name}\n" in said


@pytest.mark.slow
def test_lineage_of_the_results_names_the_raw_data(work: Path, shell: Run) -> None:
    said = shell("ehr-track lineage", work / "results")
    assert f"= {work / 'meds'} (raw, verified)" in said
    assert "tokens/1 by ehr-tokenize" in said
    assert "CHANGED" not in said


@pytest.mark.slow
def test_results_hold_every_model_and_the_count_baseline(work: Path) -> None:
    results = pl.read_parquet(work / "results" / "results.parquet")
    assert set(results["model"]) == {"behrt", "gpt2", "counts"}
    assert set(results["metric"]) >= {"auroc", "auprc", "brier"}
    per_task = results.group_by("task").agg(pl.col("model").n_unique())
    assert set(per_task["model"]) == {3}


@pytest.mark.slow
def test_no_manifest_holds_a_path_of_this_machine(work: Path) -> None:
    for path in work.rglob("manifest.json"):
        text = path.read_text()
        assert str(work) not in text, path
        json.loads(text)


@pytest.mark.slow
def test_a_vocabulary_of_another_data_set_is_refused(
    work: Path, shell: Run, tmp_path: Path
) -> None:
    shell("ehr-tokenize synth --num-patients 100 --seed 2 --out", tmp_path / "meds")
    shell("ehr-tokenize --meds", tmp_path / "meds", "--out", tmp_path / "tokens")
    said = shell(
        "ehr-eval features --device cpu --checkpoint", work / "runs/gpt2", "--tokens",
        tmp_path / "tokens", "--labels", work / "labels", "--out", tmp_path / "features", code=2,
    )  # fmt: skip
    assert "vocabular" in said
    assert not (tmp_path / "features").exists()


@pytest.mark.slow
def test_new_subjects_are_tokenised_with_the_vocabulary_of_a_checkpoint(
    work: Path, shell: Run, tmp_path: Path
) -> None:
    shell(
        "ehr-tokenize --meds", work / "meds", "--tokenizer", work / "tokens",
        "--out", tmp_path / "again",
    )  # fmt: skip
    files = [load_manifest(d).files for d in (work / "tokens", tmp_path / "again")]
    assert files[0] == files[1]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ehr-eval", "ehr-models", "ehr-tracking", "ehr-train"])
def test_the_examples_of_a_guide_run_after_its_commands(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    guide = (ROOT / "packages" / name / "README.md").read_text()
    example = "\n".join(re.findall(r"^```python\n(.*?)^```$", guide, re.MULTILINE | re.DOTALL))
    for long, short in SMALLER.items():
        example = example.replace(long, short)
    shutil.copytree(work, tmp_path / "demo")
    monkeypatch.chdir(tmp_path)
    exec(example, {})


def markdown_tables(text: str) -> list[list[dict[str, str]]]:
    """Each table as rows, thousands without their commas."""
    found: list[list[dict[str, str]]] = []
    header: list[str] | None = None
    for line in text.splitlines():
        if not line.startswith("| "):
            header = None if not line.startswith("|---") else header
            continue
        cells = [cell.strip().replace(",", "") for cell in line.strip("| ").split(" | ")]
        if header is None:
            header = cells
            found.append([])
        else:
            found[-1].append(dict(zip(header, cells, strict=True)))
    return found


@pytest.mark.slow
def test_the_facts_for_a_methods_section_are_those_of_data_and_models(work: Path) -> None:
    text = (work / "comparison" / "methods.md").read_text()
    data, vocabulary, tasks, left_out, built, apart, *_ = markdown_tables(text)

    splits = {}
    for row in data:
        raw = pl.read_parquet(work / "meds" / "data" / row["split"] / "*.parquet")
        splits |= dict.fromkeys(raw["subject_id"].unique(), row["split"])
        assert int(row["subjects"]) == raw["subject_id"].n_unique()
        assert int(row["events"]) + int(row["further events excluded"]) == raw.height
    assert len(data) == 3

    for row in tasks:
        labels = pl.read_parquet(work / "labels" / row["task"] / "labels.parquet").with_columns(
            split=pl.col("subject_id").replace_strict(splits)
        )
        for split in ("train", "tuning", "held_out"):
            part = labels.filter(split=split)
            assert int(row[f"{split} rows"]) == part.height
            assert int(row[f"{split} positives"]) == part["boolean_value"].sum()
    cohort = pl.read_parquet(work / "labels" / "_cohort" / "cohort.parquet")
    for row in left_out:
        asked = cohort.filter(task=row["task"], what=row["left out because"])
        assert int(row["rows"]) == asked["count"].sum()
    assert left_out

    for row in built:
        loaded = load_checkpoint(work / "runs" / row["model"])
        assert int(row["parameters"]) == sum(p.numel() for p in loaded.model.parameters())
        assert (row["kind"], row["steps"], row["seed"]) == (row["model"], "4", "0")
        assert vocabulary[-1]["tokens"] == str(loaded.model.config.true_vocab_size)
    assert [row["model"] for row in built] == ["behrt", "gpt2"]
    recipes = ("behrt-mlm", "gpt2-clm")
    trees = (yaml.safe_load((ROOT / f"configs/train/{r}.yaml").read_text()) for r in recipes)
    ours, theirs = (tree["optim"] for tree in trees)
    assert {"setting": "optim.lr", "behrt": str(ours["lr"]), "gpt2": str(theirs["lr"])} in apart
    assert ours["warmup"] == theirs["warmup"]
    assert f"optim.warmup: {ours['warmup']}\n" in text
    assert f"torch: {version('torch')}\n" in text
    assert f"cores: {os.cpu_count()}\n" in text
    assert "device: cpu\n" in text


OTHERS = {"hashlib", "json", "pathlib", "matplotlib.pyplot", "numpy", "polars", "torch", "safetensors.numpy", "transformers"}  # fmt: skip
"""What the notebook may import: none of our packages."""


@pytest.mark.slow
def test_the_notebook_opens_all_of_it_without_our_packages(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notebook = json.loads((ROOT / "docs/notebooks/artifacts.ipynb").read_text())
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells)
    texts = ["".join(cell["source"]) for cell in cells]
    nodes = [node for text in texts for node in ast.walk(ast.parse(text))]
    imported = {node.module for node in nodes if isinstance(node, ast.ImportFrom)}
    imported |= {a.name for node in nodes if isinstance(node, ast.Import) for a in node.names}
    assert imported <= OTHERS
    (tmp_path / "demo").symlink_to(work)
    monkeypatch.chdir(tmp_path)
    matplotlib.use("agg")
    told: dict[str, Any] = {}
    for text in texts:
        exec(text, told)
    plt = told["plt"]
    assert [axis.get_ylabel() for n in plt.get_fignums() for axis in plt.figure(n).axes] == ["AUROC, mean over tasks", "loss"]  # fmt: skip
    plt.close("all")
    assert told["texts"] == [token.text for token in Tokenizer.from_pretrained(work / "tokens").tokens]  # fmt: skip
    loaded = load_checkpoint(work / "runs/gpt2", head="token").model
    given = told["model"].state_dict()
    assert all(torch.equal(weights, given[name]) for name, weights in loaded.state_dict().items())
    assert told["chance"].sum().item() == pytest.approx(1)
    assert told["vectors"].shape[0] == told["index"].height
    assert told["counts"]["shape"][0] == len(told["counts"]["indptr"]) - 1
    assert set(told["shots"]["model"]) == {"behrt", "gpt2", "counts"}
    board, apart = told["board"], told["differences"]
    assert told["said"].height == board.filter(task=told["task"])["n"][0]
    (row,) = apart.filter(
        task=told["task"], model="gpt2", other="counts", head="lr", k=-1
    ).to_dicts()
    assert told["interval"] == pytest.approx([row["lower"], row["upper"]], abs=1e-6)
