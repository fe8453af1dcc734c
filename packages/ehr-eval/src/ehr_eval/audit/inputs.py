"""What is audited: read leniently, since what other readers refuse is what some checks look for."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import polars as pl

from ehr_eval.audit.config import AuditConfig
from ehr_eval.audit.found import Skipped
from ehr_eval.features.read import FeatureSet, read_features
from ehr_eval.frames import KEY, PRODUCER, read_events
from ehr_eval.tasks.files import TaskFile, read_task_files
from ehr_eval.tasks.label_tasks import yes_or_no
from ehr_tracking.arrow import labels as label_reader
from ehr_tracking.arrow.delays import Delays, delays_of
from ehr_tracking.arrow.label_ehrshot import ehrshot_files
from ehr_tracking.arrow.label_files import label_files, label_source
from ehr_tracking.arrow.meds import data_files
from ehr_tracking.arrow.parquet import read_table
from ehr_tracking.arrow.splits import Splits
from ehr_tracking.arrow.tasks import name_tasks
from ehr_tracking.contracts import (
    MEDS,
    PREDICTIONS,
    RESULTS,
    SHOTS,
    SPLITS,
    TOKENS,
    TUNING,
    ContractError,
)
from ehr_tracking.manifest import (
    MANIFEST,
    Manifest,
    Source,
    check_file,
    load_manifest,
    raw_source,
    read_manifest,
    source,
)
from ehr_tracking.tree import files_below, note

T = TypeVar("T")
LABEL, PROBABILITY = "boolean_value", "predicted_boolean_probability"


@dataclass(frozen=True, kw_only=True)
class Given:
    """Where what is audited lies; all of it optional."""

    meds: Path | None = None
    labels: Path | None = None
    tokens: Path | None = None
    checkpoint: Path | None = None
    features: Mapping[str, Path] = field(default_factory=dict)
    predictions: Mapping[str, Path] = field(default_factory=dict)
    results: Path | None = None
    shots: Path | None = None
    task_files: tuple[Path, ...] = ()

    @property
    def paths(self) -> dict[str, Path]:
        """Option -> path, of all that was given."""
        single = {n: getattr(self, n) for n in ("meds", "labels", "tokens", "checkpoint")}
        single |= {n: getattr(self, n) for n in ("results", "shots")}
        named = {f"features.{n}": p for n, p in self.features.items()}
        named |= {f"predictions.{n}": p for n, p in self.predictions.items()}
        return {n: p for n, p in single.items() if p is not None} | named


class Inputs:
    """What was given, opened when a check first asks for it."""

    def __init__(self, given: Given, config: AuditConfig) -> None:
        """Open what says of itself what it is.

        Raises:
            ContractError: If an artifact is unfinished, changed or another one than its option says.
        """
        self.given, self.config = given, config
        self._again: dict[str, Any] = {}
        for name, contract in (("tokens", TOKENS), ("results", RESULTS), ("shots", SHOTS)):
            if (path := getattr(given, name)) is not None:
                read_manifest(path, contract, reader=PRODUCER)
        self.features: dict[str, FeatureSet] = {
            name: read_features(path) for name, path in given.features.items()
        }
        if given.meds is not None:
            data_files(given.meds)
        if given.labels is not None:
            self.raw_labels  # noqa: B018 -- read now, so that bad input is told before any check

    def require(self, *names: str) -> None:
        """Skip a check that lacks inputs.

        Raises:
            Skipped: Naming the options.
        """
        lacking = [n for n in names if not getattr(self.given, n)]
        if lacking:
            raise Skipped("needs " + " and ".join(f"--{n.replace('_', '-')}" for n in lacking))

    @property
    def meds(self) -> Path:
        """The data set.

        Raises:
            Skipped: If there is none.
        """
        self.require("meds")
        assert self.given.meds is not None
        return self.given.meds

    @property
    def tokens(self) -> Path:
        """The tokens.

        Raises:
            Skipped: If there are none.
        """
        self.require("tokens")
        assert self.given.tokens is not None
        return self.given.tokens

    @cached_property
    def token_manifest(self) -> Manifest:
        """That of the tokens."""
        return load_manifest(self.tokens)

    def again(self, name: str, make: Callable[["Inputs", str], T]) -> T:
        """What is extracted again of some features, once for all checks that look at it."""
        if name not in self._again:
            self._again[name] = make(self, name)
        found: T = self._again[name]
        return found

    def token_shards(self) -> Iterator[tuple[str, pl.DataFrame]]:
        """Split and subject_id, token, time of each shard of the tokens."""
        names = sorted(n for n in self.token_manifest.files if "/" in n and n.endswith(".parquet"))
        for name in names:
            path = check_file(self.tokens, self.token_manifest, name)
            frame = pl.read_parquet(path, columns=["subject_id", "token", "time"])
            yield name.split("/")[0], frame

    def events(self, delays: Delays | None = None) -> Iterator[pl.DataFrame]:
        """The events of each file of the data set."""
        for path in data_files(self.meds):
            yield read_events(path, delays)

    @cached_property
    def delays(self) -> Delays:
        """When events become known: as the tokens have it, else the first features that say so."""
        if self.given.tokens is not None:
            return delays_of(self.token_manifest)
        told = (found.manifest.config.get("delay") for found in self.features.values())
        return Delays(next((dict(d) for d in told if d), {}))

    @cached_property
    def named_splits(self) -> pl.DataFrame | None:
        """subject_id, split as the data set names them, a subject twice where it does so."""
        if self.given.meds is None:
            return None
        path = self.given.meds / "metadata" / "subject_splits.parquet"
        if not path.is_file():
            return None
        columns = ["subject_id", "split"]
        return pl.DataFrame(pl.from_arrow(read_table(path, columns))).select(
            pl.col("subject_id").cast(pl.Int64), pl.col("split").cast(pl.String)
        )

    @cached_property
    def splits(self) -> pl.DataFrame:
        """subject_id, split, each subject once: of the data set, else the tokens, else the features.

        Raises:
            Skipped: If none of these is there.
        """
        if self.named_splits is not None:
            found = self.named_splits
        elif self.given.meds is not None:
            who = pl.concat([e.select("subject_id").unique() for e in self.events()])["subject_id"]
            number = Splits(self.config.seed).of(who.to_numpy())
            found = pl.DataFrame({"subject_id": who, "split": [SPLITS[i] for i in number]})
        elif self.given.tokens is not None:
            parts = [f.select("subject_id", split=pl.lit(s)) for s, f in self.token_shards()]
            found = pl.concat(parts)
        elif self.features:
            found = pl.concat(f.index.select("subject_id", "split") for f in self.features.values())
        else:
            raise Skipped("needs --meds, --tokens or --features, which say who is in which split")
        return found.unique("subject_id", keep="first", maintain_order=True)

    @cached_property
    def _label_tables(self) -> dict[str, pl.DataFrame]:
        """Task -> its labels of any kind, as they are."""
        path = self.given.labels
        if path is None:
            return {}
        if path.suffix == ".csv" or ehrshot_files(path):
            tables, left_out = label_reader.try_labels(
                path, reader=PRODUCER, columns=self.config.labels
            )
            found = {task: pl.DataFrame(pl.from_arrow(table)) for task, table in tables.items()}
            for why in left_out.values():
                note(f"left out: {why}")
        else:
            files = name_tasks(path, label_files(path, reader=PRODUCER))
            found = {task: pl.concat(map(_label_file, of)) for task, of in files.items()}
        if not found:
            raise ContractError(f"{path} holds no labels: expected <task>/**/*.parquet")
        return found

    @cached_property
    def raw_labels(self) -> dict[str, pl.DataFrame]:
        """Task -> subject_id, prediction_time, boolean_value, with rows that contradict each other.

        Tasks that are no yes or no are left out.
        """
        found: dict[str, pl.DataFrame] = {}
        for task, frame in self._label_tables.items():
            if LABEL in frame.columns:
                found[task] = frame.select(*KEY, LABEL).drop_nulls(LABEL)
            else:
                with suppress(ContractError):
                    found |= dict(yes_or_no(task, frame.to_arrow()))
        return found

    @cached_property
    def asked(self) -> dict[str, pl.DataFrame]:
        """Task, whatever its labels hold -> subject_id, prediction_time, each once.

        Raises:
            Skipped: If there are no labels.
        """
        self.require("labels")
        return {
            task: frame.select(KEY).unique().sort(KEY) for task, frame in self._label_tables.items()
        }

    @cached_property
    def labels(self) -> dict[str, pl.DataFrame]:
        """The same with each row once, and without rows that contradict each other; with `split`.

        Raises:
            Skipped: If there are no labels.
        """
        self.require("labels")
        return {
            task: frame.unique()
            .filter(pl.len().over(KEY) == 1)
            .join(self.splits, on="subject_id", how="left")
            .sort(KEY)
            for task, frame in self.raw_labels.items()
        }

    @cached_property
    def task_files(self) -> dict[str, TaskFile]:
        """Task -> its file, of those that were given."""
        return read_task_files(self.given.task_files)

    @cached_property
    def label_config(self) -> dict[str, object]:
        """What labels of ours were made with; empty for anyone else's."""
        path = self.given.labels
        if path is None or not (path / MANIFEST).is_file():
            return {}
        return load_manifest(path).config

    @cached_property
    def predictions(self) -> dict[str, dict[str, pl.DataFrame]]:
        """Model -> task -> subject_id, prediction_time, boolean_value, the probability.

        Of results: `<model>/<head>`, as its folder `predictions/` has them. What lies below a folder `tuning`
        says of itself that it is of tuning rows, and is no answer to be judged.
        """
        found: dict[str, dict[str, pl.DataFrame]] = {}
        for name, path in self.given.predictions.items():
            if (path / MANIFEST).is_file():
                read_manifest(path, PREDICTIONS, reader=PRODUCER)
            for file in files_below(path, ".parquet"):
                below = file.relative_to(path)
                if TUNING in below.parts[:-1]:
                    continue
                task = _task_of(below.as_posix(), list(self.raw_labels))
                _add(found, name, task, _prediction_file(file))
        if self.given.results is not None:
            root = self.given.results / "predictions"
            for file in files_below(root, ".parquet") if root.is_dir() else ():
                task, model, head = file.relative_to(root).as_posix().rsplit("/", 2)
                _add(
                    found, f"{model}/{head.removesuffix('.parquet')}", task, _prediction_file(file)
                )
        return found

    @cached_property
    def sources(self) -> dict[str, Source]:
        """Option -> what was given, for the lineage."""
        found = {}
        for name, path in self.given.paths.items():
            if name == "meds":
                found[name] = raw_source(path, contract=MEDS)
            elif name == "labels":
                found[name] = label_source(path)
            elif name == "checkpoint":
                found[name] = self.checkpoint_source
            else:
                found[name] = (
                    source(path)
                    if (path / MANIFEST).is_file()
                    else raw_source(path, contract="meds-predictions/0.4")
                )
        return found

    @cached_property
    def checkpoint_source(self) -> Source:
        """The checkpoint itself, where a run was given.

        Raises:
            Skipped: If none was.
        """
        self.require("checkpoint")
        from ehr_tracking.checkpoints import reading

        assert self.given.checkpoint is not None
        with reading(self.given.checkpoint) as directory:
            return source(directory)


