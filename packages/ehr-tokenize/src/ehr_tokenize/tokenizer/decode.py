"""Token ids back to what a clinician can read, and to dated events."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import numpy as np
import numpy.typing as npt

from ehr_tokenize.codes.phrases import say_code
from ehr_tokenize.codes.units import split_unit
from ehr_tokenize.scheme.spans import CALENDAR, INTERVALS
from ehr_tokenize.scheme.words import bounds
from ehr_tokenize.tokenizer.vocabulary import Token

_SPECIALS = {
    "[PAD]": "padding",
    "[UNK]": "something not in the vocabulary",
    "[CLS]": "the record begins",
    "[SEP]": "the visit before is over",
    "[MASK]": "hidden",
    "[BOS]": "the record begins",
    "[EOS]": "the end",
    "[VS]": "a visit begins",
    "[VE]": "the visit before is over",
}
_SPANS = {span.text: span.meaning for span in (*INTERVALS, *CALENDAR)}
_MARKS = "▁Ġ"
"""What the first piece of a word begins with, in SentencePiece and byte-level tokenizers."""
_BEGIN = ("code", "value", "category")
_CONTINUE = ("part", "bin", "text")
_LAST = datetime.max  # noqa: DTZ901 -- MEDS times have no zone


@dataclass(frozen=True, slots=True)
class DatedEvent:
    """An event that tokens tell."""

    time: datetime | None
    """None for a birth before the beginning."""
    code: str | None
    """None where it is not in the vocabulary, or told as free text."""
    text: str
    """For a reader."""
    lower: float | None = None
    """Bounds of the value: inclusive."""
    upper: float | None = None
    """Exclusive."""


def say(token: Token) -> str:
    """One token for a reader.

    Examples:
        >>> from ehr_tracking.arrow.meds import CodeInfo
        >>> say(Token("LAB//Q2", "value", "LAB", 2, 3.5, np.inf, info=CodeInfo("Potassium")))
        'Potassium: 3.5 or more'
        >>> say(Token("LAB//K//mmol/L//Q2", "value", "LAB//K//mmol/L", 2, 3.5, 4, info=CodeInfo("K+")))
        'K+: 3.5 to below 4 mmol/L'
        >>> say(Token("TIME//1d-2d", "time")), say(Token("AGE//60", "age"))
        ('1 day to 2 days later', 'age 60 to 69 years')
    """
    if token.text in _SPECIALS:
        return _SPECIALS[token.text]
    if token.kind in _SAY:
        return _SAY[token.kind](token)
    name = _name(token.code or token.text, token.info.description)
    if token.kind == "value" and token.lower is not None and token.upper is not None:
        return f"{name}: {say_range(token.lower, token.upper, _unit(token))}"
    if token.kind == "category":
        return f"{name}: {token.text.partition(' || ')[2]}"
    return name


def say_range(lower: float, upper: float, unit: str = "") -> str:
    """Bounds of a value.

    Examples:
        >>> say_range(-np.inf, 2), say_range(2, 3.5), say_range(3.5, np.inf, "mg/dL")
        ('below 2', '2 to below 3.5', '3.5 mg/dL or more')
    """
    space = f" {unit}" if unit else ""
    low, high = (f"{x:.6g}" for x in (lower, upper))
    if np.isinf(lower):
        return "any value" if np.isinf(upper) else f"below {high}{space}"
    return f"{low}{space} or more" if np.isinf(upper) else f"{low} to below {high}{space}"


def _name(code: str, description: str | None) -> str:
    return say_code(split_unit(code)[0], description or None)


def _unit(token: Token) -> str:
    code = token.code or ""
    if " || " in token.text:  # CODE || unit || bounds, or CODE || bounds
        _, *between, _ = token.text.removeprefix(code).split(" || ")
        if between:
            return " || ".join(between)
    return split_unit(code)[1]


def _age(token: Token) -> str:
    number = token.text.removeprefix("AGE//")
    if number.startswith("+"):
        return f"and {number[1:]} year{'s' * (number != '+1')}"
    return f"age {number} to {int(number) + 9} years"


_SAY: dict[str, Callable[[Token], str]] = {
    "time": lambda t: _SPANS.get(t.text, t.text),
    "age": _age,
    "bin": lambda t: f"value in bin {t.bin} of this code, counted from the lowest",
    "part": lambda t: f"of the code before: {_piece(t)}",
    "text": lambda t: _letters(t.text) or t.text,
}


def is_marked(token: Token) -> bool:
    """Whether a token is a subword that is marked as the first of a word."""
    return token.kind == "text" and token.text[0] in _MARKS


def _letters(subword: str) -> str:
    return subword.removeprefix("##").lstrip(_MARKS)


def _piece(token: Token) -> str:
    return token.text.rpartition("//")[2]


@dataclass(frozen=True, slots=True)
class Teller:
    """Goes through tokens with a clock that time tokens put forward."""

    edges: Mapping[str, npt.NDArray[np.float32]]
    """Bin edges by code."""
    descriptions: Mapping[str, str]
    """Of whole codes."""
    marked: bool = False
    """Whether subwords that begin a word are marked, not those that go on with it."""

    def tell(self, tokens: Sequence[Token], start: datetime) -> list[DatedEvent]:
        """Tokens as dated events.

        A code's parts and its bin become one event; so do subwords that follow each other. A part or
        a bin that follows no code tells nothing and is passed over.

        Args:
            tokens: In order.
            start: Time of the first.
        """
        clock, open_ = start, ""
        events: list[DatedEvent] = []
        for token in tokens:
            kind = token.kind
            if kind == "time":
                left = (_LAST - clock).total_seconds()
                clock += timedelta(seconds=min(token.seconds or 0.0, left))
            elif kind in _BEGIN or token.text == "[UNK]" or (kind == "text" and open_ != "text"):
                birth = (token.code or "").split("//")[0] == "MEDS_BIRTH"
                time = None if birth else clock
                events.append(DatedEvent(time, token.code, say(token), token.lower, token.upper))
            elif open_ and kind in _CONTINUE:
                events[-1] = self._joined(events[-1], token)
            open_ = {"code": "code", "part": "code", "text": "text"}.get(kind, "")
        return events

    def _joined(self, event: DatedEvent, token: Token) -> DatedEvent:
        if token.kind == "text":
            begins = token.text[0] in _MARKS if self.marked else not token.text.startswith("##")
            space = " " if begins else ""
            return replace(event, text=f"{event.text}{space}{_letters(token.text)}")
        if event.code is None:
            return event
        if token.kind == "part":
            code = event.code + _piece(token)
            return replace(event, code=code, text=_name(code, self.descriptions.get(code)))
        found = self.edges.get(event.code)
        if found is None or not token.bin or token.bin > len(found) + 1:
            return event
        lower, upper = (float(x) for x in bounds(found, token.bin))
        text = f"{event.text}: {say_range(lower, upper, split_unit(event.code)[1])}"
        return replace(event, text=text, lower=lower, upper=upper)
