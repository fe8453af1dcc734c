"""A dictionary that others fitted, such as CLMBR's, as a tokenizer: its codes, texts and ranges of values.

Two forms are read: FEMR's dictionary as JSON (`{"regular": [{"type", "code_string", "val_start",
"val_end", "text_string"}]}`) and hf_ehr's `tokenizer_config.json` (`{"tokens": [{"type", "code",
"tokenization"}]}`). Tokens keep their order, and `vocab.parquet` says of each which row of the dictionary it was; statistics
and ancestors are not read. Models of hf_ehr are fed `[CLS][BOS]` first, so its tokenizers are made so.
"""

import itertools
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ehr_tokenize.codes.keys import clean
from ehr_tokenize.config import ClmbrScheme, Lead, NumericConfig, TokenizeConfig
from ehr_tokenize.meds.output import new_dataset
from ehr_tokenize.scheme.words import Fitted
from ehr_tokenize.tokenizer.tokenizer import Tokenizer
from ehr_tokenize.tokenizer.vocabulary import Token, with_time
from ehr_tracking.arrow.meds import CodeInfo
from ehr_tracking.contracts import SPECIALS
from ehr_tracking.errors import UserError
from ehr_tracking.files import PathLike

_FEMR = {"code": "code", "numeric": "value", "text": "category", "unused": "", 0: "code", 1: "value",
         2: "category", 3: ""}  # fmt: skip
_HF_EHR = {"code": "code", "numerical_range": "value", "categorical": "category"}
_HF_EHR_ROWS = "tokens"
_NO_UNIT = (None, "None", "")
_TEXT = "of texts that are blank or of more than 100 characters, which no event has"
_WIDTH = "of ranges without width"
_UNUSED = "that the dictionary says are unused"


class _Entry(NamedTuple):
    """One token of a dictionary."""

    where: str
    row: int
    code: str
    kind: str
    """code, value, category; empty where it is unused."""
    lower: float = -np.inf
    upper: float = np.inf
    text: str = ""
    description: str | None = None


@dataclass(frozen=True, slots=True)
class FixedTokenizer:
    """What was made of a dictionary."""

    out: Path
    tokenizer: Tokenizer
    left_out: Mapping[str, int]
    """Why -> entries."""

    def lines(self) -> list[str]:
        """For a terminal."""
        kinds = Counter(t.kind for t in self.tokenizer.tokens)
        counts = f"{kinds['code']:,} codes, {kinds['category']:,} texts, {kinds['value']:,} ranges"
        return [
            *(f"left out {n:,} entries {why}" for why, n in sorted(self.left_out.items())),
            f"{self.out}: {len(self.tokenizer):,} tokens in the vocabulary, of these {counts}",
        ]


def from_dictionary(source: PathLike, out: PathLike, *, size: int | None = None) -> FixedTokenizer:
    """Write the two files of a tokenizer, in the scheme `clmbr`, for `--tokenizer`.

    Args:
        source: JSON in one of the two forms.
        out: Directory; must not exist.
        size: How many entries to read, the first ones; None: all.

    Raises:
        UserError: If the file is of neither form, two entries are the same token, ranges of a code
            overlap, or `out` exists.
    """
    source, out = Path(source), Path(out)
    left_out: Counter[str] = Counter()
    tree = _tree(source)
    entries = list(_kept(_entries(source, tree, size), left_out))
    edges = _edges(entries)
    tokens = [Token(text, "special") for text in SPECIALS]
    first: dict[str, str] = dict.fromkeys(SPECIALS, "the special tokens")
    for entry in entries:
        token = _token(entry, edges)
        if token.text in first:
            raise UserError(
                f"{entry.where}: {token.text!r} is there twice, first in {first[token.text]}"
            )
        first[token.text] = entry.where
        tokens.append(token)
    if len(tokens) == len(SPECIALS):
        raise UserError(f"{source} holds no token")
    n_bins = max((len(e) + 1 for e in edges.values()), default=1)
    lead: Lead = "[CLS][BOS]" if _HF_EHR_ROWS in tree else "[BOS]"
    config = TokenizeConfig(
        scheme=ClmbrScheme(lead=lead), numeric=NumericConfig(n_bins=min(n_bins, 1000))
    )
    tokenizer = Tokenizer(config, with_time(tokens, {}, config), Fitted(edges))
    with new_dataset(out, overwrite=False) as directory:
        tokenizer.save(directory)
    return FixedTokenizer(out, tokenizer, left_out)


def _tree(source: Path) -> dict[str, Any]:
    if not source.is_file():
        raise UserError(f"{source}: no such file")
    try:
        tree = json.loads(source.read_bytes())
    except (ValueError, RecursionError) as e:
        raise UserError(f"{source}: not JSON: {e}") from None
    return tree if isinstance(tree, dict) else {}


