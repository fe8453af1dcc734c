"""A fitted tokenizer: `tokenizer.json` and `vocab.parquet`, and nothing else, in memory and on disk."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np

from ehr_tokenize.config import TokenizeConfig
from ehr_tokenize.scheme.binding import Binding, bind
from ehr_tokenize.scheme.intake import Intake
from ehr_tokenize.scheme.words import Fitted, Word
from ehr_tokenize.tokenizer.decode import DatedEvent, Teller, is_marked, say
from ehr_tokenize.tokenizer.encode import Encoded, Encoder
from ehr_tokenize.tokenizer.vocabulary import (
    VOCAB,
    Token,
    read_vocabulary,
    with_time,
    write_vocabulary,
)
from ehr_tracking.arrow.meds import CodeInfo
from ehr_tracking.config import ConfigError, to_dict, validate
from ehr_tracking.contracts import ContractError
from ehr_tracking.files import PathLike
from ehr_tracking.manifest import MANIFEST, check_file, load_manifest

TOKENIZER = "tokenizer.json"
_FORMAT = 1
FITTED = (
    "scheme",
    "numeric",
    "vocabulary",
    "visits",
    "hierarchy",
    "subwords",
    "maps",
    "delay",
    "order",
)
"""The fields that belong to a fitted tokenizer; the others may differ from run to run."""


@dataclass(frozen=True, eq=False)
class Tokenizer:
    """All that is needed to tokenise new subjects identically."""

    config: TokenizeConfig
    """Of which the fields in `FITTED` belong to the tokenizer."""
    tokens: Sequence[Token]
    fitted: Fitted

    def __len__(self) -> int:
        """Size of the vocabulary, specials included."""
        return len(self.tokens)

    def bind(self, codes: Sequence[str], infos: Mapping[str, CodeInfo] | None = None) -> Binding:
        """Look up a list of codes once, so that events need array look-ups only.

        Args:
            codes: Of the data to come.
            infos: From codes.parquet; read only where tokens are made of descriptions.
        """
        found = descriptions(infos or {}, self.config)
        intake = Intake.of(codes, self.config)
        return self.bind_words(*bind(intake, self.config, self.fitted, found))

    def bind_words(self, binding: Binding, words: Sequence[Word]) -> Binding:
        """A binding whose tokens index words, with rows of the vocabulary in their place."""
        limit = self.config.vocabulary
        falls_back = limit.min_count > 1 or limit.min_subjects > 1
        return binding.to_vocabulary(words, self._ids, falls_back=falls_back)

    def __call__(self, events: object) -> Encoded:
        """Tokens of events in memory, the same as a data set of them would get.

        Args:
            events: Of one subject, a list of `Event`s, of dicts with the columns of MEDS or of tuples
                (time, code, numeric_value, text_value) from which the end may be missing; of several, a
                list of such lists; or a polars or pyarrow table in MEDS columns, one subject if it
                has no subject_id. In the order of time, without a time first.

        Raises:
            UserError: If events are out of order, or a code is null, or a column is mistyped.
        """
        return self._encoder(events)

    @cached_property
    def _ids(self) -> dict[tuple[str, str, str | None, int], int]:
        return {(t.text, t.kind, t.code, t.bin or 0): i for i, t in enumerate(self.tokens)}

    @cached_property
    def _encoder(self) -> Encoder:
        return Encoder(self.config, [t.text for t in self.tokens], self.bind)

    def decode(self, ids: Iterable[int]) -> list[str]:
        """Each token as a clinician can read it.

        Args:
            ids: Rows of the vocabulary.
        """
        return [say(self.tokens[i]) for i in ids]

    def decode_timeline(self, ids: Iterable[int], start: datetime) -> list[DatedEvent]:
        """Tokens as dated events.

        A clock begins at `start`; a time token puts it forward by the mean of the lengths of time
        that this token told in train. Levels of a code, and its value, become one event.

        Args:
            ids: Rows of the vocabulary, in order.
            start: Time of the first event.
        """
        described = {
            t.code: t.info.description for t in self.tokens if t.code and t.info.description
        }
        fitted = self.fitted
        marked = any(is_marked(t) for t in self.tokens)
        told = {**described, **fitted.descriptions}
        teller = Teller(fitted.edges, told, marked)
        return teller.tell([self.tokens[i] for i in ids], start)

    def save(self, directory: PathLike) -> None:
        """Write both files."""
        directory = Path(directory)
        sha256 = write_vocabulary(self.tokens, directory)
        config = to_dict(self.config)
        tree = {
            "format": _FORMAT,
            "config": {name: config[name] for name in FITTED},
            "vocab_sha256": sha256,
            **fitted_to_dict(self.fitted),
        }
        (directory / TOKENIZER).write_text(
            json.dumps(tree, ensure_ascii=False, indent=1) + "\n", encoding="utf-8"
        )

    @classmethod
    def from_pretrained(cls, directory: PathLike) -> Self:
        """Read a tokenizer from a token data set, a checkpoint, or a folder with its two files.

        Raises:
            ContractError: If a file is missing, changed, of another format, or of another fit.
        """
        directory = Path(directory)
        for name in (TOKENIZER, VOCAB):
            if not (directory / name).is_file():
                raise ContractError(f"{directory} holds no tokenizer: it has no {name}")
        if (directory / MANIFEST).is_file():
            manifest = load_manifest(directory)
            for name in (TOKENIZER, VOCAB):
                check_file(directory, manifest, name)
        tree = _read_json(directory / TOKENIZER)
        tokens, timed = read_vocabulary(directory / VOCAB, tree["vocab_sha256"], TOKENIZER)
        fitted = validate(TokenizeConfig, tree["config"], where=str(directory / TOKENIZER))
        if not timed:  # of an older version, which kept lengths of time in the other file
            tokens = with_time(tokens, tree.get("seconds", {}), fitted)
        return cls(
            config=with_fitted(TokenizeConfig(), fitted),
            tokens=tokens,
            fitted=fitted_from_dict(tree),
        )


def with_fitted(config: TokenizeConfig, fitted: TokenizeConfig) -> TokenizeConfig:
    """`config` with the fields that a fitted tokenizer brings.

    Examples:
        >>> from ehr_tokenize.config import VisitsScheme
        >>> with_fitted(TokenizeConfig(seed=3), TokenizeConfig(scheme=VisitsScheme())).scheme.kind
        'visits'
    """
    return replace(config, **{name: getattr(fitted, name) for name in FITTED})


def adopt(config: TokenizeConfig, given: Tokenizer, where: str) -> TokenizeConfig:
    """The config with the tokenizer's own fields; a wish that contradicts them is refused.

    Args:
        config: What was asked for.
        given: The tokenizer.
        where: It is from, for the message.

    Raises:
        ConfigError: If a field that belongs to the tokenizer was asked to be something else.
    """
    default = TokenizeConfig()
    for name in FITTED:
        asked, fitted = getattr(config, name), getattr(given.config, name)
        if asked not in (fitted, getattr(default, name)):
            raise ConfigError(
                f"{name} cannot be changed with --tokenizer: {where} was fitted with {fitted}"
            )
    return with_fitted(config, given.config)


def descriptions(infos: Mapping[str, CodeInfo], config: TokenizeConfig) -> dict[str, str]:
    """Of codes, where tokens are made of them; none elsewhere."""
    if config.scheme.codes != "description":
        return {}
    return {c: i.description for c, i in infos.items() if i.description}


def fitted_to_dict(fitted: Fitted) -> dict[str, Any]:
    """As JSON holds it; keys in order."""
    edges = fitted.edges
    return {
        "edges": {code: [float(e) for e in edges[code]] for code in sorted(edges)},
        "rolled": dict(sorted(fitted.rolled.items())),
        "subwords": fitted.subwords,
        "descriptions": dict(sorted(fitted.descriptions.items())),
        "wider": {key: list(fitted.wider[key]) for key in sorted(fitted.wider)},
        "plain": {key: list(fitted.plain[key]) for key in sorted(fitted.plain)},
    }


def fitted_from_dict(tree: Mapping[str, Any]) -> Fitted:
    """What `fitted_to_dict` made; what an older version did not write is empty."""
    return Fitted(
        edges={code: np.array(e, np.float32) for code, e in tree["edges"].items()},
        rolled=tree.get("rolled", {}),
        subwords=tree.get("subwords"),
        descriptions=tree.get("descriptions", {}),
        wider=tree.get("wider", {}),
        plain=tree.get("plain", {}),
    )


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
