"""Features extracted once more, from records that end at the prediction time, and at the next event.

n sampled rows, d features. Of subjects in tuning and held-out, on whom nothing may be fitted, so that what is fitted
on train stays as it was.
"""

from collections.abc import Callable
from contextlib import redirect_stderr
from dataclasses import dataclass, fields
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow.parquet as pq

from ehr_eval.audit.definitions import validated
from ehr_eval.audit.found import Skipped
from ehr_eval.audit.inputs import Inputs, unrolled
from ehr_eval.counts.config import CountsConfig
from ehr_eval.features.config import FeaturesConfig
from ehr_eval.features.names import feature_names
from ehr_eval.features.read import FeatureSet, read_features
from ehr_eval.frames import KEY
from ehr_tracking.arrow.meds import data_files
from ehr_tracking.contracts import SPLITS, TOKENS, TRAIN
from ehr_tracking.manifest import check_file, new_artifact, seal

Floats = npt.NDArray[np.float64]
_OURS = "ehr-eval "


@dataclass(frozen=True, slots=True, eq=False)
class Again:
    """The features of some rows, as they are and as they should be."""

    subjects: tuple[int, ...]
    """[n]"""
    stored: Floats
    """[n, d]"""
    cut: Floats
    """[n, d] of the record up to the prediction time, and nothing else."""
    later: Floats
    """[n, d] of the record up to the next event; NaN where there is none."""
    columns: str | None = None
    """What is other about the columns, if anything."""

    def same(self, other: Floats) -> npt.NDArray[np.bool_]:
        """[n] whether rows are as stored, but for rounding."""
        distance = np.linalg.norm(self.stored - other, axis=1)
        close: npt.NDArray[np.bool_] = distance <= 5e-3 * np.linalg.norm(other, axis=1) + 1e-6
        return close


def extracted_again(inputs: Inputs, name: str) -> Again:
    """The features of a sample of rows, from cut records.

    Args:
        inputs: With what the features were made from.
        name: Of the features.

    Raises:
        Skipped: If they cannot be made again from what was given.
    """
    found = inputs.features[name]
    if not found.manifest.producer.startswith(_OURS):
        raise Skipped(f"{name}: made by {found.manifest.producer}, which cannot be asked again")
    roles = found.manifest.inputs
    if "checkpoint" in roles:
        inputs.require("tokens", "checkpoint")
        for role in ("tokens", "checkpoint"):
            if roles[role].fingerprint != inputs.sources[role].fingerprint:
                raise Skipped(f"{name}: made from another {role} than the one given")
        return _again(inputs, found, _times_of_tokens, _model)
    if "meds" in roles:
        inputs.require("meds", "labels")
        return _again(inputs, found, _times_of_events, _counts)
    raise Skipped(f"{name}: neither counts nor read from a model by one command")


Sampled = pl.DataFrame
"""subject_id, prediction_time, later (of the next event, or null), row."""


def _again(
    inputs: Inputs,
    found: FeatureSet,
    times: Callable[[Inputs, pl.DataFrame], pl.DataFrame],
    make: Callable[[Inputs, FeatureSet, pl.DataFrame, Path], FeatureSet],
) -> Again:
    rows = _sample(inputs, found, times)
    first = _free_ids(
        pl.concat([found.index["subject_id"], inputs.splits["subject_id"]]), 2 * rows.height
    )
    cut = rows.select(
        "subject_id", "row", at="prediction_time", made=pl.lit(first) + pl.int_range(pl.len())
    )
    later = rows.drop_nulls("later").select(
        "subject_id", "row", at="later", made=pl.lit(first + rows.height) + pl.int_range(pl.len())
    )
    # what the commands say of labels that are made up would only puzzle
    with TemporaryDirectory() as scratch, redirect_stderr(StringIO()):
        made = make(inputs, found, pl.concat([cut, later]), Path(scratch))
        ours, theirs, columns = _common(found, made)
        at = dict(made.index.select("subject_id", "row").iter_rows())

        def taken(part: pl.DataFrame) -> Floats:
            return _dense(made.mapped.take(np.array([at[i] for i in part["made"]], np.int64)))[
                :, theirs
            ]

        stored = _dense(found.mapped.take(rows["row"].to_numpy()))[:, ours]
        of_later = np.full(stored.shape, np.nan)
        of_later[rows["later"].is_not_null().to_numpy()] = taken(later)
        return Again(tuple(rows["subject_id"]), stored, taken(cut), of_later, columns)