def unrolled(frame: pl.DataFrame, *lists: str) -> pl.DataFrame:
    """One row an item of some list columns, which are of one length in each row.

    Examples:
        >>> unrolled(pl.DataFrame({"who": [7, 8], "item": [[1, 2], [3]]}), "item").rows()
        [(7, 1), (7, 2), (8, 3)]
    """
    # not DataFrame.explode, of which versions of polars differ in what an empty list gives
    row = np.repeat(np.arange(frame.height), frame[lists[0]].list.len().to_numpy())
    items = [pl.Series(name, frame[name].to_arrow().flatten()) for name in lists]
    return frame.drop(lists)[row].with_columns(items)


def _label_file(path: Path) -> pl.DataFrame:
    frame = pl.DataFrame(pl.from_arrow(read_table(path, [*KEY, *label_reader.VALUES])))
    for name in KEY:
        if name not in frame.columns:
            raise ContractError(f"{path} has no column {name}: not MEDS labels")
    frame = frame.select(c for c in frame.columns if c in KEY or frame[c].count())
    return frame.with_columns(
        pl.col("subject_id").cast(pl.Int64), pl.col("prediction_time").cast(pl.Datetime("us"))
    )


def _prediction_file(path: Path) -> pl.DataFrame:
    names = [*KEY, LABEL, PROBABILITY]
    frame = pl.DataFrame(pl.from_arrow(read_table(path, names)))
    for name in names:
        if name not in frame.columns:
            raise ContractError(f"{path} has no column {name}: not predictions of meds-evaluation")
    return frame.with_columns(
        pl.col("subject_id").cast(pl.Int64), pl.col("prediction_time").cast(pl.Datetime("us"))
    ).select(names)


def _task_of(name: str, tasks: list[str]) -> str:
    """The task in whose folder a file of predictions lies.

    Examples:
        >>> _task_of("icu/los/k=8/replicate=0/held_out.parquet", ["icu/los"])
        'icu/los'
        >>> _task_of("died/held_out.parquet", [])
        'died'
    """
    known = next((task for task in tasks if name.startswith(f"{task}/")), None)
    return known or name.rpartition("/")[0].split("/k=")[0] or name.removesuffix(".parquet")


def _add(
    found: dict[str, dict[str, pl.DataFrame]], name: str, task: str, frame: pl.DataFrame
) -> None:
    of = found.setdefault(name, {})
    of[task] = pl.concat([of[task], frame]) if task in of else frame
