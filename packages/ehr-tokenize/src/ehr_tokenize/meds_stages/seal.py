"""Token shards of any layout to one sealed `tokens/1`, as the in-process driver writes it."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ehr_tokenize.driver import PRODUCER, shard_name
from ehr_tokenize.events import ranges
from ehr_tokenize.meds import CONTRACT, SPLITS, assign_splits, read_splits
from ehr_tokenize.sequences import Sequences
from ehr_tokenize.tokenizer import VOCAB, Tokenizer
from ehr_tokenize.vocabulary import BOS, CLS, SEP
from ehr_tokenize.writer import GROUP_EVENTS, GROUP_SUBJECTS, to_table, write_shard
from ehr_tracking.config import to_dict
from ehr_tracking.contracts import TOKENS
from ehr_tracking.errors import UserError
from ehr_tracking.manifest import new_artifact, raw_source, seal


def seal_shards(
    shards: Path, out: Path, *, meds: Path, tokenizer: Tokenizer, overwrite: bool = False
) -> None:
    """Order subjects, cut them into shards, and seal. Memory holds the tokens of one split.

    Args:
        shards: `**/*.parquet` in the columns of `tokens/1`.
        out: The token data set to write.
        meds: What the shards were made from.
        tokenizer: What they were made with.
        overwrite: Replace a token data set that is there.

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
        rows = {VOCAB: len(tokenizer)}
        for i, split in enumerate(SPLITS):
            table = _read_split(files, schema, named, tokenizer.config.seed, i)
            length = _events(table)
            for n, (a, b) in enumerate(ranges(length, limit.subjects, limit.events)):
                name = shard_name(split, n)
                groups = ranges(length[a:b], GROUP_SUBJECTS, GROUP_EVENTS)
                parts = (table.slice(a + c, d - c) for c, d in groups)
                rows[name] = write_shard(directory / name, parts)
        seal(
            directory,
            TOKENS,
            producer=PRODUCER,
            config=to_dict(tokenizer.config),
            seed=tokenizer.config.seed,
            inputs={"meds": raw_source(meds, contract=CONTRACT)},
            rows=rows,
        )


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


def _events(table: pa.Table) -> npt.NDArray[np.int64]:
    """[N] events of each subject: its tokens but those that the scheme added."""
    if not len(table):
        return np.zeros(0, np.int64)
    lists = table["token"].combine_chunks()
    event = ~np.isin(lists.flatten().to_numpy(), (BOS, CLS, SEP))
    return np.add.reduceat(event.astype(np.int64), lists.offsets.to_numpy()[:-1])


def _schema(tokenizer: Tokenizer) -> pa.Schema:
    none = np.zeros(0)
    segment = none.astype(np.uint8) if tokenizer.config.scheme.kind == "visits" else None
    empty = Sequences(
        subject_id=none.astype(np.int64),
        offsets=np.zeros(1, np.int64),
        token=none.astype(np.uint32),
        time=none.astype(np.int64),
        age=none.astype(np.float32),
        visit=none.astype(np.uint16),
        segment=segment,
    )
    return to_table(empty, len(tokenizer)).schema
