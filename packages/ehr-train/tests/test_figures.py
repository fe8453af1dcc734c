"""Figures of a validation, against scikit-learn and lifelines."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lifelines.utils import concordance_index
from sklearn import metrics

from ehr_train import figures

rows = st.lists(st.tuples(st.booleans(), st.integers(-3, 3)), min_size=2, max_size=40)


@given(rows)
def test_those_of_yes_or_no_are_scikit_learns(given_rows):
    truth = np.array([t for t, _ in given_rows])
    logit = np.array([s for _, s in given_rows], float)
    found = figures.binary(truth, logit)
    assert found["accuracy"] == pytest.approx(metrics.accuracy_score(truth, logit > 0))
    if (total := truth.sum() + (logit > 0).sum()) > 0:
        assert found["f1"] == pytest.approx(metrics.f1_score(truth, logit > 0, zero_division=0.0))
    assert ("f1" in found) == (total > 0)
    both = 0 < truth.sum() < len(truth)
    assert ("auroc" in found, "auprc" in found) == (both, both)
    if both:
        assert found["auroc"] == pytest.approx(metrics.roc_auc_score(truth, logit))
        assert found["auprc"] == pytest.approx(metrics.average_precision_score(truth, logit))


def test_means_over_classes_are_scikit_learns():
    rng = np.random.default_rng(0)
    truth, raw = rng.integers(0, 4, 60), rng.random((60, 4))
    probability = raw / raw.sum(1, keepdims=True)
    positive, said = (x[:, None] == np.arange(4) for x in (truth, raw.argmax(1)))
    found = figures.macro(positive, probability, said)
    wanted = {
        "auroc": metrics.roc_auc_score(truth, probability, multi_class="ovr", average="macro"),
        "auprc": metrics.average_precision_score(positive, probability, average="macro"),
        "f1": metrics.f1_score(truth, raw.argmax(1), average="macro"),
    }
    assert found == pytest.approx(wanted)


def test_those_of_numbers_are_scikit_learns():
    rng = np.random.default_rng(1)
    truth, answer = rng.normal(5, 3, 30), rng.normal(5, 3, 30)
    assert figures.numeric(truth, answer) == pytest.approx(
        {
            "mae": metrics.mean_absolute_error(truth, answer),
            "rmse": metrics.root_mean_squared_error(truth, answer),
            "r2": metrics.r2_score(truth, answer),
        }
    )
    assert "r2" not in figures.numeric(np.ones(3), np.zeros(3))


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 9), st.booleans(), st.integers(0, 4)), min_size=2, max_size=30
    )
)
def test_concordance_is_that_of_lifelines(subjects):
    days, happened, risk = (np.array(column) for column in zip(*subjects, strict=True))
    found = figures.concordance(days.astype(float), happened, risk.astype(float))
    try:
        wanted = concordance_index(days, -risk, happened)
    except ZeroDivisionError:
        wanted = None
    assert found == (wanted if wanted is None else pytest.approx(wanted))


def test_every_name_has_a_direction():
    assert {figures.mode_of(name) for name in ("loss", "rmse", "mlm_perplexity")} == {"min"}
    assert {figures.mode_of(name) for name in ("auroc", "c_index", "plos_f1", "r2")} == {"max"}
