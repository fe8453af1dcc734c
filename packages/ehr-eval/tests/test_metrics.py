import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from meds_evaluation.evaluate import _get_binary_classification_metrics
from sklearn.metrics import (
    average_precision_score,
    brier_score_loss,
    confusion_matrix,
    f1_score,
    roc_auc_score,
    roc_curve,
)
from sklearn.utils import resample

from ehr_eval.judge.bootstrap import interval, patient_draws, scores
from ehr_eval.judge.compare import GroupMean, Score, group_mean
from ehr_eval.judge.metrics import undefined
from ehr_eval.judge.metrics.f1 import best_threshold
from ehr_eval.protocol.decisions import confusion

ORACLES = {
    "auroc": roc_auc_score,
    "auprc": average_precision_score,
    "brier": brier_score_loss,
    "calibration_error": lambda label, p, sample_weight=None: theirs(label, p, sample_weight),
    "partial_auroc": lambda *args, **kwargs: roc_auc_score(*args, max_fpr=0.2, **kwargs),
    "sensitivity": lambda *args, **kwargs: highest(*roc_curve(*args, **kwargs)),
    "f1": lambda label, p, sample_weight=None: f1_score(
        label, p >= THRESHOLD, sample_weight=sample_weight, zero_division=np.nan
    ),
}
THRESHOLD = 0.6


def highest(false, true, _):
    """Sensitivity at 95% specificity."""
    return true[false <= 0.05 + 1e-12].max()


def theirs(label, probability, weight=None):
    """meds-evaluation's own: it knows no weights, so rows are repeated."""
    times = np.ones(len(label), int) if weight is None else weight
    label, probability = np.repeat(label, times), np.repeat(probability, times)
    return _get_binary_classification_metrics(label, None, probability)["calibration_error"]


def rows(n, seed, *, decimals=2):
    rng = np.random.default_rng(seed)
    subject = rng.integers(0, max(2, n // 3), n)
    label = rng.random(n) < 0.3
    label[:2] = True, False
    probability = np.round(np.clip(rng.random(n) * 0.7 + 0.3 * label, 0, 1), decimals)
    return subject, label, probability


@pytest.mark.parametrize("decimals", [1, 15])  # nearly all tied; none tied
def test_point_estimates_equal_scikit_learn(decimals):
    for seed in range(5):
        _, label, probability = rows(211, seed, decimals=decimals)
        for name, value in scores(label, probability, decided=probability >= THRESHOLD).items():
            assert abs(value[0] - ORACLES[name](label, probability)) < 1e-12


@pytest.mark.parametrize("specificity", [0.5, 0.8, 0.99])
def test_sensitivity_is_at_the_specificity_that_is_set(specificity):
    _, label, probability = rows(211, 3)
    false, true, _ = roc_curve(label, probability, drop_intermediate=False)
    expected = true[false <= 1 - specificity + 1e-12].max()
    found = scores(label, probability, specificity=specificity, metrics=("sensitivity",))
    assert found["sensitivity"][0] == pytest.approx(expected, abs=1e-12)


def test_every_bootstrap_draw_equals_scikit_learn_with_sample_weights():
    subject, label, probability = rows(180, 1)
    weight = patient_draws(subject, 40)
    found = scores(label, probability, weight, decided=probability >= THRESHOLD)
    for name, oracle in ORACLES.items():
        expected = [oracle(label, probability, sample_weight=weight[:, i]) for i in range(40)]
        np.testing.assert_allclose(found[name], expected, rtol=0, atol=1e-12)


def test_draws_are_the_protocols_resamples_of_sorted_patients():
    subject = np.array([30, 10, 10, 20, 40, 30])
    weight = patient_draws(subject, 25)
    for i in range(25):
        drawn = resample(sorted(set(subject.tolist())), random_state=i)
        assert weight[:, i].tolist() == [drawn.count(s) for s in subject]


def test_bootstrap_in_blocks_equals_one_block(monkeypatch):
    subject, label, probability = rows(97, 2)
    weight = patient_draws(subject, 50)
    whole = scores(label, probability, weight)
    monkeypatch.setattr("ehr_eval.judge.bootstrap._WEIGHTS", 97 * 7)
    for name, value in scores(label, probability, weight).items():
        np.testing.assert_allclose(value, whole[name], rtol=0, atol=1e-15)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.booleans(), st.integers(0, 4), st.integers(0, 3)), min_size=1, max_size=9)
)
def test_few_rows_with_ties_and_weights_equal_scikit_learn_or_say_why_not(drawn):
    label, probability, weight = (np.array(column) for column in zip(*drawn, strict=True))
    probability, weight = probability / 4, weight.astype(np.uint16)
    decided, there = probability >= THRESHOLD, weight > 0
    found = scores(label, probability, weight[:, None], decided=decided)
    reasons = undefined(label[there])
    for name, value in found.items():
        if name in reasons or (name == "calibration_error" and len(set(label[there])) == 1):
            continue  # meds-evaluation's own fails where AUROC does
        expected = ORACLES[name](label, probability, sample_weight=weight)
        assert value[0] == pytest.approx(expected, abs=1e-9), name


