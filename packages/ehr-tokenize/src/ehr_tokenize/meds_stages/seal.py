"""Token shards of any layout to one sealed `tokens/1`, as the in-process driver writes it.

Files may hold subjects in any order, and all of them may be more than fits into memory. So a first
look at who is where decides the output shards, rows are dealt out to stretches of these on disk,
and each stretch is put in order by itself: memory holds one file, then one stretch.
"""

import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ehr_tokenize.build.build import PRODUCER
from ehr_tokenize.build.shards import (
    GROUP_EVENTS,
    GROUP_SUBJECTS,
    shard_name,
    to_table,
    write_shard,
)
from ehr_tokenize.build.summary import Family, families, write_coverage
from ehr_tokenize.config import TokenizeConfig
from ehr_tokenize.meds.events import ranges
from ehr_tokenize.scheme.weave import COUNTED, Sequences
from ehr_tokenize.tokenizer.tokenizer import Tokenizer
from ehr_tokenize.tokenizer.vocabulary import VOCAB
from ehr_tracking.arrow.splits import Splits, read_splits
from ehr_tracking.config import to_dict
from ehr_tracking.contracts import MEDS, SPLITS, TOKENS
from ehr_tracking.errors import UserError
from ehr_tracking.manifest import MANIFEST, new_artifact, raw_source, seal, sha256
from ehr_tracking.tree import files_below

SEALED = ".ehr_tokenize.sealed"
"""In a pipeline's `output_dir`: the SHA-256 of the manifest that was sealed."""
_NAMES = "ehr/families"
_EVENTS = "ehr/events"
_SCRATCH = ".scratch"
_MAX_STRETCHES = 256
"""Each is a file that is open while rows are dealt out."""


@dataclass(frozen=True, slots=True, eq=False)
class _Stretch:
    """Output shards, one after the other, of one split."""

    split: int
    first: int
    """Number of the first shard."""
    lengths: tuple[npt.NDArray[np.int64], ...]
    """Of each shard, the events of each subject, in the order of subjects."""


@dataclass(frozen=True, slots=True, eq=False)
class _Plan:
    """Where each subject goes; N subjects in the order of the files."""

    stretches: list[_Stretch]
    goes_to: npt.NDArray[np.int64]
    """[N] index into `stretches`."""
    coverage: dict[str, list[Family]]


def seal_shards(
    shards: Path,
    out: Path,
    *,
    meds: Path,
    tokenizer: Tokenizer,
    overwrite: bool = False,
    mark: Path | None = None,
    stretch_events: int = 1 << 22,
) -> None:
    """Order subjects, cut them into shards, and seal.

    Args:
        shards: `**/*.parquet` in the columns of `tokens/1`.
        out: The token data set to write.
        meds: What the shards were made from.
        tokenizer: What they were made with.
        overwrite: Replace a token data set that is there.
        mark: A file by which `is_sealed` knows `out` again.
        stretch_events: How many are put in order at a time, or one output shard.

    Raises:
        UserError: If there is nothing to seal, a subject is in two shards, or `out` is taken.
    """
    files = files_below(shards, ".parquet")
    if not files:
        raise UserError(f"{shards} holds no token shards")
    config, schema = tokenizer.config, _schema(tokenizer)
    with new_artifact(out, TOKENS, overwrite=overwrite, inputs=[meds]) as directory:
        tokenizer.save(directory)
        plan = _plan(files, read_splits(meds, seed=config.seed), config, stretch_events)
        scratch = directory / _SCRATCH
        scratch.mkdir()
        _deal(files, plan, schema, scratch)
        rows = {VOCAB: len(tokenizer)}
        for i, stretch in enumerate(plan.stretches):
            rows |= _write(stretch, scratch / str(i), directory)
        shutil.rmtree(scratch)
        write_coverage(directory, plan.coverage)
        seal(
            directory,
            TOKENS,
            producer=PRODUCER,
            config=to_dict(config),
            seed=config.seed,
            inputs={"meds": raw_source(meds, contract=MEDS)},
            rows=rows,
        )
        if mark:
            mark.write_text(sha256(directory / MANIFEST), encoding="utf-8")


def is_sealed(out: Path, mark: Path) -> bool:
    """Whether `out` is what `seal_shards` made with this mark, before it was killed or later."""
    sealed = (out / MANIFEST).is_file() and mark.is_file()
    return sealed and sha256(out / MANIFEST) == mark.read_text(encoding="utf-8")


