"""ACES tasks of simulated futures, labelled by ACES itself, beside shares counted by hand."""

from datetime import datetime, timedelta

import polars as pl
import pytest
from click.testing import CliRunner

from ehr_eval.cli import main
from ehr_tracking.contracts import TRAJECTORIES
from ehr_tracking.manifest import new_artifact, seal, verify

pytest.importorskip("aces")
FIRST = datetime(2020, 1, 1)  # noqa: DTZ001 -- MEDS times have no zone
TASK = """
predicates:
  out: {code: OUT}
  "in": {code: IN}
trigger: out
windows:
  input: {start: null, end: trigger, start_inclusive: true, end_inclusive: true, index_timestamp: end}
  target: {start: input.end, end: start + 30d, start_inclusive: false, end_inclusive: true, label: "in"}
"""


def at(day):
    return FIRST + timedelta(days=day)


def trajectories(out, futures):
    """(subject, day) -> a list of futures, each a list of (day, code)."""
    events = [
        (s, at(d), n, at(day), code, None)
        for (s, d), mine in futures.items()
        for n, future in enumerate(mine)
        for day, code in future
    ]
    ends = [
        (s, at(d), n, "horizon", 5, at(d + 60))
        for (s, d), mine in futures.items()
        for n in range(len(mine))
    ]
    key = {"subject_id": pl.Int64, "prediction_time": pl.Datetime("us"), "sample": pl.Int64}
    event = {"time": pl.Datetime("us"), "code": pl.String, "numeric_value": pl.Float32}
    end = {"reason": pl.String, "tokens": pl.Int64, "until": pl.Datetime("us")}
    with new_artifact(out, TRAJECTORIES) as partial:
        for name, rows, more in (("events", events, event), ("futures", ends, end)):
            (partial / name).mkdir()
            frame = pl.DataFrame(rows, {**key, **more}, orient="row")
            frame.write_parquet(partial / name / "00000.parquet")
        seal(partial, TRAJECTORIES, producer="test 0", config={})
    return out


def test_a_risk_is_the_share_of_futures_that_aces_labels_positive(tmp_path):
    story = [(1, 0, "IN"), (1, 5, "OUT"), (1, 6, "IN"), (2, 0, "IN"), (2, 4, "OUT")]
    rows = [(s, at(d), c, None) for s, d, c in story]
    schema = {"subject_id": pl.Int64, "time": pl.Datetime("us"), "code": pl.String}
    (tmp_path / "meds/data").mkdir(parents=True)
    pl.DataFrame(rows, {**schema, "numeric_value": pl.Float32}, orient="row").write_parquet(
        tmp_path / "meds/data/0.parquet"
    )
    (tmp_path / "meds/metadata").mkdir()
    pl.DataFrame({"subject_id": [1, 2], "split": ["held_out"] * 2}).write_parquet(
        tmp_path / "meds/metadata/subject_splits.parquet"
    )
    (tmp_path / "labels/readmission").mkdir(parents=True)
    pl.DataFrame(
        {"subject_id": [1, 2], "prediction_time": [at(5), at(4)], "boolean_value": [True, False]}
    ).write_parquet(tmp_path / "labels/readmission/labels.parquet")
    futures = {
        (1, 5): [[(9, "IN")], [(7, "X")], [(35, "IN")], [(36, "IN")]],  # until day 35
        (2, 4): [[], [(5, "OUT")], [(3000, "IN")], [(40, "IN")]],
    }
    trajectories(tmp_path / "futures", futures)
    (tmp_path / "task.yaml").write_text(TASK)
    given = {"trajectories": "futures", "meds": "meds", "labels": "labels", "task": "task.yaml"}
    line = ["aces", *(f"--{k}={tmp_path / v}" for k, v in given.items())]
    done = CliRunner().invoke(main, [*line, f"--out={tmp_path / 'out'}"])
    assert done.exit_code == 0, done.output
    assert verify(tmp_path / "out") == []
    found = pl.read_parquet(tmp_path / "out/readmission/held_out.parquet")
    assert found["predicted_boolean_probability"].to_list() == [0.5, 0.0]
    assert found["boolean_value"].to_list() == [True, False]
    assert found["tokens"].to_list() == [20, 20]
    (tmp_path / "task.yaml").write_text("predicates: {}")
    done = CliRunner().invoke(main, [*line, f"--out={tmp_path / 'other'}"])
    assert done.exit_code == 2
    assert "task.yaml is no ACES task" in done.output
