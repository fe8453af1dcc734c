"""A scheme and a fit applied to one list of codes, so that events need array look-ups only.

C codes, S slots (a code with a bin), W words.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import numpy.typing as npt

from ehr_tokenize.codes.keys import code_of
from ehr_tokenize.codes.patterns import matching
from ehr_tokenize.config import TokenizeConfig
from ehr_tokenize.meds.events import gather_index
from ehr_tokenize.scheme.bins import Bins
from ehr_tokenize.scheme.intake import BIRTH, Intake
from ehr_tokenize.scheme.words import SPANS, Fitted, Speller, Word, added_words
from ehr_tokenize.scheme.words import VISIT_END as END
from ehr_tokenize.scheme.words import VISIT_START as START
from ehr_tracking.contracts import UNK_ID

Identity = tuple[str, str, str | None, int]
Ids = npt.NDArray[np.uint32]
_PLAIN = 2


@dataclass(frozen=True, slots=True, eq=False)
class AddedIds:
    """Tokens that a scheme adds."""

    lead: Ids
    """[1], or 2"""
    sep: Ids
    """[1]"""
    time: Ids
    """One a span of `scheme.time`."""
    age: Ids
    """[20] tens, then ones; or empty"""
    visit: Ids
    """[2] start, end; or empty"""

    @classmethod
    def of(cls, index: Mapping[str, int], config: TokenizeConfig) -> Self:
        """Look the tokens up by their texts."""

        def ids(*texts: str) -> Ids:
            return np.array([index[t] for t in texts if t in index], np.uint32)

        digits = [f"AGE//{10 * t}" for t in range(10)] + [f"AGE//+{o}" for o in range(10)]
        return cls(
            lead=ids(*config.scheme.leads),
            sep=ids("[SEP]"),
            time=ids(*(s.text for s in SPANS[config.scheme.time])),
            age=ids(*digits) if config.scheme.age else ids(),
            visit=ids(START, END) if config.scheme.visits == "start_end" else ids(),
        )


@dataclass(frozen=True, slots=True, eq=False)
class Binding:
    """Look-ups by code."""

    intake: Intake
    bins: Bins
    first: npt.NDArray[np.int64]
    """[S + 1] the words of slot s are token[first[s]:first[s + 1]]."""
    token: Ids
    """Of each word of each slot."""
    added: AddedIds
    birth: npt.NDArray[np.bool_]
    """[C]"""
    start: npt.NDArray[np.bool_]
    """[C] begins a visit"""
    family: npt.NDArray[np.uint32]
    """[C] index into `families`"""
    families: list[str]
    step: npt.NDArray[np.uint8]
    """[S] see `Speller.step`"""
    valueless: npt.NDArray[np.bool_]
    """[C] whose values are told by the plain code, since too few have any"""

    @property
    def single(self) -> bool:
        """Whether every event is one token."""
        return len(self.token) == len(self.first) - 1

    def unknown(self) -> npt.NDArray[np.bool_]:
        """[S] whether a slot has a word that is not in the vocabulary."""
        missing = np.concatenate([[0], np.cumsum(self.token == UNK_ID)])
        return missing[self.first[1:]] > missing[self.first[:-1]]

    def steps(
        self, code: Ids, value: npt.NDArray[np.float32], slot: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.uint8]:
        """[E] how far each event falls back, see `Speller.step`."""
        step = self.step[slot]
        step[self.valueless[code] & ~np.isnan(value)] = _PLAIN
        return step

    def spell(self, slot: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64] | None, Ids]:
        """The tokens of some events: the event that each belongs to (None: one each), and which."""
        if self.single:
            return None, self.token[slot]
        length = np.diff(self.first)[slot]
        row = np.repeat(np.arange(len(slot)), length)
        return row, self.token[gather_index(self.first[slot], length)]

    def to_vocabulary(
        self, words: Sequence[Word], ids: Mapping[Identity, int], *, falls_back: bool
    ) -> "Binding":
        """The same with rows of a vocabulary in place of words; [UNK] for what is not in it.

        Args:
            words: Which the tokens index.
            ids: Row of each word that is kept.
            falls_back: Whether a text that is not kept is told as its plain code, as rare ones are.
        """
        lookup = np.array([ids.get(identity(w), UNK_ID) for w in words], np.uint32)
        step = self.step
        if falls_back:
            unseen = np.zeros(len(words), bool)
            for i in np.flatnonzero(lookup == UNK_ID).tolist():
                if words[i].kind == "category" and (code := code_of(words[i].key or "")):
                    lookup[i] = ids.get((code, "code", code, 0), UNK_ID)
                    unseen[i] = lookup[i] != UNK_ID
            before = np.concatenate([[0], np.cumsum(unseen[self.token])])
            step = np.where(before[self.first[1:]] > before[self.first[:-1]], _PLAIN, step)
        s = self.added
        moved = AddedIds(*(lookup[x] for x in (s.lead, s.sep, s.time, s.age, s.visit)))
        step = step.astype(np.uint8)
        return replace(self, token=lookup[self.token], added=moved, step=step)


def bind(
    intake: Intake,
    config: TokenizeConfig,
    fitted: Fitted,
    descriptions: Mapping[str, str],
) -> tuple[Binding, list[Word]]:
    """Spell every code, with every bin.

    Args:
        intake: Of the codes as the data have them.
        config: Scheme, maps and visits.
        fitted: Edges and what else is learned.
        descriptions: Of codes, for those that the fit has not seen.

    Returns:
        A binding whose tokens index the distinct words, and the words.
    """
    keys, none = intake.keys, np.zeros(0, np.float32)
    codes = [k.code for k in keys]
    edges = [fitted.edges.get(c, none) for c in intake.codes]
    speller = Speller(config, fitted, descriptions)
    index: dict[Word, int] = {w: i for i, w in enumerate(added_words(config))}
    n_added = len(index)
    token: list[int] = []
    size: list[int] = []
    step: list[int] = []
    for key, found in zip(keys, edges, strict=True):
        for number in range(len(found) + 2 if len(found) else 1):
            words = speller.words(key, number)
            token += [index.setdefault(w, len(index)) for w in words]
            size.append(len(words))
            step.append(speller.step(key, number))
    words = list(index)
    family_of = [family(c) for c in codes]
    families = sorted(set(family_of))
    number_of = {name: i for i, name in enumerate(families)}
    binding = Binding(
        intake=intake,
        bins=Bins.of(edges),
        first=np.concatenate([[0], np.cumsum(np.array(size, np.int64))]),
        token=np.array(token, np.uint32),
        added=AddedIds.of({w.text: i for i, w in enumerate(words[:n_added])}, config),
        birth=matching([BIRTH], codes),
        start=matching(config.visits.start_codes, codes),
        family=np.array([number_of[name] for name in family_of], np.uint32),
        families=families,
        step=np.array(step, np.uint8),
        valueless=np.array(
            [
                not k.text and 0 in fitted.plain.get(c, ())
                for k, c in zip(keys, intake.codes, strict=True)
            ],
            bool,
        ),
    )
    return binding, words


def identity(word: Word) -> Identity:
    """What tells a token from others, whatever their texts: text, kind, code and bin."""
    return word.text, word.kind, code_of(word.key) if word.key else None, word.number


def family(code: str) -> str:
    """What a code begins with, for reports.

    Examples:
        >>> family("LAB//50912//mg/dL"), family("ICD10CM/E11.9"), family("MEDS_DEATH")
        ('LAB', 'ICD10CM', '(no prefix)')
        >>> family("BMI (kg/m2)")
        '(no prefix)'
    """
    head, slashes, _ = code.partition("//")
    if not slashes:
        head, slashes, _ = code.partition("/")
        slashes = "" if " " in head else slashes  # a unit or a date, not a system of codes
    return head if slashes and head else "(no prefix)"
