"""Shots that a file names: EHRSHOT's own `all_shots_data.json`, or `shots/1`; used exactly as they stand.

n rows of a split.
"""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from ehr_eval.frames import PRODUCER
from ehr_eval.protocol.taskrows import Draw, Ints, Shots, SplitRows
from ehr_eval.tasks.chexpert import FINDINGS, task_name
from ehr_tracking.contracts import SHOTS, TRAIN, TUNING, ContractError
from ehr_tracking.manifest import MANIFEST, check_file, read_manifest

PATTERN = "*_shots_data.json"
_SPLITS = {TRAIN: "train", TUNING: "val"}
_FINDINGS = {finding: task_name(finding) for finding in FINDINGS}
"""EHRSHOT's sub-tasks -> ours."""


class NamedRows(NamedTuple):
    """Rows of a split, in the order of the file."""

    subject_id: Ints
    time: Ints
    """Microseconds since 1970."""
    label: Ints
    """0 or 1."""


Named = Mapping[Draw, Mapping[str, NamedRows]]


class GivenShots(NamedTuple):
    """All that a file, or a folder of files, names."""

    path: Path
    tasks: Mapping[str, Named]
    """Task -> draw -> split -> its rows."""
    shuffled: bool
    """Whether training rows stand in the order in which heads see them."""

    def of(self, task: str, train: SplitRows, tuning: SplitRows) -> dict[Draw, Shots]:
        """The shots of a task, as positions in its splits.

        Raises:
            ContractError: Naming the first row that is no label of its split, or says another outcome.
        """
        if task not in self.tasks:
            raise ContractError(f"{self.path} names no shots of task {task}")
        found = {}
        for draw, named in self.tasks[task].items():
            where = f"{self.path}: task {task}, k {draw.k}, replicate {draw.replicate}"
            at = _places(named[TRAIN], train, TRAIN, where)
            if not self.shuffled:
                at = at[np.random.RandomState(draw.replicate).permutation(len(at))]
            found[draw] = Shots(at, _places(named[TUNING], tuning, TUNING, where))
        return found


def _places(named: NamedRows, rows: SplitRows, split: str, where: str) -> Ints:
    known = pl.DataFrame(
        {"s": rows.subject_id, "t": rows.time, "label": rows.label}
    ).with_row_index("at")
    asked = pl.DataFrame({"s": named.subject_id, "t": named.time, "said": named.label})
    joined = asked.join(known, on=["s", "t"], how="left", maintain_order="left")
    unknown = joined.filter(pl.col("at").is_null())
    if unknown.height:
        raise ContractError(
            f"{where} names {unknown.height:,} rows that are no labels of {split}, the first subject "
            f"{unknown['s'][0]} at {_told(unknown['t'][0])}; are labels, splits and shots of one download?"
        )
    other = joined.filter(pl.col("said").cast(pl.Boolean) != pl.col("label"))
    if other.height:
        raise ContractError(
            f"{where}: subject {other['s'][0]} at {_told(other['t'][0])} has another outcome than the labels"
        )
    return joined["at"].to_numpy().astype(np.int64)


def _told(time: int) -> str:
    return str(np.datetime64(time, "us").astype("M8[s]")).replace("T", " ")


def read_given_shots(path: Path) -> GivenShots:
    """Read the shots that a file names.

    Args:
        path: `shots/1`; a `*_shots_data.json` of EHRSHOT; or a folder with one in each task's folder, of which
            `all_shots_data.json` is taken where there are several.

    Raises:
        ContractError: If there is none, or one is not what it should be.
    """
    if (path / MANIFEST).is_file():
        return GivenShots(path, _artifact(path), shuffled=True)
    files = [path] if path.is_file() else _files(path)
    if not files:
        raise ContractError(
            f"{path} names no shots: expected shots/1, or <task>/all_shots_data.json"
        )
    tasks: dict[str, Named] = {}
    for file in files:
        tasks |= _ehrshots(file)
    return GivenShots(path, tasks, shuffled=False)


def _files(path: Path) -> list[Path]:
    folders = sorted({p.parent for p in (*path.glob(PATTERN), *path.glob(f"*/{PATTERN}"))})
    best = (min(folder.glob(PATTERN), key=lambda p: (p.name != "all_shots_data.json", p.name)) for folder in folders)  # fmt: skip
    return list(best)


def _ehrshots(path: Path) -> dict[str, Named]:
    try:
        tree: dict[str, Any] = json.loads(path.read_text("utf-8"))
        return {
            _FINDINGS.get(task, task): {
                Draw(int(k), int(replicate)): {
                    split: _rows(one, name) for split, name in _SPLITS.items()
                }
                for k, of_k in draws.items()
                for replicate, one in of_k.items()
            }
            for task, draws in tree.items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as e:
        what = " ".join(f"{type(e).__name__}: {e}".split())
        raise ContractError(f"{path} names no shots as EHRSHOT does ({what})") from None


def _rows(draw: Mapping[str, Any], split: str) -> NamedRows:
    subject, times, label = (
        draw[f"{n}_{split}_k"] for n in ("patient_ids", "label_times", "label_values")
    )
    if not len(subject) == len(times) == len(label):
        raise ValueError(f"patients, times and values of {split} differ in number")
    time = [_microseconds(text) for text in times]
    yes = [int(value) >= 1 for value in label]
    return NamedRows(*(np.array(values, np.int64) for values in (subject, time, yes)))


def _microseconds(text: str) -> int:
    since = datetime.fromisoformat(text).replace(tzinfo=UTC) - datetime(1970, 1, 1, tzinfo=UTC)
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds


def _artifact(path: Path) -> Mapping[str, Named]:
    manifest = read_manifest(path, SHOTS, reader=PRODUCER)
    table = pl.read_parquet(check_file(path, manifest, "shots.parquet"))
    table = table.filter(pl.col("split").is_in([TRAIN, TUNING])).sort("order", maintain_order=True)
    tasks: dict[str, dict[Draw, dict[str, NamedRows]]] = {}
    for (task, k, replicate, split), part in table.group_by(
        "task", "k", "replicate", "split", maintain_order=True
    ):
        rows = NamedRows(
            part["subject_id"].to_numpy(),
            part["prediction_time"].dt.epoch("us").to_numpy(),
            part["boolean_value"].cast(pl.Int64).to_numpy(),
        )
        tasks.setdefault(str(task), {}).setdefault(Draw(k, replicate), {})[str(split)] = rows
    return tasks
