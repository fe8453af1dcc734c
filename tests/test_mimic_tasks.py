"""The tasks of the collection `mimic` on the MIMIC-IV demo, against counts of its own tables by plain joins."""

from datetime import timedelta
from pathlib import Path

import polars as pl
import pytest

from ehr_eval.tasks.choice import Asked
from ehr_eval.tasks.make import LabelsSummary, make_labels
from ehr_tracking.arrow.labels import classes, read_labels

pytestmark = pytest.mark.real_data
DAY, ZERO = timedelta(days=1), timedelta(0)


@pytest.fixture(scope="module")
def made(mimic_demo: Path, tmp_path_factory: pytest.TempPathFactory) -> LabelsSummary:
    out = tmp_path_factory.mktemp("mimic") / "labels"
    return make_labels(mimic_demo, out, asked=Asked(collections=["mimic", "mimic_values"]))


@pytest.fixture(scope="module")
def admissions(mimic_raw: Path) -> pl.DataFrame:
    """Each admission, and `stay`, the first of those that follow each other within an hour: a transfer."""
    rows = pl.read_csv(mimic_raw / "hosp/admissions.csv.gz", try_parse_dates=True)
    died = pl.col("deathtime").is_not_null() | (pl.col("discharge_location") == "DIED")
    gap = pl.col("admittime") - pl.col("dischtime").shift(1).over("subject_id")
    rows = rows.sort("subject_id", "admittime").with_columns(died=died, gap=gap)
    goes_on = (pl.col("gap") >= ZERO) & (pl.col("gap") <= timedelta(hours=1))
    return rows.with_columns(stay=(~goes_on.fill_null(False)).cum_sum())


@pytest.fixture(scope="module")
def stays(admissions: pl.DataFrame) -> pl.DataFrame:
    """Each stay, whatever transfers are in it."""
    one = admissions.group_by("stay", "subject_id").agg(
        pl.col("admittime").min(), pl.col("dischtime").max(), pl.col("died").any()
    )
    return one.with_columns(length=pl.col("dischtime") - pl.col("admittime"))


@pytest.fixture(scope="module")
def units(mimic_raw: Path, admissions: pl.DataFrame) -> pl.DataFrame:
    """Each stay in intensive care, with its admission."""
    rows = pl.read_csv(mimic_raw / "icu/icustays.csv.gz", try_parse_dates=True)
    return rows.join(admissions, on=["subject_id", "hadm_id"], how="left")


def size(made: LabelsSummary, task: str) -> tuple[int, int]:
    """Rows, positives."""
    of_task = made.counts.filter(task=task)
    return of_task["rows"].sum(), of_task["positives"].sum()


def counts(rows: pl.DataFrame, positive: pl.Expr) -> tuple[int, int]:
    return rows.height, rows.select(positive.sum()).item()


def test_hospital_outcomes(made: LabelsSummary, stays: pl.DataFrame, units: pl.DataFrame) -> None:
    assert size(made, "hospital_mortality") == counts(stays, pl.col("died"))
    within = (pl.col("intime") > pl.col("admittime")) & (pl.col("intime") <= pl.col("dischtime"))
    in_icu = stays.join(units.filter(within), on="stay", how="semi")
    assert size(made, "icu_admission") == (stays.height, in_icu.height)
    either = in_icu.height + stays.filter("died").join(in_icu, on="stay", how="anti").height
    assert size(made, "icu_or_death") == (stays.height, either)
    assert size(made, "prolonged_stay") == counts(stays, pl.col("length") > 10 * DAY)
    for days in (3, 7):
        running = stays.filter(pl.col("length") > DAY)
        assert size(made, f"los_{days}d") == counts(running, pl.col("length") > days * DAY)


