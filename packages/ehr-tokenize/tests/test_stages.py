"""The MEDS_transforms driver writes what the in-process driver writes, byte for byte."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ehr_tokenize.config import NumericConfig, TokenizeConfig, Visits
from ehr_tokenize.driver import tokenize

PIPELINE = "pkg://ehr_tokenize.meds_stages.tokenize.yaml"


def run_pipeline(*overrides: str) -> subprocess.CompletedProcess[str]:
    scripts = str(Path(sys.executable).parent)  # the runner calls its stages by bare name
    return subprocess.run(
        [f"{scripts}/MEDS_transform-pipeline", PIPELINE, "--overrides", *overrides],
        env=os.environ | {"PATH": f"{scripts}:{os.environ['PATH']}"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def assert_same(one: Path, two: Path) -> None:
    names = [sorted(p.relative_to(d) for p in d.rglob("*") if p.is_file()) for d in (one, two)]
    assert names[0] == names[1]
    assert len(names[0]) > 3
    for name in names[0]:
        assert (one / name).read_bytes() == (two / name).read_bytes(), name


@pytest.mark.slow
def test_both_drivers_agree_on_files_in_any_order(write_meds, cohort, tmp_path):
    """Files that mix splits and hold subjects out of order: the stages seal them in order."""
    rows = cohort(60)
    files = [[r for s in rows[i::3][::-1] for r in s] for i in range(3)]
    splits = {s: ["train", "train", "train", "tuning", "held_out"][s % 5] for s in range(60)}
    meds = write_meds(*files, splits=splits, descriptions={"LAB//1": "a measurement"})
    config = TokenizeConfig(scheme=Visits(), numeric=NumericConfig(n_bins=4, min_values=5))
    tokenize(meds, tmp_path / "ours", config)
    done = run_pipeline(
        f"input_dir={meds}", f"output_dir={tmp_path}/work", f"tokens_dir={tmp_path}/stages",
        "ehr_tokenize.scheme.kind=visits", "+ehr_tokenize.numeric.n_bins=4",
        "+ehr_tokenize.numeric.min_values=5",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert_same(tmp_path / "ours", tmp_path / "stages")


@pytest.mark.slow
@pytest.mark.real_data
def test_both_drivers_agree_on_the_mimic_demo(mimic_demo, tmp_path):
    tokenize(mimic_demo, tmp_path / "ours")
    done = run_pipeline(
        f"input_dir={mimic_demo}", f"output_dir={tmp_path}/work", f"tokens_dir={tmp_path}/stages"
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert_same(tmp_path / "ours", tmp_path / "stages")


@pytest.mark.slow
def test_a_wrong_setting_stops_the_pipeline(write_meds, cohort, tmp_path):
    meds = write_meds(cohort(3)[0])
    done = run_pipeline(
        f"input_dir={meds}", f"output_dir={tmp_path}/work", f"tokens_dir={tmp_path}/stages",
        "+ehr_tokenize.bins=4",
    )  # fmt: skip
    assert done.returncode != 0
    assert "unknown key bins" in done.stderr
    assert not (tmp_path / "stages").exists()
