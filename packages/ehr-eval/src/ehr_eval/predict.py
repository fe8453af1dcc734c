"""What a fine-tuned model says of labelled rows: probabilities, or risks of an event by some day.

n rows, K intervals of a survival head.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from scipy.special import expit

from ehr_eval.features.config import FeaturesConfig
from ehr_eval.features.extract import Reader, read_rows, subjects_of
from ehr_eval.frames import KEY, PRODUCER, labelled_rows
from ehr_eval.judge.metrics.f1 import best_threshold
from ehr_eval.judge.metrics.ranked import Floats
from ehr_models.checkpoint import load_checkpoint, require_same_vocabulary
from ehr_models.data.store import open_split
from ehr_models.data.tokens import open_tokens
from ehr_models.heads.losses import problem_of
from ehr_tracking.arrow import labels as label_reader
from ehr_tracking.arrow.label_files import label_source
from ehr_tracking.config import to_dict
from ehr_tracking.contracts import (
    HELD_OUT,
    PREDICTIONS,
    RISKS,
    TUNING,
    ContractError,
)
from ehr_tracking.errors import UserError
from ehr_tracking.files import PathLike
from ehr_tracking.manifest import new_artifact, refuse_existing, seal, source


class PredictSummary(NamedTuple):
    """What was written."""

    path: Path
    task: str
    problem: str
    rows: int
    threshold: float | None
    """What is called positive is at least as probable: of highest F1 on the tuning rows."""


def predict(
    checkpoint: PathLike,
    tokens: PathLike,
    labels: PathLike,
    out: PathLike,
    config: FeaturesConfig | None = None,
    *,
    device: str = "cpu",
    overwrite: bool = False,
) -> PredictSummary:
    """Write what a model with a pooled head of its own says of the held-out rows of a task.

    Of a binary head `predictions/1`: probabilities, and what rows are called at the threshold of
    highest F1 on the tuning rows. Of a survival head `risks/1`: 1 - S at the end of each interval.
    Each row is read by itself, and sees what was known at its prediction time.

    Args:
        checkpoint: A run, a checkpoint or an adapter, of a model with such a head.
        tokens: `tokens/1` with its vocabulary.
        labels: Of one task.
        out: Where the artifact shall be.
        config: Context, batches, precision; pooling is the head's own.
        device: As torch names it.
        overwrite: Replace an artifact that is there.

    Raises:
        ContractError: If an input is not what it should be, the vocabularies differ, no label is in
            held_out, or a row sees no token.
        UserError: If `out` exists, or the head has other outputs than these.
    """
    checkpoint, tokens, labels, out = Path(checkpoint), Path(tokens), Path(labels), Path(out)
    config = config or FeaturesConfig()
    read = [checkpoint, tokens, labels]
    loaded = load_checkpoint(checkpoint)
    problem = problem_of(loaded.model.config) if loaded.head != "token" else None
    if problem not in ("binary", "survival"):
        have = f"a head of outputs {problem}" if problem else f"a {loaded.head} head"
        raise UserError(
            f"{loaded.directory} has {have}; what is judged here is a binary or a survival head: "
            "fine-tune one (objective.kind=classification or survival), or read features"
        )
    contract = RISKS if problem == "survival" else PREDICTIONS
    refuse_existing(out, contract, overwrite=overwrite, inputs=read)
    token_set = open_tokens(tokens)
    require_same_vocabulary(loaded, token_set)
    reader = Reader(loaded, config, device=device)
    task, table = label_reader.read_task(labels, reader=PRODUCER)
    told = pl.DataFrame(pl.from_arrow(label_reader.binary(table, task=task)))
    splits = {split: open_split(token_set, split) for split in token_set.splits}
    rows = labelled_rows(labels, subjects_of(splits), where=tokens)
    rows = rows.filter(pl.col("split").is_in([TUNING, HELD_OUT]))
    if not (rows["split"] == HELD_OUT).any():
        raise ContractError(f"{labels}: no label is of a subject that {tokens} has in {HELD_OUT}")
    logits, visible = read_rows(
        splits, rows, reader.answer, int(loaded.model.config.num_labels or 1)
    )
    _refuse_blind(rows, visible, tokens)
    rows = rows.join(told, on=KEY, how="left", maintain_order="left")
    threshold = None
    if problem == "survival":
        edges = np.asarray(loaded.model.config.survival_edges, np.float64)
        found = _risks(rows, logits, edges)
    else:
        found, threshold = _probabilities(rows, expit(logits[:, 0].astype(np.float64)))
    with new_artifact(out, contract, overwrite=overwrite, inputs=read) as partial:
        name = f"{task}/{HELD_OUT}.parquet"
        (partial / name).parent.mkdir(parents=True)
        pq.write_table(found, partial / name)
        seal(
            partial,
            contract,
            producer=PRODUCER,
            config={**to_dict(config), "context": reader.context, "threshold": threshold},
            seed=None,
            inputs={
                "checkpoint": loaded.source,
                "tokens": source(tokens),
                "labels": label_source(labels),
            },
            rows={name: len(found)},
        )
    return PredictSummary(out, task, problem, int((rows["split"] == HELD_OUT).sum()), threshold)


def _refuse_blind(rows: pl.DataFrame, visible: npt.NDArray[np.int64], tokens: Path) -> None:
    blind = rows.filter(pl.Series(visible == 0))
    if blind.height:
        subject, time = blind.select(KEY).row(0)
        raise ContractError(
            f"{tokens}: {blind.height:,} labelled rows see no token, the first of subject {subject} at "
            f"{time}; leave them out, or tokenise with [BOS] or static codes"
        )


def _probabilities(rows: pl.DataFrame, probability: Floats) -> tuple[pa.Table, float | None]:
    """In the columns of meds-evaluation, and the threshold."""
    label = rows["boolean_value"].to_numpy().astype(bool)
    tuning = (rows["split"] == TUNING).to_numpy()
    held_out = (rows["split"] == HELD_OUT).to_numpy()
    threshold = None
    if label[tuning].any():
        threshold = best_threshold(label[tuning], probability[tuning])
    n = int(held_out.sum())
    called = pa.nulls(n, pa.bool_())
    if threshold is not None:
        called = pa.array(probability[held_out] >= threshold)
    table = rows.filter(pl.Series(held_out)).select(*KEY, "boolean_value").to_arrow()
    table = table.append_column("predicted_boolean_value", called)
    table = table.append_column(
        "predicted_boolean_probability", pa.array(probability[held_out].astype(np.float32))
    )
    return table, threshold


def _risks(rows: pl.DataFrame, logits: npt.NDArray[np.float32], edges: Floats) -> pa.Table:
    """One row a label and end of an interval."""
    chosen = (rows["split"] == HELD_OUT).to_numpy()
    risk = risk_of_hazards(logits[chosen].astype(np.float64))
    n, ends = risk.shape
    at = rows.filter(pl.Series(chosen))
    return pa.table(
        {
            "subject_id": np.repeat(at["subject_id"].to_numpy(), ends),
            "prediction_time": pa.array(
                np.repeat(at["prediction_time"].dt.epoch("us").to_numpy(), ends),
                pa.timestamp("us"),
            ),
            "horizon_days": np.tile(edges[1:], n),
            "predicted_risk": risk.reshape(-1),
        }
    )


def risk_of_hazards(logits: Floats) -> Floats:
    """[n, K] 1 - S at the end of each interval, S the product of 1 - hazard over all until then.

    Over all intervals up to a day that is the same for everyone, never over those that a subject was
    followed for: sums over unequal lengths call those who live longest the most endangered.

    Args:
        logits: [n, K] of the hazards.

    Examples:
        >>> risk_of_hazards(np.array([[0.0, 0.0]])).tolist()
        [[0.5, 0.75]]
    """
    return np.asarray(-np.expm1(-np.cumsum(np.logaddexp(0, logits), axis=1)))
