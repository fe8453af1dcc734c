"""The latent state given the record: Gibbs sampling over pools of candidates, visit by visit.

For one subject, P chains move side by side through what has been seen up to a prediction time;
their states carry over to the next one, so that few sweeps are needed there. Each sweep draws, given
all else: the course of each condition (from its pool), the acute severity of each stay, frailty,
propensity (each on a randomly shifted grid), the usual laboratory levels (conjugate normal) and the
time of entry, which no record shows.

Shapes: `P` chains, `C` conditions, `M` candidates, `E` encounters, `G` nodes, `K` tests.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ehr_tokenize.synthetic.candidates import Candidates, Nodes, draw_candidates, nodes
from ehr_tokenize.synthetic.conditions import CONDITIONS, LABS
from ehr_tokenize.synthetic.config import SynthConfig
from ehr_tokenize.synthetic.course import DAYS, instability
from ehr_tokenize.synthetic.courses import Courses
from ehr_tokenize.synthetic.disease import BURDEN, NAMES, PROPENSITY_SD, Floats, Ints
from ehr_tokenize.synthetic.evidence import Evidence, deviations
from ehr_tokenize.synthetic.stays import StayTerms, acute_log_density, stay_terms
from ehr_tokenize.synthetic.views import Query, View, look

LOADS = np.array([[lab.loads.get(c, 0.0) for lab in LABS] for c in NAMES])
"""[C, K]."""
BETWEEN = np.array([x.between for x in LABS])
ACUTE = np.array([x.acute for x in LABS])
GRID = np.linspace(-1, 1, 33)


@dataclass(frozen=True, slots=True)
class Draws:
    """States of the chains at a prediction time; S of them."""

    frailty: Floats
    propensity: Floats
    onset: Floats
    """[S, C], infinite where it has not come yet."""
    rate: Floats
    """[S, C]."""
    usual: Floats
    """[S, K]."""
    acute: Floats
    """[S], of the last stay; 0 where there was none."""


class Chains:
    """The chains of one subject."""

    def __init__(
        self,
        rng: np.random.Generator,
        evidence: Evidence,
        male: bool,
        window: tuple[float, float],
        config: SynthConfig,
    ) -> None:
        """Draw the pool and a first state.

        Args:
            rng: Source of all randomness.
            evidence: Of one subject with an encounter or more.
            male: Of the same subject.
            window: Ages between which the subject entered.
            config: Of the cohort.
        """
        p, e, k = config.risks.chains, len(evidence.start), len(LABS)
        self.rng, self.evidence, self.config = rng, evidence, config
        self.grid: Nodes = nodes(evidence, *window)
        self.candidates: Candidates = draw_candidates(
            rng, evidence, self.grid, config.risks.cells, config
        )
        self.hazard = np.array([c.hazard * np.exp(c.male if male else 0.0) for c in CONDITIONS])
        self.precision = deviations(config) ** -2
        self.cell = np.full((p, len(NAMES)), config.risks.cells)
        self.z = 0.5 * rng.standard_normal(p)
        self.log_v = np.zeros(p)
        self.usual = np.zeros((p, k))
        days = (evidence.end - evidence.start) * DAYS
        guess = np.where(evidence.stay, np.log(np.maximum(days, 0.1) / 3) / 0.9, 0.0)
        self.q = np.repeat(guess[None], p, axis=0) + 0.5 * rng.standard_normal((p, e))
        self.entry = rng.integers(0, self.grid.entering, size=p)
        since = self.grid.age - np.where(self.grid.last >= 0, evidence.end[self.grid.last], -np.inf)
        self.decay = np.exp(-since * DAYS / config.readmission_days)
        self.severity = np.zeros((p, len(NAMES), e))
        self.onset = np.full((p, len(NAMES)), np.inf)
        self.log_rate = np.zeros((p, len(NAMES)))
        self._refresh()

    def sample(self, queries: list[Query]) -> Iterator[Draws]:
        """Move through the prediction times in order; the kept states of each.

        Args:
            queries: By time.
        """
        settings = self.config.risks
        for i, query in enumerate(queries):
            view = look(self.evidence, self.candidates, self.grid, self.hazard, query)
            if i == 0:
                self._start(view)
                for _ in range(settings.burn_in):
                    self._sweep(view)
            for _ in range(settings.sweeps):
                self._sweep(view)
            kept = []
            for _ in range(settings.kept):
                self._sweep(view)
                kept.append(self._draws(view))
            yield Draws(
                *(
                    np.concatenate([getattr(x, name) for x in kept])
                    for name in Draws.__dataclass_fields__
                )
            )

    def _refresh(self) -> None:
        """Rates at the nodes, [P, G] each: of visits, of stays, of deaths."""
        c, g = self.config, self.grid
        after = np.where(g.last >= 0, instability(self.q[:, g.last]) * self.decay, 0.0)
        width = g.years * (np.arange(len(g.years)) >= np.minimum(self.entry, len(g.years))[:, None])
        stays = c.admission_rate * np.exp(
            c.frailty_events * self.z[:, None] + c.readmission * after
        )
        deaths = c.death_rate * np.exp(0.05 * (g.age - 60) + c.readmission / 2 * after)
        self.rates = [
            c.outpatient_rate * np.exp(self.log_v)[:, None] * width,
            stays * width,
            deaths * width,
        ]
        for k, factor in enumerate(self.candidates.rates):
            for j in range(len(NAMES)):
                self.rates[k] = self.rates[k] * factor[j, self.cell[:, j]]

    def _start(self, view: View) -> None:
        for c, pool in enumerate(view.pools):
            spread = 0.5 * ((pool.log_rate - np.log(CONDITIONS[c].rate)) / 0.7) ** 2
            own = pool.base - (self.hazard[c] * (pool.until / 60) ** CONDITIONS[c].shape)
            own -= pool.begun * spread
            tried = np.repeat(own[:, None], len(self.z), axis=1)
            self._hold(c, pool.index[self._pick(tried)])
        self._refresh()

    def _hold(self, c: int, cell: Ints) -> None:
        self.cell[:, c] = cell
        self.onset[:, c] = self.candidates.onset[c, cell]
        self.log_rate[:, c] = self.candidates.log_rate[c, cell]
        self.severity[:, c] = self.candidates.encounter[c, cell]

    def _courses(self, view: View) -> Courses:
        return Courses(self.onset, self.log_rate, self.z, self.hazard, view.age, self.config)

    def _pick(self, log_density: Floats) -> Ints:
        """Draw a row for each column, by a race of exponential times."""
        speed = np.exp((log_density - log_density.max(axis=0)).astype(np.float32))
        time = self.rng.standard_exponential(log_density.shape, np.float32)
        drawn: Ints = np.argmax(speed / np.maximum(time, 1e-30), axis=0)
        return drawn

    def _sweep(self, view: View) -> None:
        terms = stay_terms(self.evidence, view.encounters, view.running)
        for c in range(len(NAMES)):
            self._condition(c, view, terms)
        self._stays(view, terms)
        self._levels(view)
        self._frailty(view)
        self._propensity(view)
        self._entry()

    def _condition(self, c: int, view: View, terms: StayTerms) -> None:
        pool, g, e = view.pools[c], view.nodes, view.encounters
        now = self.cell[:, c]
        log_p = pool.base[:, None] + self._courses(view).log_prior(c, pool)
        others = []
        for k in range(3):
            rest = self.rates[k] / self.candidates.rates[k][c, now]
            others.append(rest)
            log_p -= pool.rates[k] @ rest[:, :g].T
        linear, square = self._pull(c, view)
        log_p += pool.severity @ linear.T - 0.5 * (pool.severity**2) @ square[:, None]
        log_p += terms.of_condition(c, pool.severity, self.severity[:, :, :e], self.q[:, :e])
        new = pool.index[self._pick(log_p)]
        self._hold(c, new)
        for k in range(3):
            self.rates[k] = others[k] * self.candidates.rates[k][c, new]

    def _pull(self, c: int, view: View) -> tuple[Floats, Floats]:
        """[P, E] and [E]: measurements and stays as a quadratic in a condition's severity."""
        e, panels = view.encounters, view.panels
        severity = self.severity[:, :, :e]
        square = np.zeros(e)
        linear = np.zeros((len(self.z), e))
        for k in np.flatnonzero(LOADS[c]):
            loads = LOADS[:, k].copy()
            own, loads[c] = loads[c], 0
            level = BETWEEN[k] * self.usual[:, k, None] + np.tensordot(severity, loads, (1, 0))
            rest = panels.y[:e, k] - panels.count[:e, k] * level
            rest = rest - ACUTE[k] * self.q[:, :e] * panels.t[:e, k]
            linear += own * self.precision[k] * rest
            square += own**2 * self.precision[k] * panels.count[:e, k]
        effect = self.config.burden_acute
        stay = self.evidence.stay[:e]
        burden = np.tensordot(severity, BURDEN, (1, 0)) - BURDEN[c] * severity[:, c]
        linear += effect * BURDEN[c] * (self.q[:, :e] - effect * burden) * stay
        square += (effect * BURDEN[c]) ** 2 * stay
        return linear, square

    def _stays(self, view: View, terms: StayTerms) -> None:
        """Draw the acute severity of each stay on a shifted grid."""
        c, p = self.config, len(self.z)
        severity = self.severity[:, :, : view.encounters]
        burden = np.tensordot(severity, BURDEN, (1, 0))
        for j in terms.stays.tolist():
            centre = c.burden_acute * burden[:, j]
            q = centre[:, None] + 4.5 * GRID + (0.28 * (self.rng.random(p) - 0.5))[:, None]
            log_p = -0.5 * (q - centre[:, None]) ** 2
            log_p += acute_log_density(terms, j, q, severity[:, :, j])
            log_p += self._measured(view, j, q, severity[:, :, j])
            log_p += self._aftermath(view, terms, j, q)
            new = q[np.arange(p), self._pick(log_p.T)]
            on = np.flatnonzero(self.grid.last == j)
            change = (instability(new) - instability(self.q[:, j]))[:, None] * self.decay[on]
            self.rates[1][:, on] *= np.exp(c.readmission * change)
            self.rates[2][:, on] *= np.exp(c.readmission / 2 * change)
            self.q[:, j] = new

    def _measured(self, view: View, j: int, q: Floats, severity: Floats) -> Floats:
        panels = view.panels
        level = BETWEEN * self.usual + severity @ LOADS
        linear = ((panels.ty[j] - panels.t[j] * level) * ACUTE * self.precision).sum(axis=1)
        square = float((panels.tt[j] * ACUTE**2 * self.precision).sum())
        log_p: Floats = q * linear[:, None] - 0.5 * square * q**2
        return log_p

    def _aftermath(self, view: View, terms: StayTerms, j: int, q: Floats) -> Floats:
        """What came after a stay, at the risk that it left behind."""
        c, e = self.config, self.evidence
        left = instability(q)
        log_p = np.zeros_like(q)
        later = terms.stays[terms.stays > j]
        if len(later):
            gap = (e.start[later[0]] - e.end[j]) * DAYS
            log_p += c.readmission * left * np.exp(-gap / c.readmission_days)
        on = np.flatnonzero(self.grid.last[: view.nodes] == j)
        if len(on):
            change = (left - instability(self.q[:, j])[:, None])[:, :, None] * self.decay[on]
            log_p -= np.einsum("pg,pqg->pq", self.rates[1][:, on], np.exp(c.readmission * change))
            log_p -= np.einsum(
                "pg,pqg->pq", self.rates[2][:, on], np.exp(c.readmission / 2 * change)
            )
        return log_p

    def _levels(self, view: View) -> None:
        """Draw the usual level of each test."""
        e, panels = view.encounters, view.panels
        count = panels.count[:e]
        fitted = np.einsum("pce,ck,ek->pk", self.severity[:, :, :e], LOADS, count, optimize=True)
        fitted += np.einsum("pe,ek->pk", self.q[:, :e], panels.t[:e]) * ACUTE
        weight = 1 + BETWEEN**2 * self.precision * count.sum(axis=0)
        mean = BETWEEN * self.precision * (panels.y[:e].sum(axis=0) - fitted) / weight
        self.usual = mean + self.rng.standard_normal(mean.shape) / np.sqrt(weight)

    def _frailty(self, view: View) -> None:
        c = self.config
        z = 4 * GRID[:, None] + 0.25 * (self.rng.random(len(self.z)) - 0.5)
        log_p = self._courses(view).of_frailty(z) - 0.5 * z**2
        stays = int(self.evidence.stay[: view.encounters].sum())
        expected = self.rates[1][:, : view.nodes].sum(axis=1) * np.exp(-c.frailty_events * self.z)
        log_p += stays * c.frailty_events * z - expected * np.exp(c.frailty_events * z)
        new = z[self._pick(log_p), np.arange(len(self.z))]
        self.rates[1] *= np.exp(c.frailty_events * (new - self.z))[:, None]
        self.z = new

    def _propensity(self, view: View) -> None:
        x = PROPENSITY_SD * (4 * GRID[:, None] + 0.25 * (self.rng.random(len(self.z)) - 0.5))
        visits = int((~self.evidence.stay[: view.encounters]).sum())
        expected = self.rates[0][:, : view.nodes].sum(axis=1) * np.exp(-self.log_v)
        log_p = -0.5 * (x / PROPENSITY_SD) ** 2 + visits * x - expected * np.exp(x)
        new = x[self._pick(log_p), np.arange(len(self.z))]
        self.rates[0] *= np.exp(new - self.log_v)[:, None]
        self.log_v = new

    def _entry(self) -> None:
        """Draw the node at which follow-up began; all are as likely before anything is seen."""
        n = self.grid.entering
        self.entry = np.zeros_like(self.entry)
        self._refresh()
        at_risk = self.rates[0][:, :n] + self.rates[1][:, :n] + self.rates[2][:, :n]
        waited = np.cumsum(at_risk[:, ::-1], axis=1)[:, ::-1]  # from the start of each node on
        self.entry = self._pick(-waited.T)
        outside = np.arange(n) < self.entry[:, None]
        for rate in self.rates:
            rate[:, :n][outside] = 0.0

    def _draws(self, view: View) -> Draws:
        stays = np.flatnonzero(self.evidence.stay[: view.encounters])
        acute = self.q[:, stays[-1]] if len(stays) else np.zeros(len(self.z))
        return Draws(
            self.z,
            np.exp(self.log_v),
            self.onset.copy(),
            np.exp(self.log_rate),
            self.usual,
            acute.copy(),
        )
