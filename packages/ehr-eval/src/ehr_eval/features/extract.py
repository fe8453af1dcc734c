"""Features of labelled rows, from tokens or from narratives: read in pieces, each kept when it is done.

n rows (one a subject and prediction time), d features.
"""

import hashlib
import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from tqdm import tqdm

from ehr_eval.features.config import FeaturesConfig
from ehr_eval.features.material import Material, Setting, opened
from ehr_eval.features.shelf import Shelf
from ehr_eval.frames import KEY, PRODUCER, in_order_of, labelled_rows, tell_tasks
from ehr_eval.parts import parts_of
from ehr_eval.workers import each_once, run_key
from ehr_tracking.arrow import labels as label_reader
from ehr_tracking.arrow.features import write_features
from ehr_tracking.arrow.label_files import label_source
from ehr_tracking.checkpoints import resolve
from ehr_tracking.config import to_dict
from ehr_tracking.contracts import FEATURES, ContractError
from ehr_tracking.files import PathLike, write_whole
from ehr_tracking.manifest import Source, new_artifact, refuse_existing, seal

PIECE = 1000
"""Rows, or somewhat more, that are read and kept together: those of whole subjects."""


@dataclass(frozen=True, slots=True)
class Extracted:
    """What was written."""

    path: Path
    rows: int
    read: int
    """Rows that were read just now; the others were there: in the store, or left by a run that was killed."""
    blind: int
    """Rows of which nothing is known: all zeros."""


@dataclass(frozen=True, slots=True, eq=False)
class Piece:
    """Rows that are read together."""

    first: int
    rows: pl.DataFrame = field(repr=False)

    def __str__(self) -> str:
        """By number, for messages."""
        return f"rows {self.first} to {self.first + self.rows.height - 1}"


def extract_features(  # noqa: PLR0913 -- inputs and outputs, each by name
    checkpoint: PathLike,
    tokens: PathLike,
    labels: PathLike,
    out: PathLike,
    config: FeaturesConfig | None = None,
    *,
    device: str = "cpu",
    store: PathLike | None = None,
    workers: int = 1,
    overwrite: bool = False,
) -> Extracted:
    """Write `features/1` for the union of all tasks' (subject, prediction time).

    A model sees the tokens known at the prediction time, that time included, and of those the
    newest that fit its context. A row at which nothing is known yet is all zeros; the manifest's
    config counts them as `rows_without_tokens`. Two runs on one machine give the same bits, on however
    many cores and workers. A run that is killed goes on with the pieces that are left.

    Args:
        checkpoint: A run or checkpoint directory.
        tokens: `tokens/1` with the checkpoint's vocabulary.
        labels: Anyone's MEDS labels; the rows are the union over their tasks.
        out: Where the features shall be.
        config: Pooling, layers, context, batches.
        device: As torch names it; `cuda` with several workers: a GPU each.
        store: A folder that keeps what is read, by model, tokens, settings and row; rows that are there
            already are not read. Rows are then read as `exact` says.
        workers: Processes.
        overwrite: Replace features that are there.

    Raises:
        ContractError: If an input is not what it should be, the vocabularies differ, or the model gives what is
            no number.
        ConfigError: If the context is longer than the model can take, or it has no such layer.
        UserError: If `out` exists.
        UnfinishedError: If a worker fails; pieces that are done are kept.
    """
    checkpoint, tokens, labels, out = Path(checkpoint), Path(tokens), Path(labels), Path(out)
    config = _for(store, config)
    read = [checkpoint, tokens, labels]
    refuse_existing(out, FEATURES, overwrite=overwrite, inputs=read)
    setting = Setting(resolve(checkpoint), tokens, text=False, config=config, device=device)
    opened.cache_clear()  # what lies there may be new
    material = opened(setting)
    tables = label_reader.read_labels(labels, reader=PRODUCER, columns=config.labels)
    rows = labelled_rows(tables, material.rows(), where=tokens)
    tell_tasks(labels, config.labels)
    inputs = {**material.inputs, "labels": label_source(labels)}
    return _extract(setting, rows, out, inputs, read, store, workers=workers, overwrite=overwrite)


def extract_text_features(  # noqa: PLR0913 -- inputs and outputs, each by name
    checkpoint: PathLike,
    narratives: PathLike,
    out: PathLike,
    config: FeaturesConfig | None = None,
    *,
    labels: PathLike | None = None,
    device: str = "cpu",
    store: PathLike | None = None,
    workers: int = 1,
    overwrite: bool = False,
) -> Extracted:
    """Write `features/1` of narratives, as a language model of transformers reads them.

    The newest tokens that fit its context are read: a text that is too long loses its beginning. An empty text is
    a row of zeros, counted as `rows_without_tokens`.

    Args:
        checkpoint: A directory with a model (safetensors) and its tokenizer, as `save_pretrained` writes both.
        narratives: `narratives/1`, as `ehr-tokenize narrate` writes them.
        out: Where the features shall be.
        config: Pooling, layers, context, batches.
        labels: Take their rows only; each has to be told. None: all that is told.
        device: As of `extract_features`, as are `store`, `workers` and `overwrite`.
        store: A folder that keeps what is read.
        workers: Processes.
        overwrite: Replace features that are there.

    Raises:
        ContractError: If an input is not what it should be, a label has no narrative, or the model gives what is
            no number.
        ConfigError: If the context is longer than the model can take, or it has no such layer.
        UserError: If `out` exists.
        UnfinishedError: If a worker fails; pieces that are done are kept.
    """
    checkpoint, narratives, out = Path(checkpoint), Path(narratives), Path(out)
    config = _for(store, config)
    read = [checkpoint, narratives, *([Path(labels)] if labels else [])]
    refuse_existing(out, FEATURES, overwrite=overwrite, inputs=read)
    if (checkpoint / "checkpoints").is_dir():
        checkpoint = resolve(checkpoint)
    setting = Setting(checkpoint, narratives, text=True, config=config, device=device)
    opened.cache_clear()  # what lies there may be new
    material = opened(setting)
    rows, inputs = material.rows(), dict(material.inputs)
    if labels is not None:
        tables = label_reader.read_labels(labels, reader=PRODUCER, columns=config.labels)
        asked = pl.concat(pl.DataFrame(pl.from_arrow(t.select(KEY))) for t in tables.values())
        mend = "narrate these labels (ehr-tokenize narrate --labels)"
        asked = asked.unique().sort(KEY)
        rows = in_order_of(asked, rows, where=narratives, what="labels", mend=mend)
        inputs["labels"] = label_source(Path(labels))
    return _extract(setting, rows, out, inputs, read, store, workers=workers, overwrite=overwrite)


