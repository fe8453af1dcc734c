"""The model folder for MEDS-DEV runs under its contract: placeholders filled, commands given to bash.

The data are as meds 0.3.3 has them, and meds-evaluation's own command judges the predictions.
"""

import json
import os
import subprocess
import sysconfig
from pathlib import Path

import polars as pl
import pytest
import yaml
from click.testing import CliRunner
from sklearn.metrics import roc_auc_score

import ehr_eval.cli
import ehr_tokenize.cli

MODEL = Path(__file__).parents[1] / "integrations/meds-dev/ehr_workbench/chrono"
KEY = ["subject_id", "prediction_time"]
OF_THAT_TIME = {
    "subject_id": pl.Int64,
    "prediction_time": pl.Datetime("us"),
    "boolean_value": pl.Boolean,
    "predicted_boolean_value": pl.Boolean,
    "predicted_boolean_probability": pl.Float64,
}
"""What meds-evaluation 0.0.3 wants, which MEDS-DEV pins."""


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """A data set and labels of one task in shards, both in the schemas of meds 0.3.3."""
    root = tmp_path_factory.mktemp("meds-dev")
    for main, words in (
        (
            ehr_tokenize.cli.main,
            ["synth", "--num-patients", 90, "--seed", 3, "--out", root / "made"],
        ),
        (
            ehr_eval.cli.main,
            ["labels", "--task", "long_stay", "--meds", root / "made", "--out", root / "labels"],
        ),
    ):
        done = CliRunner().invoke(main, [str(word) for word in words])
        assert done.exit_code == 0, done.output
    for path in (root / "made").glob("data/**/*.parquet"):
        out = root / "meds" / path.relative_to(root / "made")
        out.parent.mkdir(parents=True, exist_ok=True)
        pl.read_parquet(path).select("subject_id", "time", "code", "numeric_value").write_parquet(
            out
        )
    metadata = root / "meds" / "metadata"
    metadata.mkdir()
    for name in ("codes.parquet", "subject_splits.parquet"):
        (metadata / name).write_bytes((root / "made" / "metadata" / name).read_bytes())
    (metadata / "dataset.json").write_text(
        json.dumps({"dataset_name": "made", "dataset_version": "1", "etl_name": "e", "etl_version": "1",
                    "meds_version": "0.3.3", "created_at": "2025-01-01T00:00:00"})
    )  # fmt: skip
    labels = pl.read_parquet(root / "labels" / "long_stay" / "labels.parquet").select(
        *KEY, "boolean_value",
        integer_value=pl.lit(None, pl.Int64), float_value=pl.lit(None, pl.Float64),
        categorical_value=pl.lit(None, pl.String),
    ).join(pl.read_parquet(metadata / "subject_splits.parquet"), on="subject_id")  # fmt: skip
    for (split,), rows in labels.group_by("split"):
        (root / "task" / split).mkdir(parents=True)
        rows.drop("split").write_parquet(root / "task" / split / "0.parquet")
    return root


def run(command, output_dir, **placeholders):
    """As MEDS-DEV does: the command, formatted, in a script that stops at the first error."""
    output_dir.mkdir(parents=True, exist_ok=True)
    script = output_dir / "cmd.sh"
    told = command.format(output_dir=output_dir, model_dir=MODEL, demo=True, **placeholders)
    script.write_text(f"#!/bin/bash\nset -e\n{told}")
    path = f"{sysconfig.get_path('scripts')}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", str(script)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PATH": path},
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_the_commands_of_the_model_run_and_its_predictions_are_judged(given, tmp_path):
    commands = yaml.safe_load((MODEL / "model.yaml").read_text())["commands"]
    data = {"dataset_dir": given / "meds"}
    run(commands["unsupervised"]["train"], tmp_path / "pretrained", **data)
    labelled = {**data, "labels_dir": given / "task"}
    run(commands["supervised"]["train"], tmp_path / "trained", model_initialization_dir=tmp_path / "pretrained",
        **labelled)  # fmt: skip
    run(commands["supervised"]["predict"], tmp_path / "predicted", model_initialization_dir=tmp_path / "trained",
        split="held_out", **labelled)  # fmt: skip
    path = tmp_path / "predicted" / "predictions.parquet"
    found = pl.read_parquet(path)
    assert dict(found.schema) == OF_THAT_TIME
    assert [p.name for p in path.parent.rglob("*.parquet")] == [
        "predictions.parquet"
    ]  # it reads all
    told = pl.read_parquet(given / "task" / "held_out" / "0.parquet").select(*KEY, "boolean_value")
    assert found.select(*KEY, "boolean_value").sort(KEY).equals(told.sort(KEY))
    cli = Path(sysconfig.get_path("scripts")) / "meds-evaluation-cli"
    judged = tmp_path / "judged.json"
    subprocess.run(
        [cli, f"predictions_path={path}", f"output_file={judged}"], check=True, cwd=tmp_path
    )
    score = json.loads(judged.read_text())["samples_equally_weighted"]["roc_auc_score"]
    expected = roc_auc_score(found["boolean_value"], found["predicted_boolean_probability"])
    assert score == pytest.approx(expected)
