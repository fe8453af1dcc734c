"""One code, value or feature that tells the outcome too well alone.

What is suspicious in train has to be so in the other splits as well, and beyond what chance gives over all codes that
are tried (Bonferroni), where the rows of a subject count as one in all.
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
from ehr_eval.judge.ranks import Floats, auroc, chance, lower_end
from ehr_tracking.contracts import TRAIN

_SURE, _SHARE, _ODDS = 0.95, 0.3, 20.0
"""A code that is there says yes for this share of rows or more, of which positives it has this share, at these odds."""
_LEAST = 5
"""Subjects of each class below which nothing is judged."""
_ROWS = 10_000
"""Rows of a task that are looked at, drawn by hash."""
_BLOCK = 256
"""Features that are ranked at a time."""
_NAMED = 3
"""Codes that a finding names."""


def one_token_tells(inputs: Inputs) -> Iterator[Finding]:
    """Codes of the record by the prediction time, their last values, and features."""
    inputs.require("labels")
    if inputs.given.meds is None and not inputs.features:
        raise Skipped("needs --meds or --features beside --labels")
    drawn = pl.struct(KEY).hash(seed=inputs.config.seed)
    some = {t: f.drop_nulls("split").sort(drawn).head(_ROWS) for t, f in inputs.labels.items()}
    rows = {t: f for t, f in some.items() if _both_classes(f.filter(split=TRAIN))}
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


def _both_classes(frame: pl.DataFrame) -> bool:
    """Whether enough subjects have rows of either class."""
    subjects = (frame.filter(pl.col(LABEL) == v)["subject_id"].n_unique() for v in (True, False))
    return min(subjects) >= _LEAST


def _share(frame: pl.DataFrame) -> float:
    """What a row counts: all rows of a subject count as one in the mean."""
    return frame["subject_id"].n_unique() / max(1, frame.height)


def _records(
    inputs: Inputs, rows: dict[str, pl.DataFrame]
) -> dict[str, tuple[pl.DataFrame, pl.DataFrame]]:
    """Task -> of its rows what is there: KEY, code; and the last values: KEY, code, value."""
    there: dict[str, list[pl.DataFrame]] = {task: [] for task in rows}
    values: dict[str, list[pl.DataFrame]] = {task: [] for task in rows}
    at = pl.col("prediction_time")
    for events in inputs.events(inputs.delays):
        for task, frame in rows.items():
            past = events.join(frame.select(KEY), on="subject_id").filter(
                pl.col("time").is_null() | (pl.col("time") <= at)
            )
            recent = past.filter(pl.col("time") > at - pl.duration(days=1))
            there[task] += [
                past.select(*KEY, "code").unique(),
                recent.select(*KEY, code=pl.col("code") + " in the last day").unique(),
            ]
            valued = past.filter(pl.col("numeric_value").is_finite())
            last = valued.group_by(*KEY, "code").agg(value=pl.col("numeric_value").last())
            values[task].append(last)
    return {task: (pl.concat(there[task]), pl.concat(values[task])) for task in rows}


def _suspicious_codes(
    there: pl.DataFrame, rows: pl.DataFrame, inputs: Inputs
) -> list[tuple[str, float]]:
    """Codes whose presence alone tells, with their AUROC in train."""
    is_train, label = pl.col("split") == TRAIN, pl.col(LABEL)
    of = there.join(rows.select(*KEY, LABEL, "split"), on=KEY)
    counts = of.group_by("code").agg(
        yes=(label & is_train).sum(),
        no=(~label & is_train).sum(),
        more_yes=(label & ~is_train).sum(),
        more_no=(~label & ~is_train).sum(),
    )
    if not counts.height:
        return []
    train, more = rows.filter(is_train), rows.filter(~is_train)
    yes, no, more_yes, more_no = (
        counts[name].cast(pl.Float64).to_numpy() for name in ("yes", "no", "more_yes", "more_no")
    )
    share = _share(train)
    area, tells = _tells(yes, no, train[LABEL], share, inputs.config.auroc)
    _, again = _tells(more_yes, more_no, more[LABEL], None, inputs.config.auroc)
    n, positives = int(share * train.height), int(share * int(train[LABEL].sum()))
    yes, no = np.floor(share * yes), np.floor(share * no)
    by_chance = 2 * np.minimum(
        hypergeom.sf(yes - 1, n, positives, yes + no), hypergeom.cdf(yes, n, positives, yes + no)
    )
    kept = tells & again & (by_chance < inputs.config.significance / len(yes))
    return _sorted([(counts["code"][int(i)], float(area[i])) for i in np.flatnonzero(kept)])


def _tells(
    yes: Floats, no: Floats, label: pl.Series, share: float | None, least: float
) -> tuple[Floats, npt.NDArray[np.bool_]]:
    """AUROC of being there, and whether it tells: by that, or by how sure a yes is where it is there.

    Args:
        yes: [C] positive rows with each code.
        no: [C] negative ones.
        label: Of all rows.
        share: What a row counts for how sure the AUROC is; None takes it as it is.
        least: AUROC.
    """
    positives = int(label.sum())
    negatives = len(label) - positives
    if not positives or not negatives:
        return np.full(len(yes), 0.5), np.zeros(len(yes), bool)
    area = 0.5 + (yes / positives - no / negatives) / 2
    odds = (yes + 0.5) * (negatives - no + 0.5) / ((positives - yes + 0.5) * (no + 0.5))
    right = (yes >= _SURE * (yes + no)) & (yes >= _SHARE * positives) & (odds >= _ODDS)
    return area, right | (_end(area, positives, negatives, share) >= least)


def _end(area: Floats, yes: int, no: int, share: float | None) -> Floats:
    """How far AUROCs surely are from chance; as far as they are where no share is given."""
    return np.maximum(area, 1 - area) if share is None else lower_end(area, share * yes, share * no)


def _suspicious_values(
    values: pl.DataFrame, rows: pl.DataFrame, inputs: Inputs
) -> list[tuple[str, float]]:
    """Codes whose last value alone tells, among those that have one."""
    of, found = values.join(rows.select(*KEY, LABEL, "split"), on=KEY), []
    groups = list(of.sort("code", *KEY).group_by("code", maintain_order=True))
    for (code,), part in groups:
        train, more = part.filter(split=TRAIN), part.filter(pl.col("split") != TRAIN)
        if _both_classes(train) and more[LABEL].n_unique() > 1:
            x, y = _column(train)
            area = _telling(x, y, _share(train), len(groups), inputs)
            if area and _again(area[0], *_column(more), inputs):
                found.append((str(code), area[0]))
    return _sorted(found)


def _column(part: pl.DataFrame) -> tuple[Floats, npt.NDArray[np.bool_]]:
    value = part["value"].to_numpy().astype(np.float64)
    return value[:, None], part[LABEL].to_numpy().astype(bool)


def _telling(
    x: Floats, y: npt.NDArray[np.bool_], share: float, tried: int, inputs: Inputs
) -> dict[int, float]:
    """Column -> AUROC of those that tell alone in train."""
    area, yes = auroc(x, y), int(y.sum())
    sure = _end(area, yes, len(y) - yes, share) >= inputs.config.auroc
    by_chance = chance(area, share * yes, share * (len(y) - yes))
    kept = np.flatnonzero(sure & (by_chance < inputs.config.significance / tried))
    return {i: float(area[i]) for i in kept.tolist()}


def _again(area: float, x: Floats, y: npt.NDArray[np.bool_], inputs: Inputs) -> bool:
    """Whether one column tells as well in the other splits, in the same direction."""
    found = float(auroc(x, y)[0])
    return (found if area > 0.5 else 1 - found) >= inputs.config.auroc


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
        block = _dense(x[:, start : start + _BLOCK])
        for i, area in _telling(block, y, _share(train), width, inputs).items():
            if _again(area, _dense(x_more[:, [start + i]]), y_more, inputs):
                kept.append((names[start + i], area))
    return _sorted(kept)


def _matrix(found: FeatureSet, rows: pl.DataFrame) -> tuple[Any, npt.NDArray[np.bool_]]:
    at = align(found, rows.select(*KEY, LABEL), task="")
    return found.mapped.take(at["row"].to_numpy()), at[LABEL].to_numpy().astype(bool)


def _dense(x: Any) -> Floats:  # noqa: ANN401 -- dense or CSR
    return np.asarray(x.toarray() if sparse.issparse(x) else x, np.float64)


def _sorted(found: list[tuple[str, float]]) -> list[tuple[str, float]]:
    return sorted(found, key=lambda pair: (-abs(pair[1] - 0.5), pair[0]))
