"""Token shards of any layout to one sealed `tokens/1`, as the in-process driver writes it."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ehr_tokenize.coverage import Family, families, write_coverage
from ehr_tokenize.driver import PRODUCER, shard_name
from ehr_tokenize.events import ranges
from ehr_tokenize.meds import CONTRACT, SPLITS, assign_splits, read_splits
from ehr_tokenize.sequences import Sequences
from ehr_tokenize.tokenizer import VOCAB, Tokenizer
from ehr_tokenize.writer import GROUP_EVENTS, GROUP_SUBJECTS, to_table, write_shard
from ehr_tracking.config import to_dict
from ehr_tracking.contracts import TOKENS
from ehr_tracking.errors import UserError
from ehr_tracking.manifest import MANIFEST, new_artifact, raw_source, seal, sha256

SEALED = ".ehr_tokenize.sealed"
"""In a pipeline's `output_dir`: the SHA-256 of the manifest that was sealed."""
_NAMES = "ehr/families"
_EVENTS = "ehr/events"


def seal_shards(
    shards: Path,
    out: Path,
    *,
    meds: Path,
    tokenizer: Tokenizer,
    overwrite: bool = False,
    mark: Path | None = None,
) -> None:
    """Order subjects, cut them into shards, and seal. Memory holds the tokens of one split.

    Args:
        shards: `**/*.parquet` in the columns of `tokens/1`.
        out: The token data set to write.
        meds: What the shards were made from.
        tokenizer: What they were made with.
        overwrite: Replace a token data set that is there.
        mark: A file by which `is_sealed` knows `out` again.

    Raises:
        UserError: If there is nothing to seal, a subject is in two shards, or `out` is taken.
    """
    files = sorted(shards.glob("**/*.parquet"))
    if not files:
        raise UserError(f"{shards} holds no token shards")
    named, limit = read_splits(meds), tokenizer.config.shard
    schema = _schema(tokenizer)
    with new_artifact(out, overwrite=overwrite) as directory:
        tokenizer.save(directory)
        rows, coverage = {VOCAB: len(tokenizer)}, {}
        for i, split in enumerate(SPLITS):
            table = _read_split(files, schema, named, tokenizer.config.seed, i)
            length, coverage[split] = _counts(table)
            table = table.drop_columns([_NAMES, _EVENTS])
            for n, (a, b) in enumerate(ranges(length, limit.subjects, limit.events)):
                name = shard_name(split, n)
                groups = ranges(length[a:b], GROUP_SUBJECTS, GROUP_EVENTS)
                parts = (table.slice(a + c, d - c) for c, d in groups)
                rows[name] = write_shard(directory / name, parts)
        write_coverage(directory, coverage)
        seal(
            directory,
            TOKENS,
            producer=PRODUCER,
            config=to_dict(tokenizer.config),
            seed=tokenizer.config.seed,
            inputs={"meds": raw_source(meds, contract=CONTRACT)},
            rows=rows,
        )
        if mark:
            mark.write_text(sha256(directory / MANIFEST), encoding="utf-8")


def is_sealed(out: Path, mark: Path) -> bool:
    """Whether `out` is what `seal_shards` made with this mark, before it was killed or later."""
    sealed = (out / MANIFEST).is_file() and mark.is_file()
    return sealed and sha256(out / MANIFEST) == mark.read_text(encoding="utf-8")


def _read_split(
    files: list[Path], schema: pa.Schema, named: dict[int, str] | None, seed: int, split: int
) -> pa.Table:
    tables = [schema.empty_table()]
    for file in files:
        table = pq.read_table(file)
        mask = assign_splits(table["subject_id"].to_numpy(), named, seed) == split
        tables.append(table.filter(pa.array(mask)).cast(schema))
    table = pa.concat_tables(tables)
    table = table.take(pc.sort_indices(table["subject_id"])).combine_chunks()
    subject = table["subject_id"].to_numpy()
    twice = np.flatnonzero(np.diff(subject) == 0)
    if len(twice):
        raise UserError(f"subject {subject[twice[0]]} is in two shards; each needs one")
    return table


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
        (_EVENTS, pa.array(made.families.ravel()), 3 * f),
    ):
        offsets = pa.array(np.arange(n + 1, dtype=np.int32) * np.int32(width))
        table = table.append_column(name, pa.ListArray.from_arrays(offsets, values))
    return table


def _counts(table: pa.Table) -> tuple[npt.NDArray[np.int64], list[Family]]:
    """[N] events of each subject, and the families of all."""
    total: dict[str, npt.NDArray[np.int64]] = {}
    length = []
    for names, flat in zip(*(table[c].to_pylist() for c in [_NAMES, _EVENTS]), strict=True):
        counted = np.array(flat, np.int64).reshape(-1, 3)
        length.append(int(counted[:, [0, 2]].sum()))
        for name, row in zip(names, counted, strict=True):
            total[name] = total.get(name, 0) + row
    found = np.stack(list(total.values())) if total else np.zeros((0, 3), np.int64)
    return np.array(length, np.int64), families(list(total), found)


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
        families=np.zeros((0, 0, 3), np.int64),
    )
    return with_families(to_table(empty, len(tokenizer)), empty, []).schema
