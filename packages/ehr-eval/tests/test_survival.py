"""Times to an event, judged: against lifelines, scikit-survival and cases counted by hand."""

from dataclasses import replace

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from lifelines import KaplanMeierFitter
from lifelines.utils import concordance_index
from sksurv.metrics import (
    brier_score,
    concordance_index_ipcw,
    cumulative_dynamic_auc,
    integrated_brier_score,
)
from sksurv.nonparametric import CensoringDistributionEstimator

from ehr_eval.answers import risk_of_hazards
from ehr_eval.cli import main
from ehr_eval.judge.bootstrap import patient_draws
from ehr_eval.survival.config import SurvivalConfig
from ehr_eval.survival.kaplan_meier import StepCurve
from ehr_eval.survival.metrics import Followed, auc, brier, harrell, integrated, uno
from ehr_eval.survival.risks import Risks, read_risks
from ehr_eval.survival.run import run_survival
from ehr_tracking.contracts import ContractError
from ehr_tracking.errors import UserError
from ehr_tracking.manifest import verify

HORIZONS = np.array([4.0, 9.0, 15.0])


def cohort(n, seed, *, ties=False):
    """Days, events and a risk that tells something of them."""
    rng = np.random.default_rng(seed)
    hidden = rng.normal(size=n)
    time, censored = rng.exponential(12 * np.exp(-hidden)), rng.exponential(15, n)
    days = np.minimum(time, censored)
    days = np.ceil(days) if ties else days
    risk = 1 / (1 + np.exp(-hidden - rng.normal(size=n)))
    return days, time <= censored, np.round(risk, 1) if ties else risk


