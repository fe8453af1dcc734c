"""How good risks of an event are, under many bootstrap draws of the patients at once.

n rows, B draws, H horizons. A draw is a weight for each row. Censoring is answered for by weights of
inverse probability (IPCW), from the censoring of the training rows.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from ehr_eval.judge.bootstrap import scores
from ehr_eval.judge.metrics.ranked import Floats
from ehr_eval.survival.kaplan_meier import StepCurve

_PAIRS = 2_000_000
"""Pairs of rows looked at together."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Followed:
    """Held-out rows: what became of them, and how likely they were to be seen so long."""

    days: Floats
    """[n] to the event, or to where nothing is known any more."""
    event: npt.NDArray[np.bool_]
    """[n] which of the two."""
    censoring: StepCurve
    """Of the training rows."""
    weight: npt.NDArray[np.uint16]
    """[n, B]"""

    @cached_property
    def inverse(self) -> Floats:
        """[n] 1 / the chance to be looked at until then; 0 where that is 0."""
        seen = self.censoring.at(self.days)
        return np.divide(1.0, seen, out=np.zeros_like(seen), where=seen > 0)

    def known_until(self, horizon: float) -> str | None:
        """Why nothing can be said of a horizon, or None."""
        if not (self.event & (self.days <= horizon)).any():
            return f"no event in held_out within {horizon:g} days"
        if not (self.days > horizon).any():
            return f"nobody in held_out is followed for more than {horizon:g} days"
        if self.censoring.at(np.array([horizon]))[0] == 0:
            return f"nobody in train is followed for {horizon:g} days"
        return None


def harrell(rows: Followed, risk: Floats) -> Floats:
    """Harrell's C (1996) [B]: of pairs of which one is known to come first, how often its risk is higher.

    Equal risks count half. Of two events on one day none comes first; who is censored that day comes after.

    Args:
        rows: [n]
        risk: [n] the higher, the sooner; of one and the same span of time for all.
    """
    return _concordance(rows, risk, np.ones(len(risk)), np.inf)


def uno(rows: Followed, risk: Floats, *, until: float) -> Floats:
    """Uno's C (2011) [B]: the same up to a day, pairs weighted by 1 / G(first)^2.

    So it does not depend on how long subjects happen to be followed.

    Args:
        rows: [n]
        risk: [n]
        until: Events on later days are not asked for.
    """
    return _concordance(rows, risk, rows.inverse**2, until)


def _concordance(rows: Followed, risk: Floats, of_first: Floats, until: float) -> Floats:
    draws = rows.weight.astype(np.float64)
    won, pairs = np.zeros((2, draws.shape[1]))
    firsts = np.flatnonzero(rows.event & (rows.days < until))
    step = max(1, _PAIRS // max(1, len(risk)))
    for begin in range(0, len(firsts), step):
        first = firsts[begin : begin + step, None]
        later = rows.days[None] > rows.days[first]
        later |= (rows.days[None] == rows.days[first]) & ~rows.event[None]
        beaten = later * ((risk[first] > risk[None]) + 0.5 * (risk[first] == risk[None]))
        of_draw = draws[first[:, 0]] * of_first[first]
        won += (of_draw * (beaten @ draws)).sum(axis=0)
        pairs += (of_draw * (later @ draws)).sum(axis=0)
    return np.divide(won, pairs, out=np.full_like(won, np.nan), where=pairs > 0)


def auc(rows: Followed, risk: Floats, *, horizon: float) -> Floats:
    """Cumulative / dynamic AUROC (Uno et al., 2007) [B] of an event by a day against none until it.

    Who is censored before it is neither; those with the event are weighted by 1 / G.

    Args:
        rows: [n]
        risk: [n] of an event by then.
        horizon: Days.
    """
    case = rows.event & (rows.days <= horizon)
    asked = case | (rows.days > horizon)
    weight = rows.weight * np.where(case, rows.inverse, 1.0)[:, None]
    return scores(case[asked], risk[asked], weight[asked], metrics=("auroc",))["auroc"]


def brier(rows: Followed, risk: Floats, *, horizon: float) -> Floats:
    """Brier score at a day (Graf et al., 1999) [B]: squared distance of risk and outcome, by IPCW.

    Args:
        rows: [n]
        risk: [n] of an event by then.
        horizon: Days.
    """
    seen = float(rows.censoring.at(np.array([horizon]))[0])
    case, alive = rows.event & (rows.days <= horizon), rows.days > horizon
    off = np.where(case, (1 - risk) ** 2 * rows.inverse, np.where(alive, risk**2 / seen, 0.0))
    total = rows.weight.sum(axis=0, dtype=np.float64)
    return np.asarray(
        np.divide(off @ rows.weight, total, out=np.full(len(total), np.nan), where=total > 0)
    )


def integrated(values: Floats, horizons: Floats) -> Floats:
    """Mean over time of what is known at some days, straight lines between them [B].

    Args:
        values: [H, B]
        horizons: [H] days, two or more.
    """
    return np.asarray(np.trapezoid(values, horizons, axis=0) / (horizons[-1] - horizons[0]))