def _entries(source: Path, tree: dict[str, Any], size: int | None) -> Iterator[_Entry]:
    for name, read in (("regular", _femr), (_HF_EHR_ROWS, _hf_ehr)):
        rows = tree.get(name)
        if isinstance(rows, list):
            for i, row in enumerate(rows[:size]):
                where = f"{source} {name}[{i}]"
                if not isinstance(row, dict):
                    raise UserError(f"{where}: not an object")
                yield from read(where, i, row)
            return
    raise UserError(
        f'{source}: expected {{"regular": [...]}} (FEMR) or {{"tokens": [...]}} (hf_ehr)'
    )


def _femr(where: str, number: int, row: dict[str, Any]) -> Iterator[_Entry]:
    kind = _kind(where, row, _FEMR)
    code = _string(where, row, "code_string") if kind else ""
    lower, upper = -np.inf, np.inf
    if kind == "value":
        lower, upper = (_number(where, row, name) for name in ("val_start", "val_end"))
    text = _string(where, row, "text_string") if kind == "category" else ""
    yield _Entry(where, number, code, kind, lower, upper, text)


def _hf_ehr(where: str, number: int, row: dict[str, Any]) -> Iterator[_Entry]:
    kind = _kind(where, row, _HF_EHR)
    code, how = _string(where, row, "code"), row.get("tokenization") or {}
    if not isinstance(how, dict):
        raise UserError(f"{where}: tokenization is no object")
    description = row.get("description")
    described = str(description) if description else None
    entry = _Entry(where, number, code, kind, description=described)
    if kind == "category":
        for text in how.get("categories") or []:
            yield entry._replace(text=str(text))
        return
    if kind == "value":
        if how.get("unit") not in _NO_UNIT:
            raise UserError(
                f"{where}: a range of one unit; fit the scheme cookbook for bins by unit"
            )
        lower, upper = (_number(where, how, name) for name in ("range_start", "range_end"))
        entry = entry._replace(lower=lower, upper=upper)
    yield entry


def _kept(entries: Iterator[_Entry], left_out: Counter[str]) -> Iterator[_Entry]:
    """Those that some event can have; a range that holds every value is its plain code."""
    for entry in entries:
        text = clean(entry.text)
        if not entry.kind:
            left_out[_UNUSED] += 1
        elif entry.kind == "category" and not text:
            left_out[_TEXT] += 1
        elif entry.kind == "value" and not entry.lower < entry.upper:
            left_out[_WIDTH] += 1
        elif entry.kind == "value" and np.isinf(entry.lower) and np.isinf(entry.upper):
            yield entry._replace(kind="code")
        else:
            yield entry._replace(text=text)


def _edges(entries: Sequence[_Entry]) -> dict[str, npt.NDArray[np.float32]]:
    """Inner edges of each code with ranges; between two ranges that do not touch lies a bin of neither."""
    ranges: dict[str, list[_Entry]] = {}
    for entry in entries:
        if entry.kind == "value":
            ranges.setdefault(entry.code, []).append(entry)
    edges = {}
    for code, found in ranges.items():
        found.sort(key=lambda e: (e.lower, e.upper))
        for a, b in itertools.pairwise(found):
            if b.lower < a.upper:
                raise UserError(
                    f"{b.where}: its range overlaps that of {a.where}, of the same code"
                )
        bounds = {x for e in found for x in (e.lower, e.upper) if np.isfinite(x)}
        edges[code] = np.array(sorted(bounds), np.float32)
    return edges


def _token(entry: _Entry, edges: Mapping[str, npt.NDArray[np.float32]]) -> Token:
    told: dict[str, Any] = {"info": CodeInfo(entry.description), "origin": entry.row}
    if entry.kind == "code":
        return Token(entry.code, "code", entry.code, **told)
    if entry.kind == "category":
        return Token(f"{entry.code} || {entry.text}", "category", entry.code, **told)
    number = int(np.searchsorted(edges[entry.code], np.float32(entry.lower), side="right")) + 1
    text = f"{entry.code}//Q{number}"
    return Token(text, "value", entry.code, number, entry.lower, entry.upper, **told)


def _kind(where: str, row: dict[str, Any], kinds: Mapping[Any, str]) -> str:
    found = row.get("type")
    if isinstance(found, bool) or not isinstance(found, str | int) or found not in kinds:
        raise UserError(f"{where}: type is {found!r}, expected one of {', '.join(map(str, kinds))}")
    return kinds[found]


def _string(where: str, row: dict[str, Any], name: str) -> str:
    found = row.get(name)
    if not isinstance(found, str) or (name != "text_string" and not found):
        raise UserError(f"{where}: {name} is {found!r}, expected text")
    return found


def _number(where: str, row: dict[str, Any], name: str) -> float:
    """As float32 has it, since values are; the largest float64 stands for no bound."""
    found = row.get(name)
    if isinstance(found, bool) or not isinstance(found, int | float) or np.isnan(found):
        raise UserError(f"{where}: {name} is {found!r}, expected a number")
    with np.errstate(over="ignore"):
        return float(np.float32(found))
