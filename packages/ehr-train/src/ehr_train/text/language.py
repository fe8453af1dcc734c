"""Tokenizers of language models: what a text is to a model.

n texts.
"""
# transformers leaves some methods untyped
# mypy: allow-untyped-calls

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import click
from transformers import AutoTokenizer

from ehr_tracking.config import ConfigError
from ehr_tracking.contracts import ContractError

_PROBE = "a"


class Encoded(NamedTuple):
    """Texts as token ids."""

    ids: list[list[int]]
    """[n] none of them empty"""
    pinned: int
    """How many tokens at the head of each stay in view however much is cut."""


def read_tokenizer(directory: Path) -> Any:  # noqa: ANN401 -- any tokenizer of transformers
    """The tokenizer that lies in a directory; no code of it is run, and nothing is fetched.

    One without a token to pad with pads with that of the end, and says so.

    Raises:
        ContractError: If there is none, or none that is fast.
        ConfigError: If nothing can pad.
    """
    try:
        found: Any = AutoTokenizer.from_pretrained(
            directory, local_files_only=True, trust_remote_code=False
        )
    except (OSError, ValueError, KeyError, TypeError, ImportError) as e:
        raise ContractError(
            f"{directory} holds no tokenizer that transformers reads: {' '.join(str(e).split())[:200]}"
        ) from None
    if not found.is_fast:
        raise ContractError(
            f"{directory}: its tokenizer has no tokenizer.json; make one with "
            "AutoTokenizer.from_pretrained(...).save_pretrained(...)"
        )
    if found.pad_token_id is None:
        if found.eos_token_id is None:
            raise ConfigError(
                f"{directory}: its tokenizer has no token to pad with, nor one for the end of a text; give it "
                "one: tokenizer.add_special_tokens({'pad_token': '[PAD]'}), and the model a row for it"
            )
        found.pad_token = found.eos_token
        click.echo(f"{directory}: its tokenizer has no pad token; {found.eos_token} pads", err=True)
    return found


class Encoder:
    """Makes token ids of texts."""

    def __init__(self, tokenizer: Any, *, prompt: str, end: bool, open_ended: bool) -> None:  # noqa: ANN401 -- any tokenizer of transformers
        """Find out what the tokenizer puts around a text.

        Args:
            tokenizer: From `read_tokenizer`.
            prompt: Behind every text.
            end: Put the token for the end of a text there.
            open_ended: Take away what the tokenizer puts behind a text: a model is to go on from it.

        Raises:
            ConfigError: If there is no token for the end.
        """
        self.tokenizer, self.prompt = tokenizer, prompt
        special = tokenizer(_PROBE, return_special_tokens_mask=True)["special_tokens_mask"]
        self.lead = special.index(0) if 0 in special else 0
        tail = special[::-1].index(0) if 0 in special else 0
        self.tail = tail if open_ended or end else 0
        self.behind: list[int] = []
        if end:
            if tokenizer.eos_token_id is None:
                raise ConfigError(
                    f"{tokenizer.name_or_path}: its tokenizer has no token for the end of a text"
                )
            self.behind = [tokenizer.eos_token_id]
        filler = (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id)
        self.filler = next(token for token in filler if token is not None)

    def __call__(self, texts: Sequence[str], ends: Sequence[bool] | None = None) -> Encoded:
        """The ids of texts, each with its prompt.

        Args:
            texts: Whole, or pieces of longer ones.
            ends: Which are the end of one, so that the token for it belongs there; None: all.
        """
        whole = [text + self.prompt for text in texts]
        found = self.tokenizer(whole, truncation=False, verbose=False)["input_ids"] if whole else []
        ends = [True] * len(whole) if ends is None else ends
        ids = [
            each[: len(each) - self.tail] + self.behind * end
            for each, end in zip(found, ends, strict=True)
        ]
        return Encoded([each or [self.filler] for each in ids], self.lead)


def word_ids(tokenizer: Any, prompt: str, words: tuple[str, str]) -> tuple[int, int]:  # noqa: ANN401 -- any tokenizer of transformers
    """The token that each of two words is behind a prompt.

    Raises:
        ConfigError: If one is several tokens, or both are the same.
    """
    encode = Encoder(tokenizer, prompt="", end=False, open_ended=True)
    (before,) = encode([_PROBE + prompt]).ids
    found = []
    for word in words:
        (both,) = encode([_PROBE + prompt + word]).ids
        if len(both) != len(before) + 1 or both[:-1] != before:
            raise ConfigError(
                f"objective.words: {word!r} is not one token of {tokenizer.name_or_path} behind the prompt "
                f"{prompt!r}, but {tokenizer.convert_ids_to_tokens(both[len(before) :])}; choose words that are"
            )
        found.append(both[-1])
    if found[0] == found[1] or tokenizer.unk_token_id in found:
        raise ConfigError(
            f"objective.words: {words[0]!r} and {words[1]!r} are not two words that "
            f"{tokenizer.name_or_path} knows"
        )
    return found[0], found[1]
