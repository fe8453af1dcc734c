"""`ehr-eval query`: answers to any queries at labelled prediction times, and predictions of tasks.

n prediction times, P pairs of a query and a horizon.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from scipy.special import expit

from ehr_eval.answers import Answer, Outputs, write_parts, yes_or_no
from ehr_eval.features.config import FeaturesConfig
from ehr_eval.features.reader import Reader, subjects_of
from ehr_eval.frames import KEY, PRODUCER, labelled_rows
from ehr_eval.query.answer import Integers, Questions, read_answers
from ehr_eval.query.ask import Query, token_sets
from ehr_eval.query.hazards import codes_of, read_hazards
from ehr_models.checkpoint import LoadedCheckpoint, load_checkpoint, require_same_vocabulary
from ehr_models.data.cutoff import visible_tokens
from ehr_models.data.store import open_split
from ehr_models.data.tokens import Tokens, open_tokens
from ehr_models.heads.forecasts import forecast_head
from ehr_models.vocabulary import read_vocabulary
from ehr_tracking.arrow import labels as label_reader
from ehr_tracking.arrow.label_files import label_source
from ehr_tracking.config import ConfigError, to_dict
from ehr_tracking.contracts import ANSWERS, PREDICTIONS, ContractError
from ehr_tracking.files import PathLike
from ehr_tracking.manifest import new_artifact, refuse_existing, seal, source
from ehr_tracking.tree import note

TABLE, ASKED, PREDICTED = "answers.parquet", "queries.json", "predictions"
_AT_ONCE = 2**16
"""Rows of a block of the table, about."""
_SCHEMA = pa.schema(
    [
        ("subject_id", pa.int64()),
        ("prediction_time", pa.timestamp("us")),
        ("split", pa.string()),
        ("query", pa.string()),
        ("horizon_days", pa.float64()),
        ("probability", pa.float32()),
        ("censored_probability", pa.float32()),
    ]
)


class QuerySummary(NamedTuple):
    """What was written."""

    path: Path
    asked: list[dict[str, Any]]
    """Of each query and horizon its tokens, and means over all prediction times."""
    rows: int
    """Prediction times."""
    predicted: dict[str, int]
    """Task -> its held-out rows."""


def query(  # noqa: PLR0913 -- what the command's options say
    checkpoint: PathLike,
    tokens: PathLike,
    labels: PathLike,
    queries: Sequence[Query],
    out: PathLike,
    config: FeaturesConfig | None = None,
    *,
    head: Literal["query", "events"] = "query",
    device: str = "cpu",
    overwrite: bool = False,
) -> QuerySummary:
    """Write `answers/1`: what a model says of queries at every labelled prediction time.

    It sees what was known then, that time included. A query that is called like a task of the labels,
    of yes or no, predicts it: `predictions/` is a `predictions/1` of those tasks' held-out rows.

    Args:
        checkpoint: A run or checkpoint of a model with such a head.
        tokens: `tokens/1` with its vocabulary.
        labels: Anyone's: the prediction times are the union over their tasks.
        queries: From `ask.collect`.
        out: Where the answers shall be.
        config: Context, batches, precision, columns of CSV labels.
        head: Which head answers: `query`, or the hazards of single codes of `events`.
        device: As torch names it.
        overwrite: Replace answers that are there.

    Raises:
        ContractError: If an input is not what it should be, labels name a subject that tokens lack, or a
            prediction time sees no token.
        ConfigError: If the model has no such head, no token tells a query, the events head forecasts none
            of its codes, or one that predicts a task has several horizons.
        UserError: If `out` exists.
    """
    checkpoint, tokens, labels, out = Path(checkpoint), Path(tokens), Path(labels), Path(out)
    config, read = config or FeaturesConfig(), [checkpoint, tokens, labels]
    refuse_existing(out, ANSWERS, overwrite=overwrite, inputs=read)
    loaded = load_checkpoint(checkpoint)
    try:
        forecast_head(loaded.model, head)
    except ConfigError as e:
        raise ConfigError(f"{loaded.directory}: {e}") from None
    sets = token_sets(queries, loaded.directory)
    token_set = open_tokens(tokens)
    require_same_vocabulary(loaded, token_set)
    tables = label_reader.read_labels(labels, reader=PRODUCER, columns=config.labels)
    tasks = _predicted(queries, tables)
    codes = []
    if head == "events":
        codes = codes_of(queries, sets, cast("Any", loaded.model.config).events_head["ids"])
    else:
        _tell_untrained(loaded, queries)
    splits = {split: open_split(token_set, split) for split in token_set.splits}
    rows = labelled_rows(tables, subjects_of(splits), where=tokens)
    questions, reader = Questions(queries, sets), Reader(loaded, config, device=device)
    read_split = (
        partial(read_hazards, reader, questions, codes)
        if head == "events"
        else partial(read_answers, reader, questions)
    )
    logits = _logits(read_split, len(questions), splits, rows, tokens)
    logits[:, np.array([one.absent for one in queries])[questions.query], 0] *= -1
    resolved = {
        **to_dict(config),
        "head": head,
        "context": reader.context,
        "precision": reader.precision,
    }
    about: dict[str, Any] = {
        "producer": PRODUCER,
        "config": {**resolved, "queries": _described(queries, sets, loaded.directory)},
        "inputs": {
            "checkpoint": loaded.source,
            "tokens": source(tokens),
            "labels": label_source(labels),
        },
    }
    with new_artifact(out, ANSWERS, overwrite=overwrite, inputs=read) as directory:
        with pq.ParquetWriter(directory / TABLE, _SCHEMA, compression="zstd") as file:
            for block in _blocks(rows, questions, [q.name for q in queries], logits):
                file.write_table(block)
        asked = json.dumps(about["config"]["queries"], indent=1) + "\n"
        (directory / ASKED).write_text(asked, encoding="utf-8")
        columns = {task: _place(questions, place) for task, place in tasks.items()}
        parts = {
            task: _predictions(task, tables[task], rows, logits[:, column, 0], loaded)
            for task, column in columns.items()
        }
        _write_predictions(directory / PREDICTED, parts, about)
        seal(directory, ANSWERS, rows={TABLE: len(rows) * len(questions)}, **about)
    return QuerySummary(
        out,
        _means(questions, queries, sets, logits),
        rows.height,
        {task: len(each.table) for task, each in parts.items() if len(each.table)},
    )


def _predicted(queries: Sequence[Query], tables: Mapping[str, pa.Table]) -> dict[str, int]:
    """Task -> the number of the query that is called like it."""
    found = {}
    for number, one in enumerate(queries):
        table = tables.get(one.name)
        if table is None or "boolean_value" not in table.column_names:
            continue
        if label_reader.DURATION in table.column_names:
            continue
        if len(one.horizons) > 1:
            raise ConfigError(
                f"query {one.name} is called like a task of the labels, so it predicts it: give it one "
                f"horizon, not {len(one.horizons)}, or another name"
            )
        found[one.name] = number
    return found


def _place(questions: Questions, number: int) -> int:
    return int(np.flatnonzero(questions.query == number)[0])


def _tell_untrained(loaded: LoadedCheckpoint, queries: Sequence[Query]) -> None:
    """Print which horizons the head never saw, where the run says what it saw."""
    objective = loaded.manifest.config.get("objective") or {}
    parts = [objective, *(part.get("objective", {}) for part in objective.get("parts", ()))]
    for part in parts:
        if part.get("kind") == "query":
            low, high = float(part["shortest"]), float(part["longest"])
            beyond = sorted({d for q in queries for d in q.days if not low <= d <= high})
            if beyond:
                days = ", ".join(f"{d:g}" for d in beyond)
                note(f"trained on horizons of {low:g} to {high:g} days alone, not on {days}")


def _logits(
    read_split: Callable[[Tokens, Integers, Integers, Integers], npt.NDArray[np.float32]],
    questions: int,
    splits: Mapping[str, Tokens],
    rows: pl.DataFrame,
    where: Path,
) -> npt.NDArray[np.float32]:
    """[n, P, 2] of all splits."""
    found = np.zeros((rows.height, questions, 2), np.float32)
    for split, tokens in splits.items():
        chosen = np.flatnonzero((rows["split"] == split).to_numpy())
        row = rows["subject_row"].to_numpy()[chosen]
        time = rows["prediction_time"].dt.epoch("us").to_numpy()[chosen]
        visible = visible_tokens(tokens, row, time)
        if (visible == 0).any():
            blind = rows[chosen[visible == 0].tolist()]
            subject, when = blind.select(KEY).row(0)
            raise ContractError(
                f"{where}: {blind.height:,} prediction times see no token, the first of subject {subject} "
                f"at {when}; leave them out, or tokenise with [BOS] or static codes"
            )
        found[chosen] = read_split(tokens, row, visible, time)
    return found


def _blocks(
    rows: pl.DataFrame,
    questions: Questions,
    names: Sequence[str],
    logits: npt.NDArray[np.float32],
) -> Iterator[pa.Table]:
    """The table of answers, a prediction time after the other."""
    many = len(questions)
    named = np.array(names, object)[questions.query]
    for start in range(0, rows.height, size := max(1, _AT_ONCE // many)):
        some = rows[start : start + size]
        chance = expit(logits[start : start + size].astype(np.float64)).reshape(-1, 2)
        told = [
            np.repeat(some["subject_id"].to_numpy(), many),
            np.repeat(some["prediction_time"].dt.epoch("us").to_numpy(), many),
            np.repeat(some["split"].to_numpy(), many),
            np.tile(named, some.height),
            np.tile(questions.days, some.height),
            chance[:, 0].astype(np.float32),
            chance[:, 1].astype(np.float32),
        ]
        arrays = [
            pa.array(x, field.type, from_pandas=True)
            for x, field in zip(told, _SCHEMA, strict=True)
        ]
        yield pa.table(arrays, schema=_SCHEMA)


def _predictions(
    task: str,
    table: pa.Table,
    rows: pl.DataFrame,
    logits: npt.NDArray[np.float32],
    loaded: LoadedCheckpoint,
) -> Answer:
    """What is said of a task, as `predictions/1`."""
    told = pl.DataFrame(pl.from_arrow(table.select(KEY)))
    mine = rows.with_row_index("at").join(told, on=KEY, how="semi", maintain_order="left")
    values = logits[mine["at"].to_numpy()].astype(np.float64)[:, None]
    return yes_or_no(Outputs(task, table, mine, values, loaded.model.config))


def _write_predictions(
    directory: Path, parts: Mapping[str, Answer], about: Mapping[str, Any]
) -> None:
    rows: dict[str, int] = {}
    for task, answer in parts.items():
        if not len(answer.table):
            note(f"{task}: no label is of a held-out subject, so nothing of it is predicted")
            continue
        rows |= write_parts(directory, task, answer)
    if rows:
        seal(directory, PREDICTIONS, rows=rows, **about)


def _described(
    queries: Sequence[Query], sets: Sequence[Sequence[int]], checkpoint: Path
) -> list[dict[str, Any]]:
    words = read_vocabulary(checkpoint)
    return [
        {
            "name": one.name,
            "outcome": [to_dict(pattern) for pattern in one.outcome],
            "absent": one.absent,
            "horizon_days": list(one.days),
            "tokens": [words[token].token for token in ids],
        }
        for one, ids in zip(queries, sets, strict=True)
    ]


def _means(
    questions: Questions,
    queries: Sequence[Query],
    sets: Sequence[Sequence[int]],
    logits: npt.NDArray[np.float32],
) -> list[dict[str, Any]]:
    mean = (
        expit(logits.astype(np.float64)).mean(0) if len(logits) else np.zeros((len(questions), 2))
    )
    return [
        {
            "query": queries[q].name,
            "tokens": len(sets[q]),
            "horizon_days": days,
            "mean probability": round(float(occurs), 4),
            "mean censored": None if np.isnan(censored) else round(float(censored), 4),
        }
        for q, days, (occurs, censored) in zip(
            questions.query.tolist(), questions.days.tolist(), mean, strict=True
        )
    ]