def followed(n=150, seed=0, *, ties=False, draws=0):
    train_days, train_event, _ = cohort(400, seed + 100, ties=ties)
    days, event, risk = cohort(n, seed, ties=ties)
    ones = np.ones((n, 1), np.uint16)
    weight = np.concatenate([ones, patient_draws(np.arange(n) // 2, draws)], axis=1)
    rows = Followed(
        days=days,
        event=event,
        censoring=StepCurve.censoring(train_days, train_event),
        weight=weight,
    )
    return rows, risk, structured(train_days, train_event), structured(days, event)


def structured(days, event):
    return np.array(list(zip(event, days, strict=True)), dtype=[("e", bool), ("t", float)])


@pytest.mark.parametrize("ties", [False, True])
def test_kaplan_meier_is_lifelines_and_censoring_is_scikit_survivals(ties):
    days, event, _ = cohort(80, 3, ties=ties)
    ask = np.array([0.0, 0.5, 2, 7.5, 20])
    theirs = KaplanMeierFitter().fit(days, event).predict(ask)
    np.testing.assert_allclose(StepCurve.survival(days, event).at(ask), theirs, atol=1e-12)
    known = CensoringDistributionEstimator().fit(structured(days, event))
    inside = ask[ask < days.max()]
    ours = StepCurve.censoring(days, event).at(inside)
    np.testing.assert_allclose(ours, known.predict_proba(inside), atol=1e-12)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", [0, 1])
def test_metrics_are_those_of_lifelines_and_scikit_survival(seed, ties):
    rows, risk, train, test = followed(seed=seed, ties=ties)
    found = harrell(rows, risk)[0]
    if not ties:  # of two events on one day, lifelines counts a pair
        assert found == pytest.approx(concordance_index(rows.days, -risk, rows.event), abs=1e-12)
    inside = test["t"] < train["t"].max()
    part = replace_rows(rows, inside)
    theirs = concordance_index_ipcw(train, test[inside], risk[inside], tau=15.0)[0]
    assert uno(part, risk[inside], until=15.0)[0] == pytest.approx(theirs, abs=1e-12)
    of_auc = cumulative_dynamic_auc(train, test[inside], risk[inside], HORIZONS)[0]
    survival = np.stack([1 - risk[inside] * h / 20 for h in HORIZONS], axis=1)
    of_brier = brier_score(train, test[inside], survival, HORIZONS)[1]
    ours = []
    for i, horizon in enumerate(HORIZONS):
        area = auc(part, risk[inside], horizon=horizon)[0]
        assert area == pytest.approx(of_auc[i], abs=1e-12)
        ours.append(brier(part, 1 - survival[:, i], horizon=horizon))
        assert ours[-1][0] == pytest.approx(of_brier[i], abs=1e-12)
    whole = integrated_brier_score(train, test[inside], survival, HORIZONS)
    assert integrated(np.stack(ours), HORIZONS)[0] == pytest.approx(whole, abs=1e-12)


def replace_rows(rows, chosen):
    return Followed(
        days=rows.days[chosen],
        event=rows.event[chosen],
        censoring=rows.censoring,
        weight=rows.weight[chosen],
    )


def test_a_bootstrap_draw_is_the_metric_of_repeated_rows():
    rows, risk, _, _ = followed(60, draws=5, ties=True)
    for name, metric in {
        "harrell": harrell,
        "uno": lambda r, p: uno(r, p, until=12.0),
        "auc": lambda r, p: auc(r, p, horizon=9.0),
        "brier": lambda r, p: brier(r, p, horizon=9.0),
    }.items():
        found = metric(rows, risk)
        for draw in range(1, 6):
            times = np.repeat(np.arange(60), rows.weight[:, draw])
            alone = replace(replace_rows(rows, times), weight=np.ones((len(times), 1), np.uint16))
            # a row and its copy have one day: two events on one day are no pair, nor are these
            assert found[draw] == pytest.approx(metric(alone, risk[times])[0], abs=1e-12), name


def test_concordance_by_hand():
    one = np.ones((4, 1), np.uint16)
    nobody_lost = StepCurve.censoring(np.array([9.0]), np.array([True]))
    rows = Followed(
        days=np.array([1.0, 2, 2, 3]),
        event=np.array([True, True, False, False]),
        censoring=nobody_lost,
        weight=one,
    )
    # pairs: 1 before each of three; the event on day 2 before the one lost that day, and before day 3
    assert harrell(rows, np.array([0.9, 0.5, 0.5, 0.7]))[0] == (3 + 0.5 + 0) / 5


def test_a_perfect_ranking_has_c_1_where_hazards_are_summed_over_the_same_span_for_all():
    rng = np.random.default_rng(0)
    days = np.arange(1.0, 21.0)  # who is endangered most comes first
    logits = np.repeat(np.linspace(-1.0, -2.0, 20)[:, None], 20, axis=1) + rng.normal(
        scale=0.01, size=(20, 20)
    )
    event = np.ones(20, bool)
    rows = Followed(
        days=days,
        event=event,
        censoring=StepCurve.censoring(days, event),
        weight=np.ones((20, 1), np.uint16),
    )
    hazards = 1 / (1 + np.exp(-logits))
    trap = np.array([hazards[i, : int(days[i])].sum() for i in range(20)])
    assert harrell(rows, trap)[0] < 0.5  # the risk of one who lives longer is a longer sum
    assert harrell(rows, risk_of_hazards(logits)[:, -1])[0] == 1.0


def test_risk_of_hazards_is_one_minus_what_is_left_and_is_read_at_any_day():
    logits = np.log([[1 / 3, 1 / 4]])  # hazards 1/4 and 1/5
    risk = risk_of_hazards(logits)
    np.testing.assert_allclose(risk, [[1 / 4, 1 - 3 / 4 * 4 / 5]])
    at = Risks(np.array([30.0, 90.0]), risk).at(np.array([15.0, 30.0, 60.0, 90.0]), where="p")
    np.testing.assert_allclose(1 - at, [[0.75**0.5, 0.75, 0.75 * 0.8**0.5, 0.6]])
    with pytest.raises(UserError, match="p tells risks up to 90 days, not up to 91: give nearer"):
        Risks(np.array([90.0]), risk[:, :1]).at(np.array([91.0]), where="p")


def write_risks(directory, rows, days, risk, task="relapse"):
    (directory / task).mkdir(parents=True, exist_ok=True)
    n = len(rows)
    table = pa.table(
        {
            "subject_id": np.repeat([r[0] for r in rows], len(days)),
            "prediction_time": pa.array([r[1] for r in rows for _ in days], pa.timestamp("us")),
            "horizon_days": np.tile(np.asarray(days, float), n),
            "predicted_risk": np.asarray(risk, float).reshape(-1),
        }
    )
    pq.write_table(table, directory / task / "0.parquet")
    return directory


@pytest.fixture(scope="module")
def toy(tmp_path_factory, toys):
    """Labels with durations, features that tell them and noise, and predictions that know them."""
    root = tmp_path_factory.mktemp("timed")
    days, event, risk = cohort(240, 5)
    splits = np.array(["train", "tuning", "held_out"])[np.arange(240) % 3]
    rows = [(i + 1, toys.day(0), s) for i, s in enumerate(splits)]
    write_labels(root / "labels" / "relapse", rows, days, event)
    noise = np.random.default_rng(0).normal(size=(240, 3))
    told = np.column_stack([np.log(risk / (1 - risk)), noise])
    features = {
        "model": toys.features(root / "features" / "model", rows, told),
        "counts": toys.features(root / "features" / "counts", rows, noise),
    }
    held_out = [r for r in rows if r[2] == "held_out"]
    knows = np.exp(-days[splits == "held_out"] / 10)
    given = write_risks(root / "tuned", held_out, [5.0, 30.0], np.column_stack([knows / 2, knows]))
    return root / "labels", features, given


def write_labels(directory, rows, days, event):
    directory.mkdir(parents=True, exist_ok=True)
    table = pa.table(
        {
            "subject_id": pa.array([r[0] for r in rows], pa.int64()),
            "prediction_time": pa.array([r[1] for r in rows], pa.timestamp("us")),
            "boolean_value": pa.array(event, pa.bool_()),
            "duration_days": pa.array(days, pa.float64()),
        }
    )
    pq.write_table(table, directory / "labels.parquet")
    return directory.parent


CONFIG = SurvivalConfig(horizons_days=(4.0, 9.0), bootstraps=20, penalties=(0.01, 1.0))


def test_results_and_report_hold_every_model_beside_cox_on_counts(toy, tmp_path):
    labels, features, given = toy
    run_survival(labels, features, tmp_path / "out", CONFIG, predictions={"tuned": given})
    assert verify(tmp_path / "out") == []
    table = pl.read_parquet(tmp_path / "out" / "results.parquet")
    of = {
        (m, h): v
        for m, h, v in table.filter(metric="harrell_c").select("model", "head", "value").rows()
    }
    assert of["model", "cox"] > 0.65 > of["counts", "cox"]
    assert of["tuned", "given"] > 0.9
    assert of["train", "kaplan-meier"] == 0.5
    assert table.filter(metric="brier")["horizon_days"].unique().sort().to_list() == [4.0, 9.0]
    inside = table.drop_nulls("value").filter(pl.col("lower") <= pl.col("upper"))
    assert inside.height == table.height - table["value"].null_count()
    page = (tmp_path / "out" / "report.html").read_text()
    assert "Kaplan-Meier by risk by 9 days" in page
    assert page.count("<img") == 1 + 3  # AUROC(t), and survival by group of each model
    again = tmp_path / "again"
    run_survival(labels, features, again, CONFIG, predictions={"tuned": given})
    for name in ("results.parquet", "report.html"):
        assert (again / name).read_bytes() == (tmp_path / "out" / name).read_bytes()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d, e: (d - d.min() - 1, e), r"duration_days = -\d\.\d+ for subject"),
        (lambda d, e: (d * 0, e), "has an event 0 days after the prediction time, of subject 4 at"),
        (lambda d, e: (d, e & False), "no event in train: all 80 rows are censored"),
        (lambda d, e: (d * np.nan, e), "has no duration_days|duration_days = nan"),
    ],
)
def test_labels_that_cannot_be_judged_are_one_line(change, message, toy, toys, tmp_path):
    _, features, _ = toy
    days, event, _ = cohort(240, 5)
    splits = np.array(["train", "tuning", "held_out"])[np.arange(240) % 3]
    rows = [(i + 1, toys.day(0), s) for i, s in enumerate(splits)]
    labels = write_labels(tmp_path / "labels" / "relapse", rows, *change(days, event))
    args = ["survival", "--labels", labels, "--features", f"counts={features['counts']}"]
    done = CliRunner().invoke(main, [str(a) for a in [*args, "--out", tmp_path / "out"]])
    assert done.exit_code == 2
    (line,) = done.output.strip().splitlines()
    assert pl.Series([line]).str.contains(message).all()
    assert not (tmp_path / "out").exists()


