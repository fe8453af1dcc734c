"""What happens to events before anything is fitted or tokenised: maps, exclusions, delays.

C codes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from ehr_tokenize.codes.keys import Key
from ehr_tokenize.codes.maps import apply_maps
from ehr_tokenize.codes.patterns import matching
from ehr_tokenize.config import TokenizeConfig
from ehr_tokenize.meds.dataset import Extra
from ehr_tokenize.meds.events import Events
from ehr_tracking.arrow.delays import Delays
from ehr_tracking.arrow.meds import STATIC


@dataclass(frozen=True, slots=True, eq=False)
class Intake:
    """Bound to one list of codes, as the data have them."""

    codes: list[str]
    """Distinct codes that come out."""
    keys: list[Key]
    """The same, taken apart."""
    index: npt.NDArray[np.uint32] | None
    """[codes in] which code comes out; None where they are the same."""
    keep: npt.NDArray[np.bool_] | None
    """[C] None where all are kept"""
    delay: npt.NDArray[np.int64] | None
    """[C] microseconds; None where there is none"""

    @classmethod
    def of(cls, codes: Sequence[str], config: TokenizeConfig) -> Self:
        """Look up a list of codes once."""
        mapped, index = _mapped(codes, config)
        keys = [Key.parse(c) for c in mapped]
        return cls(
            codes=mapped,
            keys=keys,
            index=index,
            keep=_kept(keys, config.vocabulary.exclude),
            delay=_delays(keys, config.delay),
        )

    def recode(self, events: Events) -> Events:
        """Events under the codes that come out."""
        if self.index is None:
            return events
        code = self.index[events.code]
        return Events(events.subject_id, events.offsets, events.time, code, events.value)

    def __call__(self, events: Events) -> Events:
        """Recoded, without excluded events, and in the order in which they become known."""
        events = self.recode(events)
        if self.keep is not None:
            keep = self.keep[events.code]
            kept = np.concatenate([[0], np.cumsum(keep)])
            events = _take(events, np.flatnonzero(keep), kept[events.offsets])
        if self.delay is not None:
            shift = np.where(events.time == STATIC, 0, self.delay[events.code])
            time = events.time + shift
            order = np.lexsort(
                (time, events.subject())
            )  # stable: rows at one time keep their order
            moved = Events(events.subject_id, events.offsets, time, events.code, events.value)
            events = _take(moved, order, events.offsets)
        return events


def extra_columns(config: TokenizeConfig) -> Extra:
    """Which columns beside the code tell events apart."""
    return Extra(
        unit=config.numeric.unit_column if config.scheme.units else None,
        text="text_value" if config.scheme.text else None,
    )


def _take(events: Events, row: npt.NDArray[np.int64], offsets: npt.NDArray[np.int64]) -> Events:
    time, code, value = events.time[row], events.code[row], events.value[row]
    return Events(events.subject_id, offsets, time, code, value)


def _kept(keys: Sequence[Key], patterns: Sequence[str]) -> npt.NDArray[np.bool_] | None:
    keep = ~matching(patterns, [k.code for k in keys])
    return None if keep.all() else keep


def _delays(keys: Sequence[Key], days: Mapping[str, float]) -> npt.NDArray[np.int64] | None:
    if not days:
        return None
    found = Delays(days).of([k.code for k in keys])
    return found if found.any() else None


def _mapped(
    codes: Sequence[str], config: TokenizeConfig
) -> tuple[list[str], npt.NDArray[np.uint32] | None]:
    if not config.maps:
        return list(codes), None
    keys = [Key.parse(c) for c in codes]
    bare = list(dict.fromkeys(k.code for k in keys))
    other = dict(zip(bare, apply_maps(bare, config.maps).codes, strict=True))
    mapped = [str(k._replace(code=other[k.code])) for k in keys]
    number = {code: i for i, code in enumerate(dict.fromkeys(mapped))}
    return list(number), np.array([number[c] for c in mapped], np.uint32)
