"""`narratives/1` -> `text_tokens/1`: texts as a language model reads them, kept for every run on them."""
# pyarrow leaves some functions untyped
# mypy: allow-untyped-calls

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from shutil import copyfile
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ehr_models.checkpoint import LANGUAGE, VOCABULARY
from ehr_tracking.contracts import NARRATIVES, SPLITS, TEXT_TOKENS, ContractError
from ehr_tracking.manifest import (
    MANIFEST,
    check_file,
    new_artifact,
    raw_source,
    read_manifest,
    seal,
    source,
)
from ehr_train import PRODUCER
from ehr_train.text.language import Encoder

_ROWS = 1024
_VALUES = ("boolean_value", "integer_value", "float_value", "categorical_value")
_WORDS = pa.schema(
    {
        **{"id": pa.int32(), "token": pa.string(), "kind": pa.string(), "code": pa.string()},
        **{"bin": pa.int32(), "lower": pa.float32(), "upper": pa.float32()},
        **{"count": pa.int64(), "subjects": pa.int64()},
        **{"description": pa.string(), "parents": pa.list_(pa.string())},
    }
)


def narratives_of(directory: Path, task: str | None) -> Path:
    """The file of one task of `narratives/1`, as it was sealed.

    Args:
        directory: The narratives.
        task: Its name; None where there is one.

    Raises:
        ContractError: If there is no such task, or several of which none is named.
    """
    manifest = read_manifest(directory, NARRATIVES, reader=PRODUCER)
    names = sorted(name for name in manifest.files if name.endswith("narratives.parquet"))
    tasks = {name.rpartition("/")[0]: name for name in names}
    chosen = next(iter(tasks)) if task is None and len(tasks) == 1 else task
    if chosen not in tasks:
        what = "several tasks" if task is None else f"no task {task}"
        raise ContractError(
            f"{directory} holds {what}; name one of {', '.join(map(repr, tasks))} with --task"
        )
    path = check_file(directory, manifest, tasks[chosen])
    schema = pq.read_schema(path)
    NARRATIVES.check({f.name: str(f.type) for f in schema}, where=str(path))
    return path


def require_labels(path: Path, objective: str) -> None:
    """Refuse narratives that say nothing of an outcome.

    Raises:
        ContractError: Naming the objective.
    """
    present = [n for n in (*_VALUES, "duration_days") if n in pq.read_schema(path).names]
    table = pq.read_table(path, columns=present)
    if not any(table[name].null_count < len(table) for name in present):
        raise ContractError(
            f"{path} holds no labels, which objective {objective} learns from: write narratives with "
            "ehr-tokenize narrate --labels, or take objective.kind=clm"
        )


def text_tokens(
    narratives: Path, path: Path, model: Path, encode: Encoder, room: Path, how: Mapping[str, Any]
) -> Path:
    """The `text_tokens/1` of one task, made the first time it is asked for.

    Args:
        narratives: Sealed.
        path: The file of the task in it.
        model: Where the tokenizer lies: a directory of transformers, or a checkpoint of ours.
        encode: With this tokenizer.
        room: Where such sets are kept.
        how: What of the config decides the tokens.

    Raises:
        ContractError: If there is no text.
    """
    lineage = source(narratives)
    own = (model / MANIFEST).is_file()
    of_model = source(model) if own else None
    state = encode.tokenizer.backend_tokenizer.to_str()
    task = path.parent.relative_to(narratives).as_posix()
    around = [encode.lead, encode.tail, *encode.behind]
    said = {"task": task, "around": around, "ends": "records", **how}
    parts = [lineage.fingerprint, state, json.dumps(said, sort_keys=True)]
    if own:
        parts.append((model / "vocab.parquet").read_bytes().hex())
    key = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
    out = room / f"tokens-{key}"
    if (out / MANIFEST).is_file():
        return out
    with new_artifact(out, TEXT_TOKENS, inputs=[narratives]) as partial:
        if own:
            for name in (*VOCABULARY, *(n for n in LANGUAGE if (model / n).is_file())):
                copyfile(model / name, partial / name)
        else:
            encode.tokenizer.save_pretrained(partial)
            _write_vocabulary(partial / "vocab.parquet", encode.tokenizer)
        given = of_model or raw_source(partial / "tokenizer.json", contract="tokenizer")
        rows = _write(partial, path, encode)
        seal(
            partial,
            TEXT_TOKENS,
            producer=PRODUCER,
            config=said,
            seed=None,
            inputs={"narratives": lineage, "tokenizer": given},
            rows=rows,
        )
    return out


