"""The metrics that `judge` alone computes, each against something that is not ours."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq
from scipy.special import expit, logit
from sklearn.calibration import calibration_curve
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import brier_score_loss, log_loss, precision_score, recall_score

from ehr_eval.judge.bootstrap import patient_draws, scores
from ehr_eval.judge.metrics import ALL_METRICS, METRICS, undefined

LATE = tuple(ALL_METRICS.keys() - METRICS.keys())
CUT, AT = 0.6, 0.3


def in_bins(label, p, weight):
    """Bin -> rows, mean probability, frequency, by a plain loop over ten bins of equal width."""
    for k in range(10):
        inside = (p > k / 10) & (p <= (k + 1) / 10) if k else p <= 0.1
        rows = weight[inside].sum()
        if rows:
            yield rows, np.average(p[inside], weights=weight[inside]), np.average(label[inside], weights=weight[inside])  # fmt: skip


def reliability(label, p, weight):
    return sum(n * (said - came) ** 2 for n, said, came in in_bins(label, p, weight)) / weight.sum()


def resolution(label, p, weight):
    mean = np.average(label, weights=weight)
    return sum(n * (came - mean) ** 2 for n, _, came in in_bins(label, p, weight)) / weight.sum()


def ece(label, p, weight):
    """By scikit-learn's curve of repeated rows, which does not say how many are in a bin."""
    label, p = np.repeat(label, weight), np.repeat(p, weight)
    came, said = calibration_curve(label, p, n_bins=10)
    rows = np.bincount(np.searchsorted(np.linspace(0, 1, 11)[1:-1], p))
    return np.abs(came - said) @ rows[rows > 0] / len(p)


def ece_mass(label, p, weight):
    """The middle of the ranks of rows with equal probability decides their bin."""
    gaps, total = {}, weight.sum()
    for value in np.unique(p[weight > 0]):
        mine = p == value
        middle = weight[p > value].sum() + weight[mine].sum() / 2
        k = int(10 * middle / total)
        gaps[k] = gaps.get(k, 0.0) + (weight[mine] * (label[mine] - p[mine])).sum()
    return sum(abs(gap) for gap in gaps.values()) / total


def logits(p):
    return logit(np.clip(p, 1e-7, 1 - 1e-7))


def slope(label, p, weight):
    model = LogisticRegression(C=np.inf, solver="newton-cholesky", tol=1e-13, max_iter=1000)
    return model.fit(logits(p)[:, None], label, sample_weight=weight).coef_[0, 0]


def intercept(label, p, weight):
    return intercept_beside(logits(p), label, weight)


def intercept_beside(z, label, weight):
    def off(a):  # without 1 - p, which loses digits
        return (weight * np.where(label, expit(-a - z), -expit(a + z))).sum()

    return brentq(off, -200, 200, xtol=1e-14)


def net_benefit(label, p, weight):
    treated = p >= AT
    right, wrong = (weight[treated & (label == value)].sum() for value in (True, False))
    return (right - wrong * AT / (1 - AT)) / weight.sum()


def called(score, *, positive):
    return lambda label, p, weight: score(
        label, p >= CUT, sample_weight=weight, pos_label=positive, zero_division=np.nan
    )


ORACLES = {
    "log_loss": lambda label, p, w: log_loss(label, p, sample_weight=w, labels=[False, True]),
    "brier_reliability": reliability,
    "brier_resolution": resolution,
    "brier_uncertainty": lambda label, p, w: brier_score_loss(
        label, np.full(len(p), np.average(label, weights=w)), sample_weight=w
    ),
    "ece": ece,
    "ece_mass": ece_mass,
    "calibration_slope": slope,
    "calibration_intercept": intercept,
    "net_benefit": net_benefit,
    "threshold_sensitivity": called(recall_score, positive=True),
    "threshold_specificity": called(recall_score, positive=False),
    "ppv": called(precision_score, positive=True),
    "npv": called(precision_score, positive=False),
}


