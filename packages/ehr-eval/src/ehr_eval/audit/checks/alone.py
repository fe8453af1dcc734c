"""One code, value or feature that tells the outcome too well alone.

Of each subject one row counts, so that rows are independent. What is suspicious in train has to be so in the other
splits as well, and beyond what chance gives over all codes that are tried (Bonferroni).
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
from scipy import sparse
from scipy.stats import hypergeom

from ehr_eval.audit.found import Finding, Skipped
from ehr_eval.audit.inputs import LABEL, Inputs
from ehr_eval.features.names import feature_names
from ehr_eval.features.read import FeatureSet, align
from ehr_eval.frames import KEY
from ehr_eval.judge.ranks import auroc, chance
from ehr_tracking.contracts import TRAIN

_SURE, _SHARE, _ODDS = 0.95, 0.3, 20.0
"""A code that is there says yes for this share of rows or more, of which positives it has this share, at these odds."""
_LEAST = 5
"""Rows of each class below which nothing is judged."""
_BLOCK = 256
"""Features that are ranked at a time."""
_NAMED = 3
"""Codes that a finding names."""


def one_token_tells(inputs: Inputs) -> Iterator[Finding]:
    """Codes of the record by the prediction time, their last values, and features."""
    inputs.require("labels")
    if inputs.given.meds is None and not inputs.features:
        raise Skipped("needs --meds or --features beside --labels")
    rows = {
        task: _one_a_subject(frame, inputs.config.seed) for task, frame in inputs.labels.items()
    }
    rows = {task: frame for task, frame in rows.items() if _both_classes(frame.filter(split=TRAIN))}
    if inputs.given.meds is not None:
        for task, (there, values) in _records(inputs, rows).items():
            yield from _told(task, "code", _suspicious_codes(there, rows[task], inputs))
            yield from _told(
                task, "code's last value", _suspicious_values(values, rows[task], inputs)
            )
    for name, found in inputs.features.items():
        for task, frame in rows.items():
            known = frame.join(found.index.select(KEY), on=KEY, how="semi")
            yield from _told(
                f"{task}, features {name}", "feature", _suspicious_features(found, known, inputs)
            )


def _told(where: str, what: str, suspicious: list[tuple[str, float]]) -> Iterator[Finding]:
    if suspicious:
        named = ", ".join(f"{code} ({area:.3f})" for code, area in suspicious[:_NAMED])
        more = f" and {len(suspicious) - _NAMED:,} more" if len(suspicious) > _NAMED else ""
        yield Finding(
            where,
            f"one {what} tells the outcome alone, in train and beyond: {named}{more} (AUROC)",
            len(suspicious),
        )


def _one_a_subject(frame: pl.DataFrame, seed: int) -> pl.DataFrame:
    """A positive row where there is one: they are few."""
    order = [~pl.col(LABEL), pl.struct(KEY).hash(seed=seed)]
    known = frame.drop_nulls("split").sort(order)
    return known.unique("subject_id", keep="first", maintain_order=True)


def _both_classes(frame: pl.DataFrame) -> bool:
    yes = int(frame[LABEL].sum())
    return min(yes, frame.height - yes) >= _LEAST


def _records(
    inputs: Inputs, rows: dict[str, pl.DataFrame]
) -> dict[str, tuple[pl.DataFrame, pl.DataFrame]]:
    """Task -> subject_id, code of what is there by its row; and subject_id, code, value: the last one."""
    there: dict[str, list[pl.DataFrame]] = {task: [] for task in rows}
    values: dict[str, list[pl.DataFrame]] = {task: [] for task in rows}
    for events in inputs.events(inputs.delays):
        for task, frame in rows.items():
            past = events.join(frame.select(KEY), on="subject_id").filter(
                pl.col("time").is_null() | (pl.col("time") <= pl.col("prediction_time"))
            )
            recent = past.filter(pl.col("time") > pl.col("prediction_time") - pl.duration(days=1))
            there[task] += [
                past.select("subject_id", "code").unique(),
                recent.select("subject_id", code=pl.col("code") + " in the last day").unique(),
            ]
            valued = past.filter(pl.col("numeric_value").is_finite())
            values[task].append(
                valued.group_by("subject_id", "code").agg(value=pl.col("numeric_value").last())
            )
    return {task: (pl.concat(there[task]), pl.concat(values[task])) for task in rows}


def _suspicious_codes(
    there: pl.DataFrame, rows: pl.DataFrame, inputs: Inputs
) -> list[tuple[str, float]]:
    """Codes whose presence alone tells, with their AUROC in train."""
    is_train = pl.col("split") == TRAIN
    of = there.join(rows.select("subject_id", LABEL, "split"), on="subject_id")
    counts = of.group_by("code").agg(
        yes=(pl.col(LABEL) & is_train).sum(),
        no=(~pl.col(LABEL) & is_train).sum(),
        more_yes=(pl.col(LABEL) & ~is_train).sum(),
        more_no=(~pl.col(LABEL) & ~is_train).sum(),
    )
    if not counts.height:
        return []
    total = {
        (split, label): rows.filter((is_train == split) & (pl.col(LABEL) == label)).height
        for split in (True, False)
        for label in (True, False)
    }
    yes, no, more_yes, more_no = (
        counts[name].cast(pl.Float64).to_numpy() for name in ("yes", "no", "more_yes", "more_no")
    )
    area, bad = _tells(yes, no, total[True, True], total[True, False], inputs.config.auroc)
    _, again = _tells(
        more_yes, more_no, total[False, True], total[False, False], inputs.config.auroc
    )
    n, positives = total[True, True] + total[True, False], total[True, True]
    p = 2 * np.minimum(
        hypergeom.sf(yes - 1, n, positives, yes + no), hypergeom.cdf(yes, n, positives, yes + no)
    )
    kept = bad & again & (p < inputs.config.significance / len(p))
    return _sorted([(counts["code"][int(i)], float(area[i])) for i in np.flatnonzero(kept)])


def _tells(
    yes: npt.NDArray[np.float64],
    no: npt.NDArray[np.float64],
    positives: int,
    negatives: int,
    least: float,
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """AUROC of being there, and whether that is suspicious: by AUROC, or by how sure a yes is where it is there."""
    if not positives or not negatives:
        return np.full(len(yes), 0.5), np.zeros(len(yes), bool)
    area = 0.5 + (yes / positives - no / negatives) / 2
    odds = (yes + 0.5) * (negatives - no + 0.5) / ((positives - yes + 0.5) * (no + 0.5))
    sure = (yes >= _SURE * (yes + no)) & (yes >= _SHARE * positives) & (odds >= _ODDS)
    return area, (area >= least) | (area <= 1 - least) | sure


def _suspicious_values(
    values: pl.DataFrame, rows: pl.DataFrame, inputs: Inputs
) -> list[tuple[str, float]]:
    """Codes whose last value alone tells, among those that have one."""
    of = values.join(rows.select("subject_id", LABEL, "split"), on="subject_id")
    found = []
    groups = list(of.group_by("code", maintain_order=True))
    for (code,), part in groups:
        train, more = part.filter(split=TRAIN), part.filter(pl.col("split") != TRAIN)
        if not (_both_classes(train) and more[LABEL].n_unique() > 1):
            continue
        area, p = _of(train)
        again, _ = _of(more)
        strong = max(area, 1 - area) >= inputs.config.auroc
        same = (again if area > 0.5 else 1 - again) >= inputs.config.auroc
        if strong and same and p < inputs.config.significance / len(groups):
            found.append((str(code), area))
    return _sorted(found)


def _of(part: pl.DataFrame) -> tuple[float, float]:
    label = part[LABEL].to_numpy().astype(bool)
    area = auroc(part["value"].to_numpy()[:, None], label)
    yes = int(label.sum())
    return float(area[0]), float(chance(area, yes, len(label) - yes)[0])


def _suspicious_features(
    found: FeatureSet, rows: pl.DataFrame, inputs: Inputs
) -> list[tuple[str, float]]:
    """Features that alone tell, with their AUROC in train."""
    train, more = rows.filter(split=TRAIN), rows.filter(pl.col("split") != TRAIN)
    if not (_both_classes(train) and more[LABEL].n_unique() > 1):
        return []
    (x, y), (x_more, y_more) = (_matrix(found, part) for part in (train, more))
    names, width = feature_names(found), x.shape[1]
    kept: list[tuple[str, float]] = []
    for start in range(0, width, _BLOCK):
        block = slice(start, min(start + _BLOCK, width))
        area = auroc(_dense(x[:, block]), y)
        p = chance(area, int(y.sum()), int((~y).sum()))
        bad = (np.maximum(area, 1 - area) >= inputs.config.auroc) & (
            p < inputs.config.significance / width
        )
        for i in np.flatnonzero(bad).tolist():
            again = auroc(_dense(x_more[:, [start + i]]), y_more)[0]
            if (again if area[i] > 0.5 else 1 - again) >= inputs.config.auroc:
                kept.append((names[start + i], float(area[i])))
    return _sorted(kept)


def _matrix(found: FeatureSet, rows: pl.DataFrame) -> tuple[Any, npt.NDArray[np.bool_]]:
    at = align(found, rows.select(*KEY, LABEL), task="")
    return found.mapped.take(at["row"].to_numpy()), at[LABEL].to_numpy().astype(bool)


def _dense(x: Any) -> npt.NDArray[np.float64]:  # noqa: ANN401 -- dense or CSR
    return np.asarray(x.toarray() if sparse.issparse(x) else x, np.float64)


def _sorted(found: list[tuple[str, float]]) -> list[tuple[str, float]]:
    return sorted(found, key=lambda pair: (-abs(pair[1] - 0.5), pair[0]))