def _plan(files: list[Path], splits: Splits, config: TokenizeConfig, stretch_events: int) -> _Plan:
    """Decide the shards from who is in which file, with how many events.

    Raises:
        UserError: If a subject is in two files.
    """
    subjects, lengths, found = [], [], []
    total: list[dict[str, npt.NDArray[np.int64]]] = [{} for _ in SPLITS]
    for file in files:
        table = pq.read_table(file, columns=["subject_id", _NAMES, _EVENTS])
        subject = table["subject_id"].to_numpy()
        split = splits.of(subject)
        for i, counted in enumerate(total):
            _add_families(counted, table.filter(pa.array(split == i)))
        subjects.append(subject)
        lengths.append(_events(table))
        found.append(split)
    subject, length, split = (np.concatenate(x) for x in (subjects, lengths, found))
    splits.of_everyone(subject)  # says which splits lack subjects
    order = np.lexsort([subject, split])
    twice = np.flatnonzero(np.diff(subject[order]) == 0)
    if len(twice):
        raise UserError(f"subject {subject[order[twice[0]]]} is in two shards; each needs one")
    stretches: list[_Stretch] = []
    goes_to = np.zeros(len(subject), np.int64)
    most = max(stretch_events, int(length.sum()) // _MAX_STRETCHES)
    for i in range(len(SPLITS)):
        mine = order[split[order] == i]
        cuts = ranges(length[mine], config.shard.subjects, config.shard.events)
        size = np.array([length[mine[a:b]].sum() for a, b in cuts], np.int64)
        for first, stop in ranges(size, len(cuts), most):
            goes_to[mine[cuts[first][0] : cuts[stop - 1][1]]] = len(stretches)
            shards = tuple(length[mine[a:b]] for a, b in cuts[first:stop])
            stretches.append(_Stretch(i, first, shards))
    coverage = {
        name: families(list(counted), np.reshape(list(counted.values()), (-1, COUNTED)))
        for name, counted in zip(SPLITS, total, strict=True)
    }
    return _Plan(stretches, goes_to, coverage)


def _deal(files: list[Path], plan: _Plan, schema: pa.Schema, scratch: Path) -> None:
    """Write each subject's row to the file of its stretch."""
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    with ExitStack() as stack:
        writers = [
            stack.enter_context(pa.ipc.new_file(scratch / str(i), schema, options=options))
            for i in range(len(plan.stretches))
        ]
        start = 0
        for file in files:
            table = pq.read_table(file, columns=schema.names).cast(schema)
            goes_to = plan.goes_to[start : start + len(table)]
            start += len(table)
            for i in np.unique(goes_to).tolist():
                writers[i].write_table(table.filter(pa.array(goes_to == i)))


def _write(stretch: _Stretch, rows: Path, directory: Path) -> dict[str, int]:
    """Write the shards of a stretch.

    Returns:
        Name -> rows.
    """
    table = pa.ipc.open_file(rows).read_all()
    table = table.take(pc.sort_indices(table["subject_id"])).combine_chunks()
    written, start = {}, 0
    for n, length in enumerate(stretch.lengths, stretch.first):
        name = shard_name(SPLITS[stretch.split], n)
        shard = table.slice(start, len(length))
        written[name] = write_shard(directory / name, _groups(shard, length))
        start += len(length)
    return written


def _groups(shard: pa.Table, length: npt.NDArray[np.int64]) -> Iterator[pa.Table]:
    for a, b in ranges(length, GROUP_SUBJECTS, GROUP_EVENTS):
        yield shard.slice(a, b - a)


def with_families(table: pa.Table, made: Sequences, names: list[str]) -> pa.Table:
    """Token columns with how many events of each family a subject has; `seal_shards` counts them.

    Args:
        table: One row a subject.
        made: What the table is of.
        names: Of the F families.
    """
    n, f = made.families.shape[:2]
    for name, values, width in (
        (_NAMES, pa.array(names * n, pa.string()), f),
        (_EVENTS, pa.array(made.families.ravel()), COUNTED * f),
    ):
        offsets = pa.array(np.arange(n + 1, dtype=np.int32) * np.int32(width))
        table = table.append_column(name, pa.ListArray.from_arrays(offsets, values))
    return table


def _events(table: pa.Table) -> npt.NDArray[np.int64]:
    """[N] events of each subject: told and excluded."""
    events = table[_EVENTS].combine_chunks()
    row = pc.list_parent_indices(events).to_numpy()[::COUNTED]
    counted = pc.list_flatten(events).to_numpy().reshape(-1, COUNTED)
    total = np.zeros(len(table), np.int64)
    np.add.at(total, row, counted[:, 0] + counted[:, 2])
    return total


def _add_families(total: dict[str, npt.NDArray[np.int64]], table: pa.Table) -> None:
    """Add what the subjects of a table have of each family."""
    encoded = pc.list_flatten(table[_NAMES].combine_chunks()).dictionary_encode()
    counted = pc.list_flatten(table[_EVENTS].combine_chunks()).to_numpy().reshape(-1, COUNTED)
    name = encoded.indices.to_numpy()
    for i, family in enumerate(encoded.dictionary.to_pylist()):
        total[family] = total.get(family, np.zeros(COUNTED, np.int64)) + counted[name == i].sum(
            axis=0
        )


def _schema(tokenizer: Tokenizer) -> pa.Schema:
    none = np.zeros(0)
    has_segment = tokenizer.config.scheme.visits != "none"
    empty = Sequences(
        subject_id=none.astype(np.int64),
        offsets=np.zeros(1, np.int64),
        token=none.astype(np.uint32),
        time=none.astype(np.int64),
        age=none.astype(np.float32),
        visit=none.astype(np.uint16),
        segment=none.astype(np.uint8) if has_segment else None,
        families=np.zeros((0, 0, COUNTED), np.int64),
    )
    return to_table(empty, len(tokenizer)).schema
