"""`ehr-models import`: a model that others trained, as a checkpoint of ours."""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from transformers import PreTrainedModel

from ehr_models import __version__
from ehr_models.checkpoint import VOCABULARY, save_checkpoint
from ehr_models.exchange import ehr_fm, hf_ehr
from ehr_models.exchange.rows import relay
from ehr_models.vocabulary import Word, read_vocabulary
from ehr_tracking.contracts import CHECKPOINT, VOCABULARY_COLUMNS
from ehr_tracking.errors import UserError
from ehr_tracking.files import PathLike
from ehr_tracking.manifest import new_artifact, raw_source

_TYPES = {
    "int32": pa.int32(), "int64": pa.int64(), "string": pa.string(), "bool": pa.bool_(),
    "float": pa.float32(), "double": pa.float64(),
    "list<element: string>": pa.list_(pa.string()),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class Taken:
    """What was imported."""

    form: str
    """hf_ehr or EHR_FM."""
    kind: str
    parameters: int
    tokens: int
    """Of ours, the special ones included."""
    left_out: int
    """Rows of theirs that are no token of ours."""


def take(
    given: PathLike, out: PathLike, *, vocabulary: PathLike | None = None, overwrite: bool = False
) -> Taken:
    """Write a model of hf_ehr or EHR_FM as `checkpoint/1`; no code of it is run.

    Args:
        given: A directory of hf_ehr, or a .pt file of EHR_FM.
        out: The checkpoint to write.
        vocabulary: Of hf_ehr: the tokenizer that `ehr-tokenize dictionary` made of its vocabulary.
        overwrite: Replace a checkpoint in `out`.

    Raises:
        UserError: If it is of neither form, damaged, of a kind that cannot be taken, or would have to be
            run to be read; or `out` may not be written.
        ContractError: If the vocabulary cannot be read.
    """
    given, out = Path(given), Path(out)
    read = [given, *([Path(vocabulary)] if vocabulary else [])]
    with (
        new_artifact(out, CHECKPOINT, overwrite=overwrite, inputs=read) as directory,
        tempfile.TemporaryDirectory() as scratch,
    ):
        words_at = Path(scratch)
        form, model, words, rows = _read(given, vocabulary, words_at)
        inputs = {"model": raw_source(given, contract=form.lower())}
        if vocabulary:
            inputs["vocabulary"] = raw_source(Path(vocabulary), contract="tokenizer")
        save_checkpoint(
            directory, model, words_at, metrics={}, producer=f"ehr-models {__version__}",
            config={"imported": form}, seed=None, inputs=inputs,
        )  # fmt: skip
    return Taken(
        form=form,
        kind=model.config.model_type,
        parameters=sum(p.numel() for p in model.parameters()),
        tokens=len(words),
        left_out=rows,
    )


def _read(
    given: Path, vocabulary: PathLike | None, words_at: Path
) -> tuple[str, PreTrainedModel, Sequence[Word], int]:
    """Form, model, words, and how many rows are left out; vocabulary and tokenizer go to `words_at`."""
    if given.is_dir():
        if vocabulary is None:
            raise UserError(
                f"{given}: its vocabulary has to become a tokenizer of ours first: ehr-tokenize dictionary "
                f"{given / hf_ehr.VOCABULARY} --out DIR, and then --vocabulary DIR"
            )
        vocabulary = Path(vocabulary)
        words = read_vocabulary(vocabulary)
        theirs = hf_ehr.read_model(given)
        rows = theirs.config.vocab_size
        origin = hf_ehr.origins(given, words, rows, vocabulary)
        for name in VOCABULARY:
            shutil.copyfile(vocabulary / name, words_at / name)
        return "hf_ehr", relay(theirs, origin), words, rows - len(set(origin))
    if vocabulary is not None:
        raise UserError(f"{given} brings its own vocabulary; leave --vocabulary away")
    if not given.is_file():
        raise UserError(f"{given}: no such file or directory")
    model, words = ehr_fm.read_checkpoint(given)
    _write_words(words, words_at)
    return "EHR_FM", model, words, 0


def _write_words(words: Sequence[Word], directory: Path) -> None:
    """`vocab.parquet`, and a `tokenizer.json` by which an event is the token that its code names."""
    schema = pa.schema([(c.name, _TYPES[c.dtype]) for c in VOCABULARY_COLUMNS])
    columns = {name: [getattr(word, name) for word in words] for name in schema.names}
    path = directory / VOCABULARY[0]
    pq.write_table(pa.table(columns, schema=schema), path, compression="zstd")
    tokenizer = {
        "format": 1,
        "config": {"scheme": {"kind": "joint", "values": "none"}},
        "vocab_sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "edges": {},
    }
    (directory / VOCABULARY[1]).write_text(json.dumps(tokenizer, indent=1) + "\n", encoding="utf-8")