def _for(store: PathLike | None, config: FeaturesConfig | None) -> FeaturesConfig:
    config = config or FeaturesConfig()
    return replace(config, exact=True) if store else config


def _extract(
    setting: Setting,
    rows: pl.DataFrame,
    out: Path,
    inputs: dict[str, Source],
    read: Sequence[Path],
    store: PathLike | None,
    *,
    workers: int,
    overwrite: bool,
) -> Extracted:
    """The part that tokens and narratives have in common."""
    material = opened(setting)
    resolved = {**to_dict(setting.config), **material.about}
    key = run_key({**resolved, "device": torch.device(setting.device).type}, inputs)
    with new_artifact(out, FEATURES, overwrite=overwrite, inputs=read, key=key) as unfinished:
        parts = parts_of(unfinished)
        shelf = Shelf(_shelf_of(Path(store), setting, material, resolved) if store else parts)
        missing = shelf.missing(rows)
        _read_pieces(setting, shelf, rows, missing, workers=workers)
        index = rows.select(*KEY, "split").to_arrow()
        written = write_features(unfinished, shelf.take(rows, material.width), index)
        shutil.rmtree(parts, ignore_errors=True)
        blind = material.blind(rows)
        seal(
            unfinished,
            FEATURES,
            producer=PRODUCER,
            config={**resolved, "rows_without_tokens": blind},
            seed=None,
            inputs=inputs,
            rows=written,
        )
    return Extracted(out, rows.height, int(missing.sum()), blind)


def _shelf_of(store: Path, setting: Setting, material: Material, resolved: dict[str, Any]) -> Path:
    """The folder of a store for one model, what it reads, and settings that change what comes of it."""
    apart = ("labels", "one_pass", "batch_tokens")
    about = {
        "producer": PRODUCER,
        "torch": str(torch.__version__),
        "device": torch.device(setting.device).type,
        "inputs": {role: each.fingerprint for role, each in sorted(material.inputs.items())},
        "config": {name: value for name, value in resolved.items() if name not in apart}
        | {"one_pass": setting.config.one_pass},
    }
    text = json.dumps(about, indent=1, sort_keys=True) + "\n"
    folder = store / hashlib.sha256(text.encode()).hexdigest()[:16]
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "about.json").is_file():
        write_whole(folder / "about.json", text)
    return folder


def _read_pieces(
    setting: Setting,
    shelf: Shelf,
    rows: pl.DataFrame,
    missing: "np.ndarray[tuple[int], np.dtype[np.bool_]]",
    *,
    workers: int,
) -> None:
    """Read what is missing. A piece that lacks rows is read whole, unless bits do not depend on that."""
    pieces = []
    for start, stop in _cuts(rows):
        lacks = missing[start:stop]
        if lacks.any():
            some = rows[start:stop]
            pieces.append(Piece(start, some.filter(lacks) if setting.config.exact else some))
    with tqdm(
        total=rows.height, initial=rows.height - int(missing.sum()), unit="row", desc="reading", disable=None
    ) as bar:  # fmt: skip
        for piece in _each(pieces, partial(_read, setting=setting, shelf=shelf), workers):
            bar.update(piece.rows.height)


def _each(pieces: Sequence[Piece], do: Any, workers: int) -> Iterator[Piece]:  # noqa: ANN401 -- a function of one
    """In this process on all its cores, or on one core of each of several."""
    if workers > 1:
        yield from each_once(pieces, do, workers=workers, caller="extract_features", named="pieces")
        return
    for piece in pieces:
        do(piece)
        yield piece


def _cuts(rows: pl.DataFrame) -> list[tuple[int, int]]:
    """Where pieces begin and end: by numbers of rows alone, between subjects."""
    subject = rows["subject_id"].to_numpy()
    begins = np.flatnonzero(np.append(True, subject[1:] != subject[:-1]))
    chosen = begins[np.append(True, np.diff(begins // PIECE) > 0)] if len(subject) else begins
    return list(zip(chosen.tolist(), [*chosen[1:].tolist(), len(subject)], strict=True))


def _read(piece: Piece, setting: Setting, shelf: Shelf) -> None:
    """Read a piece and keep it.

    Raises:
        ContractError: If the model gives what is no number.
    """
    found = opened(setting).read(piece.rows)
    broken = np.flatnonzero(~np.isfinite(found).all(axis=1))
    if len(broken):
        subject, time = piece.rows.select(KEY).row(int(broken[0]))
        raise ContractError(
            f"{setting.checkpoint} gives NaN or infinite values, first of subject {subject} at {time}; did "
            "the model diverge? Take another checkpoint"
        )
    shelf.add(piece.rows, found)
