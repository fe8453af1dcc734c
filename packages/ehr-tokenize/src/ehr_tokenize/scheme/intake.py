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
from ehr_tokenize.scheme.stays import Stays, pair
from ehr_tracking.arrow.delays import Delays
from ehr_tracking.arrow.meds import STATIC

BIRTH = r"^MEDS_BIRTH(//|$)"


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
    marks: tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]
    """[C] which codes start a stay that has an end, which end one"""
    most_days: float
    """How long a stay holds other visits, at most."""
    rank: npt.NDArray[np.int64] | None
    """[C] place of each code among events known at one time; None where rows decide"""

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
            marks=(
                matching(config.visits.stay_codes, [k.code for k in keys]),
                matching(config.visits.end_codes, [k.code for k in keys]),
            ),
            most_days=config.visits.most_days,
            rank=_rank(mapped, keys, config) if config.order == "canonical" else None,
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
        if self.delay is not None or self.rank is not None:
            time = self._known(events)
            at_one = () if self.rank is None else (events.value, self.rank[events.code])
            # stable: what these do not tell apart keeps the order of its rows
            order = np.lexsort((*at_one, time, events.subject()))
            moved = Events(events.subject_id, events.offsets, time, events.code, events.value)
            events = _take(moved, order, events.offsets)
        return events

    def stays(self, raw: Events) -> tuple[Stays, npt.NDArray[np.int64]] | None:
        """The stays of raw events, excluded ones included, and the rows of marks without the other side.

        None where no event names its visit.
        """
        if raw.visit_id is None:
            return None
        events = self.recode(raw)
        starts, ends = (mark[events.code] for mark in self.marks)
        time = self._known(events)
        return pair(events.subject(), time, raw.visit_id, (starts, ends), self.most_days)

    def _known(self, events: Events) -> npt.NDArray[np.int64]:
        """[E] when each event becomes known."""
        if self.delay is None:
            return events.time
        return events.time + np.where(events.time == STATIC, 0, self.delay[events.code])


def extra_columns(config: TokenizeConfig) -> Extra:
    """Which columns are read beside those that MEDS has to have."""
    return Extra(
        unit=config.numeric.unit_column if config.scheme.units else None,
        text="text_value" if config.scheme.text else None,
        ids=config.visits.ids,
    )


def _take(events: Events, row: npt.NDArray[np.int64], offsets: npt.NDArray[np.int64]) -> Events:
    time, code, value = events.time[row], events.code[row], events.value[row]
    return Events(events.subject_id, offsets, time, code, value)


def _rank(
    codes: Sequence[str], keys: Sequence[Key], config: TokenizeConfig
) -> npt.NDArray[np.int64]:
    """[C] births first, then starts of visits, then by code, unit and text."""
    bare = [k.code for k in keys]
    first, second = matching([BIRTH], bare), matching(config.visits.start_codes, bare)
    group = np.where(first, 0, np.where(second, 1, 2)).tolist()
    rank = np.empty(len(codes), np.int64)
    rank[sorted(range(len(codes)), key=lambda i: (group[i], codes[i]))] = np.arange(len(codes))
    return rank


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