def test_horizons_that_nobody_reaches_have_no_value_but_a_reason(toy, tmp_path):
    labels, features, _ = toy
    config = replace(CONFIG, horizons_days=(4.0, 9999.0), bootstraps=0)
    run_survival(labels, {"counts": features["counts"]}, tmp_path / "out", config)
    table = pl.read_parquet(tmp_path / "out" / "results.parquet").filter(model="counts")
    late = table.filter(pl.col("horizon_days") == 9999)
    assert late["value"].null_count() == late.height == 2
    assert set(late["reason"]) == {"nobody in held_out is followed for more than 9999 days"}
    assert table.filter(metric="integrated_brier")["value"].item() is None
    assert table.filter(metric="harrell_c")["value"].item() is not None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda t: t.slice(2),
            "lacks 1 of 3 held-out labels of task relapse, the first subject 1 ",
        ),
        (lambda t: t.slice(1), "subject 1 at .* has other horizons than 5, 30 days"),
        (lambda t: t.drop(["predicted_risk"]), "has no column predicted_risk: not risks/1"),
        (
            lambda t: t.set_column(3, "predicted_risk", pa.array([0.5, 1.5] * 3)),
            r"row 1: predicted_risk = 1\.5 \(expected in \[0, 1\]\)",
        ),
        (
            lambda t: t.set_column(3, "predicted_risk", pa.array([0.5, 0.4] * 3)),
            "subject 1 at .* has a risk that falls with the horizon",
        ),
    ],
)
def test_risks_that_do_not_fit_are_one_line(change, message, toys, tmp_path):
    rows = [(i, toys.day(0)) for i in (1, 2, 3)]
    path = write_risks(tmp_path, rows, [5.0, 30.0], [[0.1, 0.2]] * 3) / "relapse" / "0.parquet"
    held_out = pl.DataFrame(
        rows,
        schema={"subject_id": pl.Int64, "prediction_time": pl.Datetime("us")},
        orient="row",
    )
    assert read_risks(tmp_path, "relapse", held_out).risk.shape == (3, 2)
    pq.write_table(change(pq.read_table(path)), path)
    with pytest.raises(ContractError, match=message) as e:
        read_risks(tmp_path, "relapse", held_out)
    assert len(str(e.value).splitlines()) == 1
