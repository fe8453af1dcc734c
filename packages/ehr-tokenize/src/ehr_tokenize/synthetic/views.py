"""What of one subject can be seen at a prediction time, and which candidates are worth a look."""

from dataclasses import dataclass

import numpy as np

from ehr_tokenize.synthetic.candidates import Candidates, Nodes
from ehr_tokenize.synthetic.conditions import CONDITIONS
from ehr_tokenize.synthetic.course import DAYS
from ehr_tokenize.synthetic.disease import Floats, Ints
from ehr_tokenize.synthetic.evidence import Evidence, Panels
from ehr_tokenize.synthetic.tasks import WARD_DAYS

PRUNE = 14.0
"""Candidates whose own evidence lies this far below the best one's are passed over."""


@dataclass(frozen=True, slots=True)
class Query:
    """A prediction time: the end of an encounter, or one day after a stay began."""

    encounter: int
    running: bool


@dataclass(frozen=True, slots=True)
class Pool:
    """The candidates of one condition that are worth a look; "not begun" last."""

    index: Ints
    """[m], rows of `Candidates`; likewise below."""
    onset: Floats
    until: Floats
    """Onset, or the age at the prediction time."""
    begun: Floats
    """1, or 0 for the last."""
    log_rate: Floats
    base: Floats
    """Log weight: baseline hazard over proposal, and what codes and drugs say."""
    severity: Floats
    """[m, E]."""
    rates: tuple[Floats, ...]
    """Three of [m, G]."""


@dataclass(frozen=True, slots=True)
class View:
    """What can be seen."""

    age: float
    encounters: int
    """The last of these may still run."""
    nodes: int
    running: bool
    panels: Panels
    pools: list[Pool]


def look(
    evidence: Evidence, candidates: Candidates, grid: Nodes, hazard: Floats, query: Query
) -> View:
    """What can be seen of a subject at a prediction time.

    Args:
        evidence: Of its whole record.
        candidates: Its own.
        grid: Its time outside stays.
        hazard: [C], cumulative hazards at 60 for its sex.
        query: The prediction time.
    """
    whole = query.encounter + (not query.running)
    seen = query.encounter + 1
    start, end = evidence.start[query.encounter], evidence.end[query.encounter]
    age = float(start + WARD_DAYS / DAYS if query.running else end)
    panels = evidence.panels
    if query.running:
        parts = {
            name: [getattr(panels, name)[:whole], getattr(evidence.first, name)[whole:seen]]
            for name in Panels.__dataclass_fields__
        }
        panels = Panels(**{name: np.concatenate(part) for name, part in parts.items()})
    count = int(np.searchsorted(grid.gap, query.encounter, side="right"))
    pools = [
        _pool(candidates, c, hazard[c], age, (whole, seen, count)) for c in range(len(CONDITIONS))
    ]
    return View(age, seen, count, query.running, panels, pools)


def _pool(
    candidates: Candidates, c: int, hazard: float, age: float, sizes: tuple[int, int, int]
) -> Pool:
    whole, seen, count = sizes
    shape = CONDITIONS[c].shape
    onset = candidates.onset[c]
    last = len(onset) - 1
    begun = np.arange(len(onset)) < last
    years = np.where(begun, np.minimum(onset, 1e6), 60.0)
    own = candidates.log_weight[c] + candidates.seen[c, :, whole]
    if seen > whole:
        own += candidates.running[c, :, whole]
    own += begun * (np.log(hazard * shape / 60) + (shape - 1) * np.log(years / 60))
    own[begun & (onset > age)] = -np.inf
    index = np.flatnonzero(own > own.max() - PRUNE)
    if index[-1] != last:
        index = np.append(index, last)
    return Pool(
        index,
        onset[index],
        np.minimum(onset[index], age),
        begun[index].astype(float),
        candidates.log_rate[c, index],
        own[index],
        candidates.encounter[c, index, :seen],
        tuple(rate[c, index, :count] for rate in candidates.rates),
    )
