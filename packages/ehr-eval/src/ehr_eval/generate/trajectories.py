"""Futures as `trajectories/1`: MEDS events with their dates, and why each future ends.

F futures, m events, N tokens.
"""

from contextlib import ExitStack
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ehr_eval.generate.futures import Futures
from ehr_eval.generate.prompts import Prompts
from ehr_eval.generate.spelling import Spelling
from ehr_eval.generate.stops import REASONS

EVENTS, FUTURES, SAMPLES = "events", "futures", "samples"
"""Folders of the artifact."""
_TIME = pa.timestamp("us")
_EVENTS = pa.schema(
    [
        ("subject_id", pa.int64()),
        ("prediction_time", _TIME),
        ("sample", pa.int64()),
        ("time", _TIME),
        ("code", pa.string()),
        ("numeric_value", pa.float32()),
    ]
)
_FUTURES = pa.schema(
    [
        ("subject_id", pa.int64()),
        ("prediction_time", _TIME),
        ("sample", pa.int64()),
        ("reason", pa.string()),
        ("tokens", pa.int64()),
        ("until", _TIME),
    ]
)
PER_SAMPLE = pa.schema([_EVENTS.field(n) for n in ("subject_id", "time", "code", "numeric_value")])
PER_SAMPLE = PER_SAMPLE.append(pa.field("prediction_time", _TIME, nullable=False))
"""GeneratedTrajectorySchema: that of MEDS events with a prediction time."""
END = "TRAJECTORY_END"


def event_table(
    futures: Futures, prompts: Prompts, spelling: Spelling, *, samples: int
) -> pa.Table:
    """Events of futures, by subject, prediction time, sample and time.

    An event happens when its first token does. Tokens that tell nothing (intervals, marks of visits,
    levels or bins behind no code) are no events.

    Args:
        futures: Of the prompts.
        prompts: By subject and time.
        spelling: Of the vocabulary.
        samples: Futures of each prompt.
    """
    told = spelling.events(futures.token, futures.future)
    future = futures.future[told.first]
    state, back = np.unique(told.state, return_inverse=True)
    events = [spelling.told(int(s)) for s in state]
    codes = pa.array([e.code if e else None for e in events], pa.string())
    values = pa.array([e.value if e else None for e in events], pa.float32())
    return pa.table(
        {
            **_named(future, prompts, samples),
            "time": pa.array(futures.time[told.first], _TIME),
            "code": codes.take(pa.array(back)),
            "numeric_value": values.take(pa.array(back)),
        },
        schema=_EVENTS,
    )


def future_table(futures: Futures, prompts: Prompts, *, samples: int) -> pa.Table:
    """Each future once: why it ends, what it took, and until when it is told."""
    names = pa.array(REASONS, pa.string())
    return pa.table(
        {
            **_named(np.arange(len(futures.reason)), prompts, samples),
            "reason": names.take(pa.array(futures.reason)),
            "tokens": pa.array(futures.tokens),
            "until": pa.array(futures.until, _TIME),
        },
        schema=_FUTURES,
    )


def _named(future: npt.NDArray[np.int64], prompts: Prompts, samples: int) -> dict[str, pa.Array]:
    prompt = future // samples
    return {
        "subject_id": pa.array(prompts.subject[prompt]),
        "prediction_time": pa.array(prompts.time[prompt], _TIME),
        "sample": pa.array(future % samples),
    }


def write_samples(directory: Path, samples: int) -> dict[str, int]:
    """Events once more, one table a sample, in the GeneratedTrajectorySchema of MEDS_trajectory_evaluation.

    That schema has rows for events only. So a future that is told for longer than to its last event has one
    more, `TRAJECTORY_END//` and why, at that time: else futures in which nothing happens would be missing
    there, and risks too high.

    Args:
        directory: Of the artifact, whose other tables are written.
        samples: How many.

    Returns:
        Path below `directory` -> rows.
    """
    (directory / SAMPLES).mkdir(exist_ok=True)
    width = max(3, len(str(samples - 1)))
    rows = {f"{SAMPLES}/{n:0{width}d}.parquet": 0 for n in range(samples)}
    with ExitStack() as stack:
        writers = [
            stack.enter_context(pq.ParquetWriter(directory / name, PER_SAMPLE, compression="zstd"))
            for name in rows
        ]
        for path in sorted((directory / EVENTS).glob("*.parquet")):
            table = _with_ends(pq.read_table(path), pq.read_table(directory / FUTURES / path.name))
            sample = table["sample"].to_numpy()
            for n, (name, writer) in enumerate(zip(rows, writers, strict=True)):
                mine = table.filter(pa.array(sample == n)).select(PER_SAMPLE.names)
                writer.write_table(mine.cast(PER_SAMPLE))
                rows[name] += len(mine)
    return rows


def _with_ends(events: pa.Table, futures: pa.Table) -> pa.Table:
    """Events of a part, with the ends of futures that are told for longer."""
    keys = ["subject_id", "prediction_time", "sample"]
    last = events.group_by(keys).aggregate([("time", "max")])
    ends = futures.join(last, keys, join_type="left outer")
    beyond = pc.less(ends["time_max"], ends["until"])
    ends = ends.filter(pc.fill_null(beyond, True))
    why = pc.binary_join_element_wise(pa.scalar(END), ends["reason"], "//")
    ends = ends.select([*keys, "until"]).rename_columns([*keys, "time"]).append_column("code", why)
    ends = ends.append_column("numeric_value", pa.nulls(len(ends), pa.float32())).cast(_EVENTS)
    both = pa.concat_tables([events, ends])
    columns = [
        both[n].cast(pa.int64()).to_numpy()
        for n in ("time", "sample", "prediction_time", "subject_id")
    ]
    order = np.lexsort(columns)  # stable: what happens at one moment keeps its order
    return both.take(pa.array(order))