def _write_vocabulary(path: Path, tokenizer: Any) -> None:  # noqa: ANN401 -- any tokenizer of transformers
    special = set(tokenizer.all_special_ids)
    names = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    words = [
        {
            **{"id": i, "token": f"[unused {i}]" if name is None else name},
            **{"kind": "special" if i in special else "text", "count": 0, "subjects": 0},
        }
        for i, name in enumerate(names)
    ]
    pq.write_table(pa.Table.from_pylist(words, _WORDS), path)


def _write(directory: Path, path: Path, encode: Encoder) -> dict[str, int]:
    """The shard of each split; rows by path."""
    rows: dict[str, int] = {}
    kind = pa.uint16() if len(encode.tokenizer) <= 2**16 else pa.uint32()
    with ExitStack() as stack:
        writers: dict[str, pq.ParquetWriter] = {}
        for split, table in _pieces(path, encode, kind):
            name = f"{split}/0.parquet"
            if split not in writers:
                (directory / split).mkdir()
                writers[split] = stack.enter_context(
                    pq.ParquetWriter(directory / name, table.schema, compression="zstd")
                )
            writers[split].write_table(table)
            rows[name] = rows.get(name, 0) + len(table)
    if not rows:
        raise ContractError(f"{path} holds no text")
    return rows


def _pieces(path: Path, encode: Encoder, kind: pa.DataType) -> Iterator[tuple[str, pa.Table]]:
    """The texts of each split, some at a time."""
    columns = ["subject_id", "prediction_time", "split", "text"]
    ends, done = _ends(path), 0
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(_ROWS, columns=columns):
            mine = pa.array(ends[done : done + len(batch)])
            table = pa.Table.from_batches([batch]).append_column("end", mine)
            done += len(batch)
            for split in SPLITS:
                some = table.filter(pc.equal(table["split"], split))
                if len(some):
                    yield split, _piece(some, encode, kind)


def _ends(path: Path) -> npt.NDArray[np.bool_]:
    """Which rows end their text: all, but for the pieces of a record that others follow."""
    if "piece" not in pq.read_schema(path).names:
        return np.ones(pq.read_metadata(path).num_rows, bool)
    table = pq.read_table(path, columns=["subject_id", "piece"])
    subject, piece = (table[name].to_numpy() for name in table.column_names)
    goes_on = (subject[1:] == subject[:-1]) & (piece[1:] == piece[:-1] + 1)
    return np.append(~goes_on, True)


def _piece(table: pa.Table, encode: Encoder, kind: pa.DataType) -> pa.Table:
    encoded = encode(table["text"].fill_null("").to_pylist(), table["end"].to_pylist())
    lengths = np.array([len(each) for each in encoded.ids], np.int64)
    offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32))
    flat = np.concatenate([np.asarray(each, np.int64) for each in encoded.ids])
    moment = pc.fill_null(table["prediction_time"].cast(pa.int64()), 0).to_numpy()
    place = np.arange(len(flat)) - np.repeat(offsets.to_numpy()[:-1], lengths)
    pinned = (place < encoded.pinned) & (place < np.repeat(lengths, lengths) - 1)
    time = pa.array(np.repeat(moment, lengths), pa.timestamp("us"), mask=pinned)
    zeros = np.zeros(len(flat))

    def lists(values: pa.Array) -> pa.Array:
        return pa.ListArray.from_arrays(offsets, values)

    return pa.table(
        {
            "subject_id": table["subject_id"].cast(pa.int64()),
            "token": lists(pa.array(flat, kind)),
            "time": lists(time),
            "age": lists(pa.array(zeros.astype(np.float32))),
            "visit": lists(pa.array(zeros.astype(np.uint16))),
        }
    )
