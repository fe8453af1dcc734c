"""Descriptions as subwords, through the library tokenizers (extra `desc`)."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ehr_tracking.config import ConfigError


class Subwords:
    """A subword tokenizer, from the text of its `tokenizer.json`."""

    def __init__(self, serialized: str) -> None:
        """Load it.

        Raises:
            ConfigError: If it cannot be read, or tokenizers is not installed.
        """
        library = _library()
        try:
            self._tokenizer = library.Tokenizer.from_str(serialized)
        except Exception as e:
            raise ConfigError(f"subwords: not a tokenizer.json of tokenizers: {e}") from None
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()

    def split(self, text: str) -> list[str]:
        """The subwords of a text; none for a blank one."""
        pieces: list[str] = self._tokenizer.encode(text, add_special_tokens=False).tokens
        return pieces


def read_subwords(path: Path) -> str:
    """The text of a `tokenizer.json`.

    Raises:
        ConfigError: If it cannot be read.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as e:
        raise ConfigError(f"subwords.path: {path} cannot be read: {e}") from None
    Subwords(text)
    return text


def train_subwords(texts: Iterable[str], size: int) -> str:
    """Byte pair encoding over lower-case words, whose first piece begins with `▁`.

    The same set of texts gives the same pieces. (WordPiece of this library does not: it numbers its
    continuing pieces in the order of a hash table, and ties go by number.)
    """
    library = _library()
    pre = library.pre_tokenizers
    tokenizer = library.Tokenizer(library.models.BPE(unk_token="[UNK]"))
    tokenizer.normalizer = library.normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre.Sequence([pre.Metaspace(), pre.Punctuation()])
    tokenizer.decoder = library.decoders.Metaspace()
    trainer = library.trainers.BpeTrainer(
        vocab_size=size, special_tokens=["[UNK]"], show_progress=False
    )
    tokenizer.train_from_iterator(sorted(set(texts)), trainer)
    serialized: str = tokenizer.to_str()
    return serialized


def _library() -> Any:  # noqa: ANN401 -- optional, and untyped
    try:
        import tokenizers
    except ImportError:
        raise ConfigError(
            "codes: description needs the library tokenizers; pip install 'ehr-tokenize[desc]'"
        ) from None
    return tokenizers
