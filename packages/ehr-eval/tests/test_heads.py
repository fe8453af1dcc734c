import numpy as np
import pytest
from lightgbm import LGBMClassifier
from scipy import sparse
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import MaxAbsScaler

from ehr_eval.heads.gbm import LightGBMConfig
from ehr_eval.heads.lr import LogisticRegressionConfig
from ehr_eval.heads.select import fit_predict

HEADS = [
    LogisticRegressionConfig(),
    LightGBMConfig(learning_rate=(0.1, 0.5), max_depth=(3,), num_leaves=(10,)),
]


def data(n=120, d=6, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, d)).astype(np.float32) * np.arange(1, d + 1, dtype=np.float32)
    y = x[:, 0] + rng.normal(size=n) * 0.5 > 0
    return x, y


def test_logistic_regression_is_scikit_learns_grid_chosen_on_tuning():
    (x, y), (xt, yt), (xn, _) = data(seed=0), data(seed=1), data(seed=2)
    fitted = fit_predict(LogisticRegressionConfig(), (x, y), (xt, yt), xn)
    x, xt, xn = (part.astype(np.float64) for part in (x, xt, xn))  # in float32 small C lose rank
    scaler = MaxAbsScaler().fit(x)
    scores = {}
    for c in LogisticRegressionConfig().c:
        model = LogisticRegression(C=c, max_iter=1000).fit(scaler.transform(x), y)
        tuned = roc_auc_score(yt, model.predict_proba(scaler.transform(xt))[:, 1])
        scores[c] = tuned, model.predict_proba(scaler.transform(xn))[:, 1]
    highest = max(score for score, _ in scores.values())
    best = next(c for c, (score, _) in scores.items() if score > highest - 1e-12)
    assert fitted.selected == {"C": best}
    np.testing.assert_allclose(fitted.probability, scores[best][1], atol=1e-6)


@pytest.mark.parametrize(("c", "atol"), [(1e-4, 1e-6), (1.0, 1e-3), (100.0, 1e-2)])
def test_few_rows_of_many_features_fit_as_all_features_would(c, atol):
    rng = np.random.default_rng(0)
    x = sparse.csr_matrix(rng.poisson(0.1, (24, 400)).astype(np.float32))
    x = sparse.vstack([x, x[:6]]).tocsr()  # oversampled rows: the Gram matrix is singular
    y = np.r_[np.arange(24) % 3 == 0, np.arange(6) % 3 == 0]
    new = sparse.csr_matrix(rng.poisson(0.1, (50, 400)).astype(np.float32))
    found = fit_predict(LogisticRegressionConfig(c=(c,)), (x, y), (x, y), new)
    scaler = MaxAbsScaler().fit(x.astype(np.float64))
    model = LogisticRegression(C=c, max_iter=10_000, tol=1e-10)
    model.fit(scaler.transform(x.astype(np.float64)), y)
    expected = model.predict_proba(scaler.transform(new.astype(np.float64)))[:, 1]
    np.testing.assert_allclose(found.probability, expected, atol=atol)  # L-BFGS stops early
    assert roc_auc_score(expected > np.median(expected), found.probability) > 0.999


def test_trees_are_lightgbms_own():
    (x, y), (xt, yt), (xn, _) = data(seed=0), data(seed=1), data(seed=2)
    head = LightGBMConfig(learning_rate=(0.1,), max_depth=(3,), num_leaves=(10,))
    fitted = fit_predict(head, (x, y), (xt, yt), xn)
    model = LGBMClassifier(
        learning_rate=0.1,
        max_depth=3,
        num_leaves=10,
        min_child_samples=1,
        n_jobs=1,
        deterministic=True,
        force_col_wise=True,
        verbosity=-1,
        random_state=0,
    ).fit(x, y)
    expected = model.booster_.predict(xn)
    np.testing.assert_allclose(fitted.probability, expected, atol=1e-12)


@pytest.mark.parametrize("head", HEADS, ids=lambda h: h.kind)
def test_sparse_and_dense_features_give_the_same(head):
    rng = np.random.default_rng(0)
    x = rng.poisson(0.3, (90, 30)).astype(np.float32)
    y = x[:, 0] + x[:, 1] > 0
    xn = rng.poisson(0.3, (40, 30)).astype(np.float32)
    dense = fit_predict(head, (x, y), (x[:50], y[:50]), xn)
    rows = sparse.csr_matrix
    found = fit_predict(head, (rows(x), y), (rows(x[:50]), y[:50]), rows(xn))
    np.testing.assert_allclose(found.probability, dense.probability, atol=1e-8)


@pytest.mark.parametrize("head", HEADS, ids=lambda h: h.kind)
def test_one_shot_per_class_and_constant_features_work(head):
    x, y = np.array([[0.0, 7.0], [1.0, 7.0]], np.float32), np.array([False, True])
    fitted = fit_predict(head, (x, y), (x, y), x)
    assert fitted.probability.shape == (2,)
    assert ((fitted.probability >= 0) & (fitted.probability <= 1)).all()


@pytest.mark.parametrize("head", HEADS, ids=lambda h: h.kind)
def test_two_fits_agree_exactly(head):
    (x, y), (xt, yt), (xn, _) = data(seed=0), data(seed=1), data(seed=2)
    first = fit_predict(head, (x, y), (xt, yt), xn)
    second = fit_predict(head, (x, y), (xt, yt), xn)
    np.testing.assert_array_equal(first.probability, second.probability)
