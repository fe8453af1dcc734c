"""SHAP of heads on features: `shap/1`.

Lundberg and Lee, "A Unified Approach to Interpreting Model Predictions" (2017); of trees exactly, over their own paths
(Lundberg et al., 2020). What features add to the log-odds of a row adds up to them.

n held-out rows, d features.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from scipy import sparse
from scipy.stats import rankdata

from ehr_eval.explain.config import ShapConfig
from ehr_eval.explain.shap_page import Spots, Told, write_shap_page
from ehr_eval.features.mapped import Matrix
from ehr_eval.features.names import feature_names
from ehr_eval.features.read import FeatureSet, align, read_features
from ehr_eval.frames import KEY, PRODUCER
from ehr_eval.heads.grid import Fit, HeadConfig
from ehr_eval.heads.search import fit_at
from ehr_eval.heads.select import fit_predict
from ehr_eval.tasks.label_tasks import read_labels
from ehr_tracking.arrow.label_files import label_source
from ehr_tracking.config import to_dict
from ehr_tracking.contracts import HELD_OUT, SHAP, TRAIN, TUNING, ContractError
from ehr_tracking.errors import UserError
from ehr_tracking.files import PathLike
from ehr_tracking.manifest import new_artifact, refuse_existing, seal, source

Floats = npt.NDArray[np.float64]
_VALUES = 20_000_000
"""SHAP values that are held at a time."""


def explain_shap(
    labels: PathLike,
    name: str,
    features: PathLike,
    out: PathLike,
    config: ShapConfig | None = None,
    *,
    subjects: Sequence[int] = (),
    overwrite: bool = False,
) -> list[dict[str, object]]:
    """Fit heads on all training rows as `ehrshot` does, and say what they go by on the held-out ones.

    Args:
        labels: Of one task.
        name: Of the features.
        features: `features/1`.
        out: The artifact.
        config: Heads, and what is shown.
        subjects: Whose held-out rows are shown one by one.
        overwrite: Replace an artifact that is there.

    Returns:
        The strongest features of each head, for a terminal.

    Raises:
        ContractError: If an input is not what it should be, there are several tasks, or a class is missing.
        UserError: If a head cannot be told exactly, or a subject has no held-out row.
    """
    labels, features, out = Path(labels), Path(features), Path(out)
    config = config or ShapConfig()
    read = [labels, features]
    refuse_existing(out, SHAP, overwrite=overwrite, inputs=read)
    tables = read_labels(labels, config.labels)
    if len(tables) != 1:
        raise ContractError(
            f"{labels} holds {len(tables)} tasks with a yes or no ({', '.join(tables)}); give the directory of one"
        )
    ((task, table),) = tables.items()
    found = read_features(features)
    rows = align(found, table, task=task)
    absent = sorted(set(subjects) - set(rows.filter(split=HELD_OUT)["subject_id"]))
    if absent:
        raise UserError(f"subject {absent[0]} has no held-out row of task {task}")
    told = [
        _told(head, of, found, rows, task, subjects, config) for head, of in config.heads.items()
    ]
    with new_artifact(out, SHAP, overwrite=overwrite, inputs=read) as partial:
        importance = pl.concat(t.importance.select(pl.lit(t.head).alias("head"), "*") for t in told)
        single = pl.concat(t.subjects.select(pl.lit(t.head).alias("head"), "*") for t in told)
        pq.write_table(_typed(importance, "rows"), partial / "importance.parquet")
        pq.write_table(_typed(single, "subject_id"), partial / "subjects.parquet")
        write_shap_page(partial / "report.html", task, name, told, config)
        seal(
            partial,
            SHAP,
            producer=PRODUCER,
            config={
                **to_dict(config),
                "task": task,
                "selected": {t.head: t.selected for t in told},
            },
            seed=0,
            inputs={"labels": label_source(labels), "features": source(features)},
            rows={"importance.parquet": importance.height, "subjects.parquet": single.height},
        )
    return [
        {"head": t.head, **row}
        for t in told
        for row in t.importance.head(5).select("feature", "mean_absolute", "direction").to_dicts()
    ]


def _typed(frame: pl.DataFrame, whole: str) -> pa.Table:
    return (
        frame.with_columns(pl.col(whole).cast(pl.Int64))
        .to_arrow()
        .cast(
            pa.schema(
                [
                    (n, pa.string() if kind == pl.String else _ARROW.get(n, pa.float64()))
                    for n, kind in frame.schema.items()
                ]
            )
        )
    )


_ARROW = {"rows": pa.int64(), "subject_id": pa.int64(), "prediction_time": pa.timestamp("us")}


def _told(
    head: str,
    of: HeadConfig,
    found: FeatureSet,
    rows: pl.DataFrame,
    task: str,
    subjects: Sequence[int],
    config: ShapConfig,
) -> Told:
    train, tuning = (_part(found, rows.filter(split=s), s, task) for s in (TRAIN, TUNING))
    held_out = rows.filter(split=HELD_OUT)
    if not held_out.height:
        raise ContractError(f"task {task} has no row in {HELD_OUT}")
    chosen = fit_predict(of, train, tuning, tuning[0])
    fit = fit_at(of, chosen.selected, *train)
    if fit.shap is None:
        raise UserError(f"head {head} ({of.kind}) cannot be told exactly; use lr or gbm")
    x = found.mapped.take(held_out["row"].to_numpy())
    names = feature_names(found)
    importance, order = _importance(fit, x, names, config.least)
    shown = order[: config.shown]
    values = _columns(fit, x, shown)
    who = held_out["subject_id"].to_numpy()
    dense = _dense(x[:, shown])
    spots = [
        Spots.of(names[j], values[:, i], dense[:, i], who, config.least)
        for i, j in enumerate(shown)
    ]
    asked = held_out.with_row_index("at").filter(pl.col("subject_id").is_in(list(subjects)))
    return Told(
        head, chosen.selected, importance, spots, _single(fit, x, names, asked, config.shown)
    )


def _part(
    found: FeatureSet, rows: pl.DataFrame, split: str, task: str
) -> tuple[Matrix, npt.NDArray[np.bool_]]:
    y = rows["boolean_value"].to_numpy().astype(bool)
    if y.all() or not y.any():
        raise ContractError(f"task {task} has one class only in {split}: no head can be fitted")
    return found.mapped.take(rows["row"].to_numpy()), y


def _blocks(x: Matrix) -> list[slice]:
    """Rows that are told together."""
    size = max(1, _VALUES // (x.shape[1] + 1))
    return [slice(i, min(i + size, x.shape[0])) for i in range(0, x.shape[0], size)]


def _importance(
    fit: Fit, x: Matrix, names: Sequence[str], least: int
) -> tuple[pl.DataFrame, list[int]]:
    """What each feature adds, and features by it; those that add nothing are left out."""
    assert fit.shap is not None
    size, total = np.zeros(x.shape[1]), np.zeros(x.shape[1])
    for rows in _blocks(x):
        told = fit.shap(x[rows])[:, :-1]
        size += np.abs(told).sum(axis=0)
        total += told.sum(axis=0)
    order = [j for j in np.argsort(-size, kind="stable").tolist() if size[j] > 0]
    filled = np.asarray((x[:, order] != 0).sum(axis=0)).reshape(-1)
    added, n = _columns(fit, x, order), x.shape[0]
    direction = [
        _rank_correlation(_dense(x[:, [j]])[:, 0], added[:, i]) for i, j in enumerate(order)
    ]
    frame = pl.DataFrame(
        {
            "feature": pl.Series([names[j] for j in order], dtype=pl.String),
            "mean_absolute": size[order] / n,
            "mean": total[order] / n,
            "direction": pl.Series(direction, dtype=pl.Float64),
            "rows": [n if n >= least else None for n in filled.tolist()],
        }
    )
    return frame, order


def _columns(fit: Fit, x: Matrix, columns: Sequence[int]) -> Floats:
    """[n, m] what some features add."""
    assert fit.shap is not None
    parts = [fit.shap(x[rows])[:, list(columns)] for rows in _blocks(x)]
    return np.concatenate(parts)


def _rank_correlation(a: Floats, b: Floats) -> float | None:
    """Spearman's; None where either is constant.

    Examples:
        >>> round(_rank_correlation(np.array([1.0, 2.0, 9.0]), np.array([3.0, 2.0, 1.0])) or 0, 6)
        -1.0
    """
    ranks = [rankdata(v) - (len(v) + 1) / 2 for v in (a, b)]
    norms = [float(np.sqrt((r**2).sum())) for r in ranks]
    return float((ranks[0] * ranks[1]).sum() / (norms[0] * norms[1])) if all(norms) else None


def _single(
    fit: Fit, x: Matrix, names: Sequence[str], asked: pl.DataFrame, shown: int
) -> pl.DataFrame:
    """The strongest features of each row that was asked for."""
    assert fit.shap is not None
    parts = []
    for at, subject, time in asked.select("at", *KEY).iter_rows():
        told, value = fit.shap(x[[at]])[0, :-1], _dense(x[[at]])[0]
        order = np.argsort(-np.abs(told), kind="stable")[:shown]
        order = order[told[order] != 0]
        parts.append(
            pl.DataFrame(
                {
                    "feature": pl.Series([names[j] for j in order], dtype=pl.String),
                    "subject_id": pl.repeat(subject, len(order), dtype=pl.Int64, eager=True),
                    "prediction_time": pl.repeat(
                        time, len(order), dtype=pl.Datetime("us"), eager=True
                    ),
                    "value": value[order],
                    "shap": told[order],
                }
            )
        )
    empty: dict[str, Any] = {
        "feature": pl.String,
        "subject_id": pl.Int64,
        "prediction_time": pl.Datetime("us"),
    }
    return pl.concat(
        [pl.DataFrame(schema={**empty, "value": pl.Float64, "shap": pl.Float64}), *parts]
    )


def _dense(x: Any) -> Floats:  # noqa: ANN401 -- dense or CSR
    return np.asarray(x.toarray() if sparse.issparse(x) else x, np.float64)
