from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
from lightgbm import LGBMClassifier
from scipy import sparse, special
from sklearn.ensemble import RandomForestClassifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, SGDClassifier
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import MaxAbsScaler
from xgboost import XGBClassifier

from ehr_eval.heads.gbm import LightGBMConfig, boosted_trees
from ehr_eval.heads.knn import NeighboursConfig
from ehr_eval.heads.lr import LogisticRegressionConfig, logistic_regressions
from ehr_eval.heads.probe import LinearProbeConfig
from ehr_eval.heads.prototype import PrototypeConfig
from ehr_eval.heads.rf import RandomForestConfig
from ehr_eval.heads.search import tried
from ehr_eval.heads.select import fit_predict
from ehr_eval.heads.xgb import XGBoostConfig
from ehr_eval.judge.bootstrap import scores
from ehr_eval.protocol.config import EhrshotConfig
from ehr_eval.protocol.ehrshot import run_ehrshot
from ehr_tracking.errors import UserError

HEADS = [
    LogisticRegressionConfig(),
    LightGBMConfig(learning_rate=(0.1, 0.5), max_depth=(3,), num_leaves=(10,)),
    RandomForestConfig(n_estimators=(20,), max_depth=(3, 5)),
    XGBoostConfig(learning_rate=(0.1, 0.5), max_depth=(3,), rounds=20),
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
    found = {}
    for c in LogisticRegressionConfig().c:
        model = LogisticRegression(C=c, solver="newton-cholesky", tol=1e-12).fit(
            scaler.transform(x), y
        )
        tuned = roc_auc_score(yt, model.predict_proba(scaler.transform(xt))[:, 1])
        found[c] = tuned, model.predict_proba(scaler.transform(xn))[:, 1]
    highest = max(score for score, _ in found.values())
    best = next(c for c, (score, _) in found.items() if score > highest - 1e-12)
    assert fitted.selected == {"c": best}
    np.testing.assert_allclose(fitted.probability, found[best][1], atol=1e-6)


@pytest.mark.parametrize("c", [1e-4, 1.0, 100.0])
def test_few_rows_of_many_features_fit_as_all_features_would(c):
    rng = np.random.default_rng(0)
    x = sparse.csr_matrix(rng.poisson(0.1, (24, 400)).astype(np.float32))
    x = sparse.vstack([x, x[:6]]).tocsr()  # oversampled rows: the Gram matrix is singular
    y = np.r_[np.arange(24) % 3 == 0, np.arange(6) % 3 == 0]
    new = sparse.csr_matrix(rng.poisson(0.1, (50, 400)).astype(np.float32))
    found = fit_predict(LogisticRegressionConfig(c=(c,)), (x, y), (x, y), new)
    scaler = MaxAbsScaler().fit(x.astype(np.float64))
    model = LogisticRegression(C=c, solver="newton-cholesky", tol=1e-12)
    model.fit(scaler.transform(x.astype(np.float64)), y)
    expected = model.predict_proba(scaler.transform(new.astype(np.float64)))[:, 1]
    np.testing.assert_allclose(found.probability, expected, atol=1e-6)
    assert roc_auc_score(expected > np.median(expected), found.probability) > 0.999


def made(n, d, seed, *, density=None):
    """Rows of a weak signal: dense and correlated, or counts of codes."""
    rng = np.random.default_rng(seed)
    if density is None:
        x = rng.normal(size=(n, d)) @ (rng.normal(size=(d, d)) / np.sqrt(d)) + 1
    else:
        # not whole numbers: no two rows tie but for the order in which a sum is rounded
        x = rng.poisson(density, (n, d)) * rng.uniform(0.5, 1.5, (n, d))
    x = x.astype(np.float32)
    y = x[:, : max(1, d // 4)].mean(axis=1) + rng.normal(size=n) * 0.5
    y = y > np.median(y)
    y[:2] = True, False
    return (x if density is None else sparse.csr_matrix(x)), y


@pytest.mark.parametrize("density", [None, 0.2])
@pytest.mark.parametrize(
    ("n", "d"), [(6, 20), (16, 128), (128, 300), (300, 16), (700, 60), (120, 1)]
)
def test_fits_are_those_of_newton_cholesky_at_a_tight_tolerance(n, d, density):
    seeds = np.random.SeedSequence([n, d]).generate_state(2)
    (x, y), (xt, yt) = made(n, d, seeds[0], density=density), made(60, d, seeds[1], density=density)
    scaler = MaxAbsScaler().fit(x.astype(np.float64))
    rows, tuned = (scaler.transform(part.astype(np.float64)) for part in (x, xt))
    for found in logistic_regressions(LogisticRegressionConfig(), x, y):
        c = found.point["c"]
        oracle = LogisticRegression(
            C=c, solver="newton-cholesky", tol=min(1e-9, 1e-5 / c / len(y)), max_iter=1000
        )
        expected = oracle.fit(rows, y).predict_proba(tuned)[:, 1]
        assert found.converged
        ours, theirs = scores(yt, found.predict(xt)), scores(yt, expected)
        for metric in ("auroc", "auprc", "brier"):
            assert ours[metric][0] == pytest.approx(theirs[metric][0], abs=1e-6), (c, metric)
        np.testing.assert_allclose(found.predict(xt), expected, atol=1e-6)


@pytest.mark.parametrize("k", [1, 2, 8, 32])
def test_the_chosen_strength_is_that_of_newton_cholesky(k):
    config = LogisticRegressionConfig()
    for seed in range(3):
        (x, y), (xt, yt) = (made(2 * k, 64, 2 * seed + i, density=0.3) for i in (0, 1))
        found = fit_predict(config, (x, y), (xt, yt), xt)
        scaler = MaxAbsScaler().fit(x.astype(np.float64))
        rows, tuned = (scaler.transform(part.astype(np.float64)) for part in (x, xt))
        best = {}
        for c in config.c:
            oracle = LogisticRegression(
                C=c, solver="newton-cholesky", tol=min(1e-9, 1e-5 / c / len(y)), max_iter=1000
            )
            best[c] = roc_auc_score(yt, oracle.fit(rows, y).predict_proba(tuned)[:, 1])
        assert found.selected["c"] == max(best, key=lambda c: round(best[c], 12))


@pytest.mark.parametrize("density", [None, 0.1])
def test_where_rows_and_features_are_many_the_gradient_at_the_solution_is_zero(density):
    x, y = made(1100, 1050, 0, density=density)
    scale = MaxAbsScaler().fit(x.astype(np.float64)).scale_
    for found in logistic_regressions(LogisticRegressionConfig(c=(1e-4, 1.0, 1e4)), x, y):
        # the weights, from what is predicted of rows with a single 1
        logit = special.logit(found.predict(np.vstack([np.zeros(1050), np.diag(scale)])))
        weight, c = logit[1:] - logit[0], found.point["c"]
        off = found.predict(x) - y
        gradient = (x.T @ off) / scale / len(y) + weight / (c * len(y))
        assert found.converged
        assert np.abs(gradient).max() < 1e-8
        assert abs(off.mean()) < 1e-8


def test_a_limit_of_steps_ends_a_fit_and_is_told():
    (x, y), (xt, yt), (xn, _) = data(seed=0), data(seed=1), data(seed=2)
    found = fit_predict(LogisticRegressionConfig(c=(1e-4, 1e2), max_iter=1), (x, y), (xt, yt), xn)
    assert {"c": 100.0} in found.unconverged
    assert not fit_predict(
        LogisticRegressionConfig(c=(1e-4, 1e2)), (x, y), (xt, yt), xn
    ).unconverged


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


def test_features_that_are_equal_in_every_row_are_left_out_without_a_change():
    """Counts of few rows are often equal, and must not be told apart in new rows by chance."""
    rng = np.random.default_rng(0)
    few, new = rng.poisson(0.4, (40, 30)), rng.poisson(0.4, (50, 90))
    x = np.concatenate([few, few[:, ::-1], np.zeros((40, 10)), few[:, :20]], axis=1)
    x, y = x.astype(np.float32), few[:, 3] + few[:, 7] > 0
    head = LightGBMConfig(learning_rate=(0.1, 0.5), max_depth=(-1,), num_leaves=(10,))
    for fit in boosted_trees(head, sparse.csr_matrix(x), y):
        every = LGBMClassifier(
            **{**fit.point, "min_child_samples": 1, "n_jobs": 1, "verbosity": -1},
            **{"deterministic": True, "force_col_wise": True, "random_state": 0},
        ).fit(x, y)
        assert len(set(every.feature_importances_)) > 1
        np.testing.assert_array_equal(fit.predict(new), every.booster_.predict(new))


@pytest.mark.parametrize("rows", [4, 30, 120])
def test_each_point_of_a_grid_of_trees_is_what_it_would_be_by_itself(rows):
    rng = np.random.default_rng(rows)
    x, y = rng.normal(size=(rows, 6)).astype(np.float32), np.arange(rows) % 2 == 0
    grid = LightGBMConfig(
        learning_rate=(0.1,), max_depth=(3, 6, -1), num_leaves=(4, 10, 25), rounds=12
    )
    for fit in boosted_trees(grid, x, y):
        alone = LightGBMConfig(rounds=12, **{name: (value,) for name, value in fit.point.items()})
        (single,) = boosted_trees(alone, x, y)
        np.testing.assert_array_equal(fit.predict(x), single.predict(x))


def test_forests_are_scikit_learns_own():
    (x, y), (xt, yt), (xn, _) = data(seed=0), data(seed=1), data(seed=2)
    fitted = fit_predict(
        RandomForestConfig(n_estimators=(20,), max_depth=(5,)), (x, y), (xt, yt), xn
    )
    model = RandomForestClassifier(20, max_depth=5, random_state=0).fit(x, y)
    np.testing.assert_array_equal(fitted.probability, model.predict_proba(xn)[:, 1])


@pytest.mark.parametrize("kind", [np.asarray, sparse.csr_matrix])
def test_xgboosts_trees_are_its_own_which_take_what_is_not_stored_as_missing(kind):
    rng = np.random.default_rng(0)
    x = kind(rng.poisson(0.4, (90, 12)).astype(np.float32))
    y = np.arange(90) % 3 == 0
    head = XGBoostConfig(learning_rate=(0.3,), max_depth=(3,), subsample=(0.7,), rounds=15)
    fitted = fit_predict(head, (x, y), (x, y), x)
    model = XGBClassifier(
        n_estimators=15,
        learning_rate=0.3,
        max_depth=3,
        subsample=0.7,
        min_child_weight=1e-3,
        tree_method="hist",
        n_jobs=1,
        random_state=0,
    ).fit(x, y)
    np.testing.assert_allclose(fitted.probability, model.predict_proba(x)[:, 1], atol=1e-12)


@pytest.mark.parametrize("head", HEADS, ids=lambda h: h.kind)
def test_optuna_looks_between_the_ends_of_the_lists_and_finds_the_same_each_time(head):
    (x, y), (xt, yt), (xn, _) = data(seed=0), data(seed=1), data(seed=2)
    searching = replace(head, trials=4)
    first, second = (fit_predict(searching, (x, y), (xt, yt), xn) for _ in range(2))
    assert first.selected == second.selected
    np.testing.assert_array_equal(first.probability, second.probability)
    for name, value in first.selected.items():
        values = getattr(head, name)
        assert min(values) <= value <= max(values)
    # what was chosen is the fit at that very point
    alone = replace(head, **{name: (value,) for name, value in first.selected.items()})
    np.testing.assert_array_equal(fit_predict(alone, (x, y), (xt, yt), xn)[0], first.probability)


def test_a_search_keeps_the_trial_of_the_best_tuning_auroc():
    (x, y), (xt, yt) = data(seed=0), data(seed=1)
    tried_points = {}
    config = LogisticRegressionConfig(c=(1e-6, 1e4), trials=8)

    def score(fit):
        tried_points[fit.point["c"]] = roc_auc_score(yt, fit.predict(xt))
        return tried_points[fit.point["c"]]

    assert len(list(tried(config, (x, y), score))) == len(tried_points) == 8  # none at an end twice
    kept = fit_predict(config, (x, y), (xt, yt), xt)
    assert tried_points[kept.selected["c"]] == max(tried_points.values())


@pytest.mark.parametrize("head", HEADS, ids=lambda h: h.kind)
@pytest.mark.parametrize("kind", [np.asarray, sparse.csr_matrix])
def test_a_refit_is_the_chosen_point_fitted_on_train_and_tuning(head, kind):
    (x, y), (xt, yt), (xn, _) = data(seed=0), data(seed=1), data(seed=2)
    x, xt, xn = kind(x), kind(xt), kind(xn)
    found = fit_predict(replace(head, refit=True), (x, y), (xt, yt), xn)
    chosen = fit_predict(head, (x, y), (xt, yt), xn)
    assert found.selected == chosen.selected
    both = (sparse.vstack if sparse.issparse(x) else np.vstack)([x, xt])
    alone = replace(head, **{name: (value,) for name, value in chosen.selected.items()})
    expected = fit_predict(alone, (kind(both), np.r_[y, yt]), (xt, yt), xn)
    np.testing.assert_array_equal(found.probability, expected.probability)
    assert (found.probability != chosen.probability).any()


@pytest.mark.parametrize("setting", [XGBoostConfig(), LogisticRegressionConfig(trials=3)])
def test_an_extra_that_is_not_installed_is_one_line_before_anything_is_read(
    setting, monkeypatch, tmp_path
):
    monkeypatch.setattr("ehr_eval.extras.find_spec", lambda name: None)
    with pytest.raises(
        UserError, match=r"not installed: pip install 'ehr-eval\[(xgboost|optuna)\]'"
    ):
        run_ehrshot(tmp_path, {}, tmp_path / "out", EhrshotConfig(heads={"h": setting}))


@pytest.mark.parametrize("head", HEADS[:3], ids=lambda h: h.kind)
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


def few(kind=np.asarray, rows=24):
    rng = np.random.default_rng(rows)
    x = rng.poisson(0.8, (3 * rows, 9)).astype(np.float32)
    x *= 1 + rng.random(x.shape, np.float32)  # no two rows equally near
    y = (x[:, 0] + rng.normal(size=len(x))) > 0.8
    y[:2] = y[rows : rows + 2] = [True, False]
    parts = [slice(i * rows, (i + 1) * rows) for i in range(3)]
    return [(kind(x[part]), y[part]) for part in parts]


@pytest.mark.parametrize("kind", [np.asarray, sparse.csr_matrix])
def test_prototypes_are_the_softmax_of_distances_to_the_means(kind):
    (x, y), tuning, (new, _) = few(kind)
    found = fit_predict(PrototypeConfig(), (x, y), tuning, new).probability
    scaler = MaxAbsScaler().fit(x)
    rows, ahead = (scaler.transform(m) for m in (x, new))
    rows, ahead = (m.toarray() if sparse.issparse(m) else m for m in (rows, ahead))
    means = np.stack([rows[~y].mean(axis=0), rows[y].mean(axis=0)]).astype(np.float64)
    unit = np.mean(np.sum((rows - means[y.astype(int)]) ** 2, axis=1))
    logits = -np.sum((ahead[:, None] - means) ** 2, axis=2) / unit
    np.testing.assert_allclose(found, special.softmax(logits, axis=1)[:, 1], atol=1e-6)


@pytest.mark.parametrize("kind", [np.asarray, sparse.csr_matrix])
def test_neighbours_and_probes_are_scikit_learns_own_on_scaled_features(kind):
    (x, y), tuning, (new, _) = few(kind)
    scaler = MaxAbsScaler().fit(x)
    rows, ahead = (scaler.transform(m.astype(np.float64)) for m in (x, new))
    found = fit_predict(NeighboursConfig(neighbours=(5,)), (x, y), tuning, new).probability
    model = KNeighborsClassifier(5, weights="distance").fit(rows, y)
    np.testing.assert_allclose(found, model.predict_proba(ahead)[:, 1], atol=1e-6)
    found = fit_predict(LinearProbeConfig(weight_decay=(1e-3,)), (x, y), tuning, new).probability
    probe = SGDClassifier(
        "log_loss", alpha=1e-3, max_iter=50, tol=None, average=True, random_state=0
    )
    np.testing.assert_allclose(found, probe.fit(rows, y).predict_proba(ahead)[:, 1], atol=1e-6)


@pytest.mark.parametrize("config", [PrototypeConfig(), NeighboursConfig(), LinearProbeConfig()])
def test_one_row_of_each_class_is_enough(config):
    x, y = np.array([[0.0, 1.0], [2.0, 1.0]]), np.array([False, True])
    found = fit_predict(config, (x, y), (x, y), x).probability
    assert found[0] < 0.5 < found[1]


def test_the_refit_of_the_original_is_a_plain_loops():
    """Grid search on one split, then the class anew with C alone, as EHRSHOT's code is written."""
    rng = np.random.default_rng(3)
    x = rng.normal(size=(400, 60)) * np.geomspace(1, 30, 60)
    y = x @ rng.normal(size=60) + 40 * rng.normal(size=400) > 0
    (xa, ya), (xb, yb), (xc, _) = ((x[i : i + 130], y[i : i + 130]) for i in (0, 130, 260))
    scaler = MaxAbsScaler().fit(xa)
    a, b, c = (scaler.transform(part) for part in (xa, xb, xc))
    tolerance, best = 1e-4 / len(ya), None  # of a mean, as 1e-4 was of a sum
    for strength in LogisticRegressionConfig().c:
        model = LogisticRegression(C=strength, tol=tolerance, max_iter=1000, random_state=0).fit(
            a, ya
        )
        score = roc_auc_score(yb, model.predict_proba(b)[:, 1])
        if best is None or score > best[0]:
            best = score, strength
    with pytest.warns(ConvergenceWarning) if best[1] > 100 else nullcontext():
        refitted = LogisticRegression(C=best[1], tol=tolerance).fit(a, ya)
    found = fit_predict(LogisticRegressionConfig(), (xa, ya), (xb, yb), xc, original=0)
    assert found.selected == {"c": best[1]}
    np.testing.assert_allclose(found.probability, refitted.predict_proba(c)[:, 1], atol=1e-6)


def test_the_refit_of_the_original_ends_after_100_steps_and_forests_draw_by_replicate():
    (x, y), tuning, (new, _) = few()
    hard = LogisticRegressionConfig(c=(1e6,))
    ours, theirs = (
        fit_predict(hard, (x * 30, y), tuning, new, original=o).probability for o in (None, 0)
    )
    assert np.abs(ours - theirs).max() > 0
    forest = RandomForestConfig(n_estimators=(10,), max_depth=(3,))
    first, again, other = (
        fit_predict(forest, (x, y), tuning, new, original=o).probability for o in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 0
