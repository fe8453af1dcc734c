"""Controls get index dates of cases: who fits, and that the length of a record no longer tells."""

from datetime import datetime, timedelta

import numpy as np
import polars as pl
import pytest
from click.testing import CliRunner

from ehr_eval.cli import main
from ehr_eval.judge.ranks import auroc
from ehr_eval.matching.config import MatchConfig
from ehr_eval.matching.pairs import DAY_US, match
from ehr_eval.matching.write import match_controls
from ehr_tracking.arrow.labels import read_labels
from ehr_tracking.errors import UserError
from ehr_tracking.manifest import verify

START = datetime(2010, 1, 1)  # noqa: DTZ001 -- MEDS times have no zone


def people(*rows):
    """subject_id, block, birth, first and last, in days."""
    schema = {"subject_id": pl.Int64, "block": pl.String, "birth": pl.Int64, "first": pl.Int64}
    frame = pl.DataFrame(rows, schema=schema | {"last": pl.Int64}, orient="row")
    return frame.with_columns(pl.col("birth", "first", "last") * DAY_US)


def cases(*rows):
    frame = pl.DataFrame(rows, schema={"subject_id": pl.Int64, "index": pl.Int64}, orient="row")
    return frame.with_columns(pl.col("index") * DAY_US)


def test_a_control_is_of_the_same_sex_and_age_and_there_for_about_as_long():
    everyone = people(
        (1, "train F", -9000, 0, 1000),  # the case, at day 400
        (2, "train F", -9100, -50, 900),  # fits: 450 days of history against 400 +- 100
        (3, "train M", -9000, 0, 1000),
        (4, "tuning F", -9000, 0, 1000),
        (5, "train F", -9800, 0, 1000),  # 800 days older: more than two years
        (6, "train F", -9000, 0, 399),  # gone before the index date
        (7, "train F", -9000, -101, 1000),
        (8, "train F", None, 0, 1000),
        (9, "train F", -9000, 100, 400),  # fits, at both ends
        (10, "train F", -9000, 0, 1000),  # a case, without anyone who fits
    )
    found = match(cases((1, 400), (10, 5000)), everyone, MatchConfig())
    assert found.rows() == [(1, 2, 400 * DAY_US), (1, 9, 400 * DAY_US)]


def test_none_gets_a_second_control_before_all_had_one_and_no_order_changes_the_draw():
    everyone = people(*((i, "train F", 0, 0, 1000) for i in range(9)))
    asked = cases((0, 500), (1, 510), (2, 520))
    found = match(asked, everyone, MatchConfig(controls=4))
    assert found["control"].sort().to_list() == [3, 4, 5, 6, 7, 8]
    assert found.group_by("case").len()["len"].to_list() == [2, 2, 2]
    assert match(asked[::-1], everyone[::-1], MatchConfig(controls=4)).equals(found)
    assert not match(asked, everyone, MatchConfig(controls=4, seed=1)).equals(found)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    """Subjects seen for two to eight years; a fifth falls ill at some time, and is seen on."""
    root, rng = tmp_path_factory.mktemp("matching"), np.random.default_rng(0)
    rows, index, ends = [], {}, {}
    for subject in range(400):
        begin, years = rng.uniform(0, 900), rng.uniform(2, 8)
        days = np.sort(begin + rng.uniform(0, years * 365, int(years * 6)))
        birth = START - timedelta(days=float(rng.uniform(40, 44) * 365))
        rows += [(subject, None, f"GENDER//{'FM'[subject % 2]}"), (subject, birth, "MEDS_BIRTH")]
        rows += [(subject, START + timedelta(days=float(d)), "ICD//1") for d in days]
        ends[subject] = (days[0], days[-1])
        if subject % 5 == 0:
            index[subject] = float(days[len(days) // 2])
    (root / "meds" / "data").mkdir(parents=True)
    (root / "meds" / "metadata").mkdir()
    schema = {"subject_id": pl.Int64, "time": pl.Datetime("us"), "code": pl.String}
    events = pl.DataFrame(rows, schema=schema, orient="row")
    events = events.with_columns(numeric_value=pl.lit(None, pl.Float32))
    events.write_parquet(root / "meds" / "data" / "0.parquet")
    table = [f"{s},{(START + timedelta(days=d)).isoformat()},1" for s, d in index.items()]
    (root / "cases.csv").write_text("\n".join(["who,when,cancer", *table]))
    return root, index, ends


def test_the_length_of_a_record_tells_cases_where_they_alone_are_cut_and_not_here(cohort, tmp_path):
    root, index, ends = cohort
    subjects = np.array(sorted(ends))
    is_case = np.isin(subjects, list(index))
    # as where cases are cut and controls are whole
    cut = np.array([index.get(int(s), ends[int(s)][1]) - ends[int(s)][0] for s in subjects])
    assert auroc(cut[:, None], is_case)[0] < 0.25
    arguments = ["match", "--meds", str(root / "meds"), "--cases", str(root / "cases.csv")]
    arguments += [
        "--subject",
        "who",
        "--time",
        "when",
        "--value",
        "cancer",
        "--out",
        str(tmp_path / "out"),
    ]
    done = CliRunner().invoke(main, [*arguments, "-s", "controls=2"])
    assert done.exit_code == 0, done.output
    assert verify(tmp_path / "out") == []
    ((task, table),) = read_labels(tmp_path / "out", reader="test").items()
    labels = pl.DataFrame(pl.from_arrow(table))
    assert task == "cancer"
    pairs = pl.read_csv(tmp_path / "out" / "_matching" / "pairs.csv")
    assert labels["boolean_value"].sum() == pairs["case"].n_unique() > 60
    time = (labels["prediction_time"] - START).dt.total_microseconds().to_numpy() / DAY_US
    first = np.array([ends[s][0] for s in labels["subject_id"]])
    now = auroc((time - first)[:, None], labels["boolean_value"].to_numpy())[0]
    assert abs(now - 0.5) < 0.06
    assert f"{now:.3f} by days" in done.output
    dates = set(labels.filter("boolean_value")["prediction_time"])
    assert set(labels["prediction_time"]) == dates


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0,2012-01-01,1\n0,2013-01-01,1", "subject 0 is a case twice"),
        ("0,2012-01-01,1\n1,2012-01-01,0", "has rows that are no cases"),
        ("999,2012-01-01,1", "names 1 subjects without events"),
        ("0,2001-01-01,1", "before its first event"),
        ("0,,1", "line 2"),
        ("0,2050-01-01,1", "no control fits any of 1 cases"),
    ],
)
def test_bad_cases_are_refused(cohort, tmp_path, text, message):
    path = tmp_path / "cases.csv"
    path.write_text(f"subject_id,prediction_time,boolean_value\n{text}\n")
    with pytest.raises(UserError, match=message):
        match_controls(cohort[0] / "meds", path, tmp_path / "out")
    assert not (tmp_path / "out").exists()