@given(st.permutations(range(9)))
def test_order_of_rows_does_not_matter(order):
    label = np.array([0, 1, 0, 1, 1, 0, 0, 1, 0], bool)
    probability = np.array([0.1, 0.1, 0.5, 0.5, 0.5, 0.9, 0.2, 0.9, 0.9])
    decided = probability > 0.4
    whole = scores(label, probability, decided=decided)
    at = list(order)
    for name, value in scores(label[at], probability[at], decided=decided[at]).items():
        assert value[0] == pytest.approx(whole[name][0], abs=1e-15)


def test_single_class_has_no_auroc_and_says_why():
    for label, reason in ((np.ones(4, bool), "no negative"), (np.zeros(4, bool), "no positive")):
        assert np.isnan(scores(label, np.linspace(0, 1, 4))["auroc"][0])
        assert reason in undefined(label)["auroc"]
    assert not undefined(np.array([True, False]))


def test_interval_leaves_out_draws_with_one_class():
    subject = np.array([1, 2, 3])
    label = np.array([True, False, False])
    weight = patient_draws(subject, 200)
    draws = scores(label, np.array([0.9, 0.5, 0.1]), weight)["auroc"]
    with_one_class = (weight[0] == 0) | (weight[1:].sum(axis=0) == 0)
    assert with_one_class.any()
    np.testing.assert_array_equal(np.isnan(draws), with_one_class)
    assert interval(draws) == (1.0, 1.0)


def test_edges_of_bins_belong_to_the_bin_below_as_meds_evaluations_do():
    probability = np.repeat(np.linspace(0, 1, 11), 3)
    label = np.arange(33) % 2 == 0
    found = scores(label, probability)["calibration_error"][0]
    assert found == pytest.approx(theirs(label, probability), abs=1e-12)


def test_over_no_rows_there_is_no_score_rather_than_0():
    none = np.zeros(0)
    for weight in (None, np.zeros((0, 3), np.uint16)):
        for value in scores(none.astype(bool), none, weight).values():
            assert np.isnan(value).all()
    assert set(undefined(none.astype(bool)).values()) == {"no row in held_out"}


def test_a_draw_without_rows_has_no_score_rather_than_0():
    weight = np.array([[0, 1], [0, 1]], np.uint16)
    label = np.array([True, False])
    for value in scores(label, np.array([0.8, 0.3]), weight, decided=label).values():
        assert np.isnan(value).tolist() == [True, False]


def test_a_mean_over_no_task_is_none_and_over_no_draw_has_no_interval():
    assert group_mean([]) is None
    known, unknown = np.array([0.4, 0.6]), np.array([np.nan, np.nan])
    assert group_mean([Score(0.5, known), Score(0.7, unknown)]) == GroupMean(0.6, None)
    assert group_mean([Score(0.5, np.zeros(0))]) == GroupMean(0.5, None)


def test_degenerate_rows_equal_scikit_learn():
    few = np.array([True, False, True])
    for probability in (np.full(3, 0.5), np.array([1.0, 0.0, 1.0]), np.array([0.0, 1.0, 0.0])):
        for name, value in scores(few, probability, decided=probability >= THRESHOLD).items():
            assert value[0] == pytest.approx(ORACLES[name](few, probability), abs=1e-12), name
    allowed = np.r_[
        np.ones(4, bool), np.zeros(20, bool)
    ]  # 1 of 20 negatives is 95%, to the last digit
    probability = np.r_[[0.9, 0.9, 0.3, 0.1], 0.5, np.full(19, 0.2)]
    found = scores(allowed, probability)["sensitivity"][0]
    assert found == highest(*roc_curve(allowed, probability)) == 0.75
    assert scores(allowed, np.r_[np.full(4, 0.1), np.full(20, 0.9)])["sensitivity"][0] == 0


@pytest.mark.parametrize("label", [np.ones(5, bool), np.zeros(5, bool)])
def test_with_one_class_a_metric_has_a_value_only_where_it_needs_no_other(label):
    decided = np.array([True, False, True, False, True])
    found = scores(label, np.linspace(0, 1, 5), decided=decided)
    reasons = undefined(label)
    for name, value in found.items():
        assert (name in reasons) or not np.isnan(value[0]), name
    for name in ("auroc", "partial_auroc", "sensitivity"):
        assert np.isnan(found[name][0])
    assert ("f1" in reasons) == (not label.any())


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 6)), min_size=1, max_size=12))
def test_no_threshold_has_a_higher_f1_than_the_one_that_is_chosen(rows):
    label, probability = np.array([(True, 3), *rows]).T
    label, probability = label.astype(bool), probability / 6
    chosen = best_threshold(label, probability)
    of = {t: f1_score(label, probability >= t) for t in np.unique(probability)}
    assert of[chosen] == max(of.values())
    assert chosen == max(t for t, value in of.items() if value == of[chosen])


def test_without_a_threshold_there_is_no_f1_and_the_reason_is_told():
    label = np.array([True, False])
    assert np.isnan(scores(label, np.array([0.9, 0.1]))["f1"][0])
    assert undefined(label, decided=False) == {"f1": "no threshold was chosen on tuning"}


def test_a_confusion_matrix_is_scikit_learns():
    rng = np.random.default_rng(0)
    label, called = rng.random((2, 50)) < 0.4
    told = pa.table({"boolean_value": label, "predicted_boolean_value": called})
    assert confusion(told).tolist() == confusion_matrix(label, called).tolist()
    assert confusion(told.set_column(1, told.column_names[1], pa.nulls(50, pa.bool_()))) is None