def test_intensive_care_is_paired_by_its_own_id(made: LabelsSummary, units: pl.DataFrame) -> None:
    inside = pl.col("died") & (pl.col("dischtime") <= pl.col("outtime"))
    by_time = (pl.col("deathtime") > pl.col("intime")) & (pl.col("deathtime") <= pl.col("outtime"))
    dies = (inside | by_time).fill_null(False)
    assert size(made, "icu_mortality") == counts(units, dies)
    goes_on = units.filter(~dies & (pl.col("outtime") < pl.col("dischtime")))
    pairs = goes_on.join(units.select("hadm_id", again="intime"), on="hadm_id", how="left")
    again = pairs.group_by("stay_id").agg((pl.col("again") > pl.col("outtime")).any())
    assert again["again"].sum() > 0
    assert size(made, "icu_readmission") == counts(again, pl.col("again"))
    running = units.filter(pl.col("outtime") - pl.col("intime") > DAY)
    assert size(made, "icu_los_3d") == counts(
        running, pl.col("outtime") - pl.col("intime") >= 3 * DAY
    )


def test_readmission_and_groups_that_are_billed(
    made: LabelsSummary, stays: pl.DataFrame, admissions: pl.DataFrame, mimic_raw: Path
) -> None:
    drg = pl.read_csv(mimic_raw / "hosp/drgcodes.csv.gz").filter(pl.col("drg_type") == "HCFA")
    sepsis = pl.col("drg_code").cast(pl.Int64).is_between(870, 872).any()
    billed = drg.join(admissions, on="hadm_id").group_by("stay").agg(sepsis=sepsis)
    assert size(made, "drg") == counts(billed, pl.col("sepsis"))
    groups = read_labels(made.path / "drg_group", reader="test 0")["drg_group"]
    names = classes(groups, task="drg_group")["categorical_value"].to_pylist()
    first = (  # of a stay the group that is billed first; of two at once the first by name
        drg.join(admissions, on="hadm_id")
        .with_columns(pl.col("drg_code").cast(pl.String))
        .sort("dischtime", "drg_code")
        .group_by("stay")
        .agg(pl.col("drg_code").first())
    )
    assert sorted(names) == sorted(first["drg_code"])
    assert "drg_group" not in made.counts.drop_nulls("positives")["task"]
    pairs = stays.filter(~pl.col("died")).join(
        stays.select("subject_id", again="admittime"), on="subject_id"
    )
    gap = pl.col("again") - pl.col("dischtime")
    soon = pairs.filter((gap > ZERO) & (gap <= 30 * DAY))["stay"].n_unique()
    rows, positives = size(made, "hospital_readmission")
    assert positives == soon
    left = made.left_out.filter(task="hospital_readmission")["rows"].sum()
    assert rows + left == admissions.height


def test_every_hour_of_intensive_care(made: LabelsSummary, units: pl.DataFrame) -> None:
    labels = pl.read_parquet(made.path / "icu_decompensation" / "labels.parquet")
    hours = ((units["outtime"] - units["intime"]).dt.total_seconds() - 1) // 3600 - 3
    # of stays without a death, every whole hour from the fourth on, to before the end
    survived = units.with_columns(n=hours.clip(lower_bound=0)).filter(~pl.col("died"))
    found = labels.join(survived.select("subject_id", "intime", "outtime"), on="subject_id").filter(
        pl.col("prediction_time").is_between("intime", "outtime")
    )
    assert found.height == survived["n"].sum()
    last = labels.filter("boolean_value")["prediction_time"].count()
    assert 0 < last < labels.height


def test_outcomes_of_emergency_visits(
    made: LabelsSummary, admissions: pl.DataFrame, units: pl.DataFrame
) -> None:
    visits = (
        admissions.filter(pl.col("edregtime").is_not_null())
        .select("subject_id", "edregtime", "edouttime")
        .unique()
    )  # two admissions may come of one visit

    def any_in(times: pl.DataFrame, until: pl.Expr) -> pl.Expr:
        pairs = visits.with_row_index("row").join(times, on="subject_id")
        after = (pl.col("at") > pl.col("edregtime")) & (pl.col("at") <= until)
        return pl.int_range(pl.len()).is_in(pairs.filter(after)["row"].unique().to_list())

    admitted = admissions.select("subject_id", at="admittime")
    hospital = any_in(admitted, pl.col("edouttime"))
    assert size(made, "ed_hospitalization") == counts(visits, hospital)
    taken = units.select("subject_id", at="intime")
    died = admissions.filter("died").select("subject_id", at="dischtime")
    critical = any_in(pl.concat([taken, died]), pl.col("edregtime") + timedelta(hours=12))
    assert size(made, "ed_critical_12h") == counts(visits, critical)
