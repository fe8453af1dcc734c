"""A fitted tokenizer: `tokenizer.json` and `vocab.parquet`, and nothing else, in memory and on disk."""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from ehr_tokenize.config import FITTED, TokenizeConfig, with_fitted
from ehr_tokenize.numeric import Bins
from ehr_tokenize.vocabulary import SPECIALS, UNK, CodeInfo, Token
from ehr_tracking.config import to_dict, validate
from ehr_tracking.contracts import VOCABULARY_COLUMNS, Contract, ContractError
from ehr_tracking.manifest import MANIFEST, check_file, load_manifest

TOKENIZER = "tokenizer.json"
VOCAB = "vocab.parquet"
_FORMAT = 1
_TABLE = Contract("tokens", 1, "its vocabulary", VOCABULARY_COLUMNS)
_SCHEMA = pa.schema(
    [
        ("id", pa.int32()),
        ("token", pa.string()),
        ("kind", pa.string()),
        ("code", pa.string()),
        ("bin", pa.int32()),
        ("lower", pa.float32()),
        ("upper", pa.float32()),
        ("count", pa.int64()),
        ("subjects", pa.int64()),
        ("description", pa.string()),
        ("parents", pa.list_(pa.string())),
    ]
)
_FIELDS = ("kind", "code", "bin", "lower", "upper", "count", "subjects")
"""Of a `Token`, and columns of the table."""
_BIRTH = re.compile(r"^MEDS_BIRTH(//|$)")


@dataclass(frozen=True, slots=True, eq=False)
class Binding:
    """A tokenizer applied to one list of C codes: lookups by code index."""

    bins: Bins
    token: npt.NDArray[np.uint32]
    """[slots] row of the vocabulary, [UNK] for what is not in it."""
    birth: npt.NDArray[np.bool_]
    """[C]"""
    start: npt.NDArray[np.bool_]
    """[C] begins a visit"""


@dataclass(frozen=True, eq=False)
class Tokenizer:
    """All that is needed to tokenise new subjects identically."""

    config: TokenizeConfig
    """Of which the fields in `config.FITTED` belong to the tokenizer."""
    tokens: Sequence[Token]
    edges: Mapping[str, npt.NDArray[np.float32]]
    """Inner bin edges of each code that has bins, ascending."""

    def __len__(self) -> int:
        """Size of the vocabulary, specials included."""
        return len(self.tokens)

    def bind(self, codes: Sequence[str]) -> Binding:
        """Look up a list of codes once, so that events need array look-ups only."""
        ids = {(t.code, t.bin or 0): i for i, t in enumerate(self.tokens) if t.code is not None}
        none = np.zeros(0, np.float32)
        per_code = [self.edges.get(c, none) for c in codes]
        start = [re.compile(p) for p in self.config.visits.start_codes]
        return Binding(
            bins=Bins.of(per_code),
            token=np.array(
                [
                    ids.get((code, number), UNK)
                    for code, edges in zip(codes, per_code, strict=True)
                    for number in range(len(edges) + 2 if len(edges) else 1)
                ],
                np.uint32,
            ),
            birth=np.array([bool(_BIRTH.search(c)) for c in codes], bool),
            start=np.array([any(p.search(c) for p in start) for c in codes], bool),
        )

    def save(self, directory: Path) -> None:
        """Write both files."""
        pq.write_table(self._table(), directory / VOCAB, compression="zstd")
        config = to_dict(self.config)
        tree = {
            "format": _FORMAT,
            "config": {name: config[name] for name in FITTED},
            "vocab_sha256": hashlib.sha256((directory / VOCAB).read_bytes()).hexdigest(),
            "edges": {code: [float(e) for e in self.edges[code]] for code in sorted(self.edges)},
        }
        (directory / TOKENIZER).write_text(
            json.dumps(tree, ensure_ascii=False, indent=1) + "\n", encoding="utf-8"
        )

    @classmethod
    def load(cls, directory: Path) -> Self:
        """Read a tokenizer from a token data set, a checkpoint, or a folder with its two files.

        Raises:
            ContractError: If a file is missing, changed, of another format, or of another fit.
        """
        for name in (TOKENIZER, VOCAB):
            if not (directory / name).is_file():
                raise ContractError(f"{directory} holds no tokenizer: it has no {name}")
        if (directory / MANIFEST).is_file():
            manifest = load_manifest(directory)
            for name in (TOKENIZER, VOCAB):
                check_file(directory, manifest, name)
        tree = _read_json(directory / TOKENIZER)
        data = (directory / VOCAB).read_bytes()
        if hashlib.sha256(data).hexdigest() != tree["vocab_sha256"]:
            raise ContractError(
                f"{directory / VOCAB} is not the vocabulary that {TOKENIZER} was fitted with"
            )
        table = pq.read_table(pa.BufferReader(data))
        _TABLE.check({f.name: str(f.type) for f in table.schema}, where=str(directory / VOCAB))
        tokens = [_from_row(row) for row in table.to_pylist()]
        if tuple(t.text for t in tokens[: len(SPECIALS)]) != SPECIALS:
            raise ContractError(f"{directory / VOCAB} does not begin with {' '.join(SPECIALS)}")
        fitted = validate(TokenizeConfig, tree["config"], where=str(directory / TOKENIZER))
        return cls(
            config=with_fitted(TokenizeConfig(), fitted),
            tokens=tokens,
            edges={code: np.array(e, np.float32) for code, e in tree["edges"].items()},
        )

    def _table(self) -> pa.Table:
        tokens = self.tokens
        columns = {
            "id": list(range(len(tokens))),
            "token": [t.text for t in tokens],
            **{name: [getattr(t, name) for t in tokens] for name in _FIELDS},
            "description": [t.info.description for t in tokens],
            "parents": [t.info.parents for t in tokens],
        }
        return pa.table(columns, schema=_SCHEMA)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as e:
        raise ContractError(f"{path} is damaged: {e}") from None
    if not isinstance(tree, dict) or tree.get("format") != _FORMAT:
        found = tree.get("format") if isinstance(tree, dict) else None
        raise ContractError(f"{path} has format {found}, this version reads format {_FORMAT}")
    missing = {"config", "vocab_sha256", "edges"} - tree.keys()
    if missing:
        raise ContractError(f"{path} is damaged: it has no {', '.join(sorted(missing))}")
    return tree


def _from_row(row: dict[str, Any]) -> Token:
    info = CodeInfo(row["description"], row["parents"])
    return Token(text=row["token"], **{name: row[name] for name in _FIELDS}, info=info)