def _sample(
    inputs: Inputs, found: FeatureSet, times: Callable[[Inputs, pl.DataFrame], pl.DataFrame]
) -> Sampled:
    """One row a subject beyond train, those with a next event first."""
    known = found.index.join(inputs.splits.rename({"split": "told"}), on="subject_id")
    rows = known.filter((pl.col("split") != TRAIN) & (pl.col("told") != TRAIN))
    if not rows.height:
        raise Skipped("no row of the features is of a subject in tuning or held_out")
    moments = times(inputs, rows).sort("time")
    rows = (
        rows.select(*KEY, "row")
        .sort("prediction_time")
        .join_asof(
            moments.with_columns(later=pl.col("time")),
            left_on="prediction_time",
            right_on="time",
            by="subject_id",
            strategy="forward",
            allow_exact_matches=False,
            check_sortedness=False,
        )
    )
    drawn = pl.struct(KEY).hash(seed=inputs.config.seed)
    order = [pl.col("later").is_null(), drawn]
    one = rows.sort(order).unique("subject_id", keep="first", maintain_order=True)
    return one.head(inputs.config.rows)


def _free_ids(taken: pl.Series, n: int) -> int:
    """The first of n ids that no subject has."""
    top = int(taken.max() or 0)  # type: ignore[arg-type]
    return top + 1 if top < np.iinfo(np.int64).max - n else int(taken.min() or 0) - n  # type: ignore[arg-type]


def _times_of_events(inputs: Inputs, rows: pl.DataFrame) -> pl.DataFrame:
    """Distinct subject_id, time at which something becomes known."""
    who = rows["subject_id"].unique().implode()
    parts = [
        e.filter(pl.col("subject_id").is_in(who) & pl.col("time").is_not_null()).select(
            "subject_id", "time"
        )
        for e in inputs.events(inputs.delays)
    ]
    return pl.concat(parts).unique()


def _times_of_tokens(inputs: Inputs, rows: pl.DataFrame) -> pl.DataFrame:
    who = rows["subject_id"].unique().implode()
    parts = [
        unrolled(f.filter(pl.col("subject_id").is_in(who)).select("subject_id", "time"), "time")
        for _, f in inputs.token_shards()
    ]
    return pl.concat(parts).drop_nulls().unique()


def _counts(inputs: Inputs, found: FeatureSet, made: pl.DataFrame, scratch: Path) -> FeatureSet:
    """By the counts' own command, on train as it is and the records that are made up."""
    from ehr_eval.counts.write import count_features

    config = validated(CountsConfig, found.manifest.config)
    if config is None or {f.name for f in fields(CountsConfig)} - found.manifest.config.keys():
        raise Skipped("made by another version of the counts")
    train = inputs.splits.filter(split=TRAIN)["subject_id"].implode()
    data, metadata = scratch / "meds" / "data", scratch / "meds" / "metadata"
    data.mkdir(parents=True)
    metadata.mkdir()
    for i, path in enumerate(data_files(inputs.meds)):
        events = pl.read_parquet(path)
        kept = [events.filter(pl.col("subject_id").is_in(train)), _cut_events(events, made)]
        whole = pl.concat(kept)
        if whole.height:
            whole.write_parquet(data / f"{i}.parquet")
    codes = inputs.meds / "metadata" / "codes.parquet"
    if codes.is_file():
        (metadata / "codes.parquet").write_bytes(codes.read_bytes())
    everyone = inputs.splits.filter(split=TRAIN).select(
        pl.col("subject_id").cast(pl.Int64), "split"
    )
    ours = made.select(subject_id=pl.col("made").cast(pl.Int64), split=pl.lit(SPLITS[2]))
    pl.concat([everyone, ours]).write_parquet(metadata / "subject_splits.parquet")
    of_train = found.index.filter(split=TRAIN).select(*KEY)
    asked = made.select(subject_id=pl.col("made").cast(pl.Int64), prediction_time="at")
    labels = _labels(scratch, pl.concat([of_train, asked]))
    count_features(scratch / "meds", labels, scratch / "features", config)
    return read_features(scratch / "features")