def late(label, p, weight=None, **more):
    return scores(label, p, weight, decided=p >= CUT, at_risk=AT, metrics=LATE, **more)


def test_each_has_an_oracle():
    assert set(LATE) == ORACLES.keys()


@pytest.mark.parametrize("decimals", [1, 15])  # nearly all tied; none tied
@pytest.mark.parametrize("name", sorted(ORACLES))
def test_points_and_draws_equal_the_oracle_within_a_billionth(name, decimals):
    rng = np.random.default_rng(decimals)
    label = rng.random(150) < 0.35
    p = np.round(expit(rng.normal(size=150) + label), decimals)
    draws = patient_draws(rng.integers(0, 60, 150), 12)
    weight = np.concatenate([np.ones((150, 1), np.uint16), draws], axis=1)
    expected = [ORACLES[name](label, p, weight[:, i]) for i in range(13)]
    np.testing.assert_allclose(late(label, p, weight)[name], expected, rtol=0, atol=1e-9)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.booleans(), st.integers(0, 4), st.integers(0, 3)), min_size=2, max_size=9)
)
def test_few_rows_with_ties_weights_and_certainty_equal_the_oracle_or_say_why_not(rows):
    label, p, weight = (np.array(column) for column in zip(*rows, strict=True))
    p, weight = p / 4, weight.astype(np.uint16)
    found = late(label, p, weight[:, None])
    there = weight > 0
    reasons = undefined(label[there], metrics=LATE)
    for name, values in found.items():
        if not there.any() or (name in reasons and "no " in reasons[name]):
            continue  # told as undefined, whatever the number
        if np.isnan(values[0]):
            assert ALL_METRICS[name].otherwise, name
        elif name == "calibration_slope":
            # where it is told, the score's equations hold: sums of residuals are zero
            assert overlap(label[there], p[there])
            z, y, w = logits(p[there]), label[there], weight[there].astype(float)
            a = intercept_beside(values[0] * z, y, w)
            eta = a + values[0] * z
            assert abs(z @ (w * np.where(y, expit(-eta), -expit(eta)))) < 1e-7
        else:
            assert values[0] == pytest.approx(ORACLES[name](label, p, weight), abs=1e-9), name


def overlap(label, p):
    return p[label].max() > p[~label].min() and p[~label].max() > p[label].min()


def test_murphys_parts_add_up_to_the_brier_score_where_a_bin_has_one_probability():
    rng = np.random.default_rng(0)
    p = rng.choice([0.05, 0.25, 0.55, 0.95], 300)
    found = scores(rng.random(300) < p**1.3, p, metrics=ALL_METRICS)
    parts = (found[f"brier_{part}"] for part in ("reliability", "resolution", "uncertainty"))
    reliability, resolution, uncertainty = (float(part[0]) for part in parts)
    assert reliability - resolution + uncertainty == pytest.approx(found["brier"][0], abs=1e-12)


def test_a_recalibrated_model_has_slope_1_and_intercept_0():
    """Cox: the regression of the outcome on what the regression itself says is the identity."""
    rng = np.random.default_rng(1)
    z = rng.normal(size=400)
    label = rng.random(400) < expit(0.4 * z - 1)
    model = LogisticRegression(C=np.inf, solver="newton-cholesky", tol=1e-13)
    p = model.fit(z[:, None], label).predict_proba(z[:, None])[:, 1]
    found = scores(label, p, metrics=("calibration_slope", "calibration_intercept"))
    assert found["calibration_slope"][0] == pytest.approx(1, abs=1e-9)
    assert found["calibration_intercept"][0] == pytest.approx(0, abs=1e-9)


def test_where_a_threshold_parts_the_classes_there_is_no_slope():
    label = np.array([True, True, False, False])
    for p in ([0.9, 0.8, 0.2, 0.1], [0.9, 0.5, 0.5, 0.1], [0.1, 0.2, 0.8, 0.9], [0.5] * 4):
        assert np.isnan(scores(label, np.array(p), metrics=("calibration_slope",))["calibration_slope"])  # fmt: skip
