"""The labels that a synthetic cohort brings along are those that its MEDS events give."""

from collections.abc import Callable
from pathlib import Path

import meds
import polars as pl
import pyarrow.parquet as pq
import pytest

from ehr_eval.tasks.library import of_collection

ROW = ["subject_id", "prediction_time", "boolean_value"]
TASKS = [
    "abnormal_lab_next_visit",
    "in_hospital_mortality",
    "long_stay",
    "mortality_1y",
    "new_diagnosis_1y",
    "readmission_30d",
]


@pytest.fixture(scope="module")
def cohort(
    tmp_path_factory: pytest.TempPathFactory, shell: Callable[..., str]
) -> tuple[Path, Path]:
    """A cohort with risks (few draws), and labels made from its events."""
    w = tmp_path_factory.mktemp("risk")
    shell(
        "ehr-tokenize synth --num-patients 600 --seed 5 --novel-prob 0.02 --risks",
        "-s risks.true_draws=4 -s risks.chains=2 -s risks.cells=16 -s risks.burn_in=1",
        "-s risks.sweeps=1 -s risks.kept=1 -s risks.futures=2",
        "--out", w / "meds",
    )  # fmt: skip
    shell("ehr-eval labels -s transfer_hours=0 --meds", w / "meds", "--out", w / "labels")
    return w / "meds", w / "labels"


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_rows_and_outcomes_agree_with_labels_made_from_the_events(
    cohort: tuple[Path, Path], task: str
) -> None:
    synthetic, labels = cohort
    path = synthetic / "labels" / task / "labels.parquet"
    meds.LabelSchema.validate(pq.read_table(path))
    ours = pl.read_parquet(path).select(ROW).sort(ROW)
    made = pl.read_parquet(labels / task / "labels.parquet").select(ROW).sort(ROW)
    assert len(made) > 50
    assert made["boolean_value"].n_unique() == 2
    assert ours.equals(made)
    splits = pl.read_parquet(synthetic / meds.subject_splits_filepath)
    held_out = splits.filter(split="held_out")["subject_id"].implode()
    risks = pl.read_parquet(synthetic / "risks" / f"{task}.parquet")
    assert risks.columns == [*ROW, "true_risk", "best_risk"]
    assert risks.select(ROW).sort(ROW).equals(ours.filter(pl.col("subject_id").is_in(held_out)))
    for column in ("true_risk", "best_risk"):
        assert risks[column].is_between(0, 1).all()


@pytest.mark.slow
def test_labels_of_the_world_of_sequences_are_those_that_its_task_files_make(
    tmp_path: Path, shell: Callable[..., str]
) -> None:
    shell("ehr-tokenize synth --world sequence --num-patients 150 --risks --out", tmp_path / "meds")
    shell(
        "ehr-eval labels --collection sequence --meds",
        tmp_path / "meds",
        "--out",
        tmp_path / "labels",
    )
    tasks = sorted(p.name for p in (tmp_path / "meds/labels").iterdir())
    assert tasks == list(of_collection("sequence"))
    for task in tasks:
        ours, made = (
            pl.read_parquet(path / "labels" / task / "labels.parquet").select(ROW).sort(ROW)
            for path in (tmp_path / "meds", tmp_path)
        )
        assert made["boolean_value"].n_unique() == 2
        assert ours.equals(made)