def _cut_events(events: pl.DataFrame, made: pl.DataFrame) -> pl.DataFrame:
    """The events of each record that is made up, as they lie in the file, under its id."""
    of = made.select("subject_id", "at", "made").sort("made")
    return (
        of.join(events.with_row_index("place"), on="subject_id")
        .filter(pl.col("time").is_null() | (pl.col("time") <= pl.col("at")))
        .sort("made", "place")
        .with_columns(subject_id=pl.col("made").cast(events.schema["subject_id"]))
        .select(events.columns)
    )


def _model(inputs: Inputs, found: FeatureSet, made: pl.DataFrame, scratch: Path) -> FeatureSet:
    """By the features' own command, on tokens of the records that are made up."""
    from ehr_eval.features.extract import extract_features

    config = validated(FeaturesConfig, found.manifest.config)
    if config is None:
        raise Skipped("made by another version of the features")
    with new_artifact(scratch / "tokens", TOKENS) as partial:
        for name in inputs.token_manifest.files:
            if "/" not in name:
                path = check_file(inputs.tokens, inputs.token_manifest, name)
                (partial / name).write_bytes(path.read_bytes())
        _write_cut_tokens(inputs, made, partial / SPLITS[2])
        config_of = inputs.token_manifest.config
        seal(partial, TOKENS, producer=inputs.token_manifest.producer, config=config_of)
    asked = made.select(subject_id=pl.col("made").cast(pl.Int64), prediction_time="at")
    labels = _labels(scratch, asked)
    assert inputs.given.checkpoint is not None
    extract_features(
        inputs.given.checkpoint, scratch / "tokens", labels, scratch / "features", config
    )
    return read_features(scratch / "features")


def _write_cut_tokens(inputs: Inputs, made: pl.DataFrame, directory: Path) -> None:
    directory.mkdir()
    names = sorted(n for n in inputs.token_manifest.files if "/" in n and n.endswith(".parquet"))
    parts, schema = [], None
    for name in names:
        table = pq.read_table(check_file(inputs.tokens, inputs.token_manifest, name))
        schema = schema or table.schema
        frame = pl.DataFrame(pl.from_arrow(table))
        lists = [n for n, kind in frame.schema.items() if isinstance(kind, pl.List)]
        mine = made.select("subject_id", "at", "made").join(frame, on="subject_id")
        seen = unrolled(mine.select("made", "at", "time"), "time")
        count = (
            seen.filter(pl.col("time").is_null() | (pl.col("time") <= pl.col("at")))
            .group_by("made")
            .agg(seen=pl.len())
        )
        cut = mine.join(count, on="made", how="left").with_columns(pl.col("seen").fill_null(0))
        parts.append(
            cut.with_columns(
                *(pl.col(n).list.head(pl.col("seen")) for n in lists),
                subject_id=pl.col("made").cast(frame.schema["subject_id"]),
            ).select(frame.columns)
        )
    assert schema is not None
    whole = pl.concat(parts).sort("subject_id")
    pq.write_table(whole.to_arrow().cast(schema), directory / "0.parquet")


def _labels(scratch: Path, keys: pl.DataFrame) -> Path:
    """Labels of some rows; what they say does not matter to features."""
    (scratch / "labels" / "audit").mkdir(parents=True)
    keys.unique().with_columns(boolean_value=pl.lit(value=False)).write_parquet(
        scratch / "labels" / "audit" / "0.parquet"
    )
    return scratch / "labels"


def _common(found: FeatureSet, made: FeatureSet) -> tuple[list[int], list[int], str | None]:
    """The columns that both have, by name, and what is other about them."""
    ours, theirs = feature_names(found), feature_names(made)
    if ours == theirs:
        return list(range(len(ours))), list(range(len(theirs))), None
    place = {name: i for i, name in enumerate(theirs)}
    both = [(i, place[name]) for i, name in enumerate(ours) if name in place]
    more, less = len(ours) - len(both), len(theirs) - len(both)
    told = (
        f"{more:,} columns are not chosen by train rows alone, {less:,} that would be are missing"
    )
    return [i for i, _ in both], [j for _, j in both], told


def _dense(x: Any) -> Floats:  # noqa: ANN401 -- dense or CSR
    return np.asarray(x.toarray() if hasattr(x, "toarray") else x, np.float64)
