"""Bootstraps over patients, beside a plain loop over scikit-learn's functions with `sample_weight`.

Both resample the sorted patients of each draw as EHRSHOT does and take how often a patient is drawn as the weight of the
patient's rows. 2,195 rows are those of EHRSHOT's smaller tasks.
"""

import time
from collections import Counter
from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import (
    average_precision_score,
    brier_score_loss,
    log_loss,
    precision_score,
    recall_score,
    roc_auc_score,
)
from sklearn.utils import resample

from ehr_eval.judge.bootstrap import patient_draws, scores
from ehr_eval.judge.metrics.cox import logits

CUT = 0.5
PROTOCOL = ("auroc", "auprc", "brier")
"""The three that EHRSHOT tells."""
MORE = ("partial_auroc", "f1", "log_loss", "threshold_sensitivity", "ppv", "calibration_slope")


def measure(*, quick: bool) -> list[dict[str, Any]]:
    """A row a set of metrics and number of rows."""
    draws = 50 if quick else 1000
    return [
        row("EHRSHOT's three", PROTOCOL, 2195, draws, target=50.0),
        row("EHRSHOT's three", PROTOCOL, 500, draws, target=50.0),
        row("nine", PROTOCOL + MORE, 2195, max(20, draws // 10), target=None),
    ]


def row(
    name: str, metrics: tuple[str, ...], n: int, draws: int, *, target: float | None
) -> dict[str, Any]:
    """One comparison."""
    rng = np.random.default_rng(0)
    subject = rng.integers(0, n // 2, n)
    label = rng.random(n) < 0.2
    p = 1 / (1 + np.exp(1.5 - label - rng.normal(size=n)))
    began = time.process_time()
    weight = patient_draws(subject, draws)
    ours = scores(label, p, weight, decided=p >= CUT, metrics=metrics)
    middle = time.process_time()
    theirs = plain(subject, label, p, draws, metrics)
    ended = time.process_time()
    apart = max(float(np.abs(ours[m] - theirs[m]).max()) for m in metrics)
    return {
        "case": f"{name}, {n:,} rows, {draws:,} draws",
        "ours": round(middle - began, 3),
        "theirs": round(ended - middle, 3),
        "ratio": round((ended - middle) / (middle - began), 1),
        "target": target,
        "largest difference": apart,
    }


def plain(
    subject: np.ndarray, label: np.ndarray, p: np.ndarray, draws: int, metrics: tuple[str, ...]
) -> dict[str, np.ndarray]:
    """Metric -> its value in each draw."""
    patients = sorted(set(subject.tolist()))
    found: dict[str, list[float]] = {metric: [] for metric in metrics}
    for i in range(draws):
        drawn = Counter(resample(patients, random_state=i))
        weight = np.array([drawn[s] for s in subject.tolist()])
        for metric, values in found.items():
            values.append(one(metric, label, p, weight))
    return {metric: np.array(values) for metric, values in found.items()}


def one(metric: str, label: np.ndarray, p: np.ndarray, weight: np.ndarray) -> float:
    """A metric by scikit-learn."""
    if metric == "calibration_slope":
        model = LogisticRegression(C=np.inf, solver="newton-cholesky", tol=1e-12)
        return float(model.fit(logits(p)[:, None], label, sample_weight=weight).coef_[0, 0])
    if metric == "f1":
        found, right = (
            f(label, p >= CUT, sample_weight=weight) for f in (recall_score, precision_score)
        )
        return float(2 * found * right / (found + right))
    score, said, more = {
        "auroc": (roc_auc_score, p, {}),
        "auprc": (average_precision_score, p, {}),
        "brier": (brier_score_loss, p, {}),
        "partial_auroc": (roc_auc_score, p, {"max_fpr": 0.2}),
        "log_loss": (log_loss, p, {}),
        "threshold_sensitivity": (recall_score, p >= CUT, {}),
        "ppv": (precision_score, p >= CUT, {}),
    }[metric]
    return float(score(label, said, sample_weight=weight, **more))
