"""`docs/extend.md` adds a head and a metric; done here as it says, in a copy of the package."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
from sklearn.metrics import brier_score_loss

import ehr_eval
from ehr_eval.judge.metrics import METRICS
from ehr_tracking.manifest import load_manifest, verify

GUIDE = Path(__file__).parents[3] / "docs" / "extend.md"
RUN = """
import sys
from pathlib import Path
import ehr_eval
from ehr_eval.cli import main

assert Path(ehr_eval.__file__).is_relative_to(sys.argv[1]), ehr_eval.__file__
main(sys.argv[2:])
"""


def extend(package, text):
    """Write the files that the guide shows, and add its lines to the tables."""
    for block in re.findall(r"```python\n# ehr_eval/(.*?)```", text, re.DOTALL):
        name, code = block.split("\n", 1)
        path = package / name
        if not path.exists():
            path.write_text(code)
            continue
        imports = [line for line in code.splitlines() if line.startswith("from ")]
        (entry,) = [line for line in code.splitlines() if line and line not in imports]
        lines = path.read_text().splitlines()
        kind = entry.split("(")[0]
        last = max(i for i, line in enumerate(lines) if line.startswith(f"            {kind}("))
        lines.insert(last + 1, f"            {entry},")
        first = next(i for i, line in enumerate(lines) if line.startswith("from ehr_eval"))
        path.write_text("\n".join([*lines[:first], *imports, *lines[first:]]) + "\n")


@pytest.fixture(scope="module")
def extended(tmp_path_factory, toys):
    """Results of a package with one more head and one more metric."""
    root = tmp_path_factory.mktemp("extended")
    labels, features = toys.tasks(root, subjects=60)
    package = root / "src" / "ehr_eval"
    shutil.copytree(Path(ehr_eval.__file__).parent, package)
    text = GUIDE.read_text()
    extend(package, text[text.index("## A head") :])
    head = {"close": {"kind": "bayes", "smoothing": [1e-6, 1e-2]}}
    settings = {
        "ks": [8, -1],
        "replicates": 1,
        "replicates_all": 1,
        "bootstraps": 10,
        "heads": head,
    }
    named = [f"--features={name}={features[name]}" for name in ("model", "counts")]
    given = [x for key, value in settings.items() for x in ("-s", f"{key}={json.dumps(value)}")]
    args = ["ehrshot", f"--labels={labels}", *named, f"--out={root / 'results'}", "--workers=1"]
    environment = {**os.environ, "PYTHONPATH": str(root / "src")}
    command = [sys.executable, "-c", RUN, root, *args, *given]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return root / "results"


@pytest.mark.slow
def test_a_head_of_one_file_and_one_line_is_in_results_and_report(extended):
    assert verify(extended) == []
    table = pl.read_parquet(extended / "results.parquet")
    assert table["head"].unique().to_list() == ["close"]
    best = table.filter(task="told", model="model", k=-1, replicate=-1, metric="auroc")
    assert best["value"].item() > 0.95
    selected = table.filter(pl.col("replicate") == 0)["selected"]
    assert {json.loads(s)["smoothing"] for s in selected} <= {1e-6, 1e-2}
    assert "model close" in (extended / "report.html").read_text()
    assert load_manifest(extended).config["heads"]["close"]["kind"] == "bayes"


@pytest.mark.slow
def test_a_metric_of_one_file_and_one_line_is_in_results_and_report(extended):
    table = pl.read_parquet(extended / "results.parquet")
    assert set(table["metric"]) == {*METRICS, "scaled_brier"}
    found = table.filter(task="untold", model="model", k=-1, replicate=-1, metric="scaled_brier")
    assert found["lower"].item() <= found["value"].item() <= found["upper"].item()
    kept = pl.read_parquet(extended / "predictions" / "untold" / "model" / "close.parquet")
    p = kept["predicted_boolean_probability"].to_numpy().astype(float)
    label = kept["boolean_value"].to_numpy()
    expected = 1 - brier_score_loss(label, p) / label.var()
    assert found["value"].item() == pytest.approx(expected, abs=1e-4)
    assert "Scaled Brier" in (extended / "report.html").read_text()
