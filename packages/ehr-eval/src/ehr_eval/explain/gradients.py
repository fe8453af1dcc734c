"""Integrated gradients of one subject's record: `attributions/1`, with a timeline to look at. T tokens."""

from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from ehr_eval.explain.asked import linear_head, next_code, output_of_head
from ehr_eval.explain.config import GradientsConfig
from ehr_eval.explain.integrate import Attributed, Target, integrated_gradients
from ehr_eval.explain.timeline import write_timeline
from ehr_eval.features.reader import context_of
from ehr_eval.frames import PRODUCER
from ehr_models.checkpoint import LoadedCheckpoint, load_checkpoint, require_same_vocabulary
from ehr_models.data.batch import pack
from ehr_models.data.cutoff import visible_tokens
from ehr_models.data.store import open_split
from ehr_models.data.tokens import STATIC, Tokens, open_tokens
from ehr_models.data.windows import newest
from ehr_models.vocabulary import Word, read_vocabulary
from ehr_tracking.arrow.label_files import label_source
from ehr_tracking.config import to_dict
from ehr_tracking.contracts import ATTRIBUTIONS
from ehr_tracking.errors import UserError
from ehr_tracking.files import PathLike
from ehr_tracking.manifest import new_artifact, refuse_existing, seal, source

_CONTINUES = frozenset({"bin", "part"})
"""Kinds of tokens that say more of the event of the token before."""


class Explained(NamedTuple):
    """What was written."""

    what: str
    found: Attributed
    table: pl.DataFrame


def explain_gradients(  # noqa: PLR0913 -- who, when and what is explained, each by name
    checkpoint: PathLike,
    tokens: PathLike,
    out: PathLike,
    subject: int,
    config: GradientsConfig | None = None,
    *,
    at: datetime | None = None,
    code: str | None = None,
    features: PathLike | None = None,
    labels: PathLike | None = None,
    overwrite: bool = False,
) -> Explained:
    """Attribute what a model says of one subject to the events of its record.

    Explained is the output of the model's own head; with `code` the log-probability that it comes next; with `features`
    and `labels` the log-odds of a logistic regression on the model's features.

    Args:
        checkpoint: A run or checkpoint.
        tokens: Of its vocabulary.
        out: The artifact.
        subject: Who; in any split.
        config: Baseline, points, context.
        at: The prediction time, inclusive; None for the end of the record.
        code: A MEDS code.
        features: `features/1` of this checkpoint.
        labels: Of one task.
        overwrite: Replace an artifact that is there.

    Raises:
        ContractError: If an input is not what it should be.
        UserError: If the subject is not there, nothing is known at the time, or there is nothing to explain.
    """
    checkpoint, tokens, out = Path(checkpoint), Path(tokens), Path(out)
    config = config or GradientsConfig()
    more = [Path(p) for p in (features, labels) if p is not None]
    read = [checkpoint, tokens, *more]
    refuse_existing(out, ATTRIBUTIONS, overwrite=overwrite, inputs=read)
    if (features is None) != (labels is None):
        raise UserError("a linear head needs both --features and --labels")
    if code is not None and features is not None:
        raise UserError("give --code, or --features and --labels: one thing is explained at a time")
    loaded, token_set = load_checkpoint(checkpoint), open_tokens(tokens)
    require_same_vocabulary(loaded, token_set)
    words = read_vocabulary(tokens)
    target, what = _target(loaded, words, config, code, features, labels)
    split, row = _find(subject, {s: open_split(token_set, s) for s in token_set.splits}, tokens)
    visible = _visible(split, row, at, subject)
    window = newest(split, [row], [visible], context_of(loaded, config.context))
    found = integrated_gradients(loaded.model, split, window, target, config)
    index = pack(split, window).index.numpy()
    last = int(split.time[split.offsets[row] + visible - 1])
    moment = at or datetime.fromisoformat(str(np.datetime64(max(last, 0), "us")))
    table = _table(split, index, words, found.value, subject, moment)
    inputs = {"checkpoint": loaded.source, "tokens": source(tokens)}
    if features is not None and labels is not None:
        inputs |= {"features": source(features), "labels": label_source(Path(labels))}
    told = {
        "explained": what,
        "output": found.output,
        "of_baseline": found.baseline,
        "points": found.steps,
    }
    with new_artifact(out, ATTRIBUTIONS, overwrite=overwrite, inputs=read) as partial:
        pq.write_table(table.to_arrow().cast(_SCHEMA), partial / "attributions.parquet")
        write_timeline(partial / "report.html", table, found, what)
        seal(
            partial,
            ATTRIBUTIONS,
            producer=PRODUCER,
            config={**to_dict(config), **told},
            inputs=inputs,
            rows={"attributions.parquet": table.height},
        )
    return Explained(what, found, table)


def _target(
    loaded: LoadedCheckpoint,
    words: list[Word],
    config: GradientsConfig,
    code: str | None,
    features: PathLike | None,
    labels: PathLike | None,
) -> tuple[Target, str]:
    if code is not None:
        return next_code(loaded, code, words)
    if features is not None and labels is not None:
        return linear_head(loaded, Path(features), Path(labels), config.labels)
    return output_of_head(loaded, config.output)


def _find(subject: int, splits: dict[str, Tokens], tokens: Path) -> tuple[Tokens, int]:
    for split in splits.values():
        row = np.flatnonzero(split.subject_id == subject)
        if len(row):
            return split, int(row[0])
    raise UserError(f"{tokens} has no subject {subject}")


def _visible(split: Tokens, row: int, at: datetime | None, subject: int) -> int:
    if at is None:
        n = int(split.offsets[row + 1] - split.offsets[row])
    else:
        moment = np.array([np.datetime64(at, "us").astype(np.int64)])
        n = int(visible_tokens(split, np.array([row]), moment)[0])
    if not n:
        raise UserError(f"nothing is known of subject {subject} by {at or 'the end of its record'}")
    return n


_SCHEMA = pa.schema(
    [
        ("subject_id", pa.int64()),
        ("prediction_time", pa.timestamp("us")),
        ("position", pa.int64()),
        ("event", pa.int64()),
        ("time", pa.timestamp("us")),
        ("visit", pa.int64()),
        ("token", pa.string()),
        ("code", pa.string()),
        ("description", pa.string()),
        ("attribution", pa.float64()),
    ]
)


def _table(
    split: Tokens,
    index: npt.NDArray[np.int64],
    words: list[Word],
    value: npt.NDArray[np.float64],
    subject: int,
    moment: datetime,
) -> pl.DataFrame:
    """The columns of `attributions.parquet`."""
    mine = [words[i] for i in split.token[index].tolist()]
    begins = np.array([word.kind not in _CONTINUES for word in mine])
    time = pl.Series(split.time[index], dtype=pl.Int64)
    return pl.DataFrame(
        {
            "subject_id": pl.repeat(subject, len(index), dtype=pl.Int64, eager=True),
            "prediction_time": pl.repeat(moment, len(index), dtype=pl.Datetime("us"), eager=True),
            "position": np.arange(len(index)),
            "event": np.maximum(np.cumsum(begins) - 1, 0),
            "time": time.set(time == STATIC, None).cast(pl.Datetime("us")),
            "visit": split.visit[index].astype(np.int64),
            "token": [word.token for word in mine],
            "code": pl.Series([word.code for word in mine], dtype=pl.String),
            "description": pl.Series([word.description for word in mine], dtype=pl.String),
            "attribution": value,
        }
    )
