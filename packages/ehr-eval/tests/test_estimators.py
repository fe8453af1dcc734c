"""Estimators on Markov chains whose risks are known exactly, by a loop of the test's own."""

import re
from dataclasses import dataclass, field, fields, replace

import numpy as np
import pytest
import torch

from ehr_eval.generate.estimators import ESTIMATORS
from ehr_eval.generate.observers import Rows
from ehr_eval.generate.rules import Rule
from ehr_eval.generate.spelling import NOTHING, Spelling, Told
from ehr_eval.generate.wait import Wait
from ehr_eval.tasks.files import StartConfig, TaskFile
from ehr_eval.tasks.patterns import EventPattern
from ehr_models.vocabulary import Word
from ehr_tracking.errors import UserError

DAY = 86_400_000_000
HORIZON = 8
"""Days."""


def word(i, token, kind="code", **more):
    none = dict.fromkeys(("bin", "lower", "upper", "description", "parents"))
    code = token if kind == "code" else None
    return Word(
        **{"id": i, "token": token, "kind": kind, "code": code, "count": 0, "subjects": 0}
        | none
        | more
    )


def pattern(code, **bounds):
    return EventPattern(code=code, **bounds)


def task(outcome, **more):
    given = {"name": "t", "doc": "", "start": StartConfig(code="^A$"), "horizon_days": HORIZON}
    return TaskFile(outcome=outcome, **given | more)


@dataclass
class Chain:
    """Tokens, each drawn given the one before it; and when it happens: gaps in days, given which it is."""

    tokens: list
    """Name and kind."""
    next: dict
    """Token -> token -> weight."""
    gaps: dict | None = None
    """Token -> [chance of no day, of one, of two]; None: tokens of time tell."""
    edges: dict = field(default_factory=dict)

    def __post_init__(self):
        self.names = [name for name, _ in self.tokens]
        self.p = np.zeros((len(self.names),) * 2)
        for a, row in self.next.items():
            for b, weight in row.items():
                self.p[self.names.index(a), self.names.index(b)] = weight / sum(row.values())
        days = {n: int(n[-1]) for n, k in self.tokens if k == "time"}
        self.seconds = torch.tensor([days.get(n, 0) * 86400 for n in self.names])
        if self.gaps is not None:
            self.gap = np.array([self.gaps.get(n, [1, 0, 0]) for n in self.names])
        more = {"Q": lambda n: {"bin": int(n[1:])}, "T": lambda n: {"seconds": days[n] * 86400.0}}
        self.spelling = Spelling(
            [
                word(i, n, k, **(more[n[0]](n) if k in {"bin", "time"} else {}))
                for i, (n, k) in enumerate(self.tokens)
            ],
            self.edges,
        )

    def exact(self, yes, stops=(), horizon=HORIZON, begin="A"):
        """The chance of a token of `yes` within the horizon, no later than the moment of one of `stops`."""
        n = len(self.names)
        length = self.gap if self.gaps is not None else np.zeros((n, 3))
        if self.gaps is None:
            days = (self.seconds // 86400).tolist()
            length[np.arange(n), days] = 1
        good = np.array([name in yes for name in self.names])
        stop = np.array([name in stops for name in self.names])
        left = []  # risk by days left, after each token
        for days in range(horizon + 1):
            known = np.zeros(n)
            same = self.p * (length[:, 0] * ~good * ~(stop & (days > 0)))[None]
            known += self.p @ (length[:, : days + 1].sum(1) * good)
            for gap in range(min(days, 2) + 1):
                after = np.where(stop, left[0] if days else 0, left[days - gap] if gap else 0)
                moved = ~good & ~stop if gap else ~good & stop & (days > 0)
                known += self.p @ (length[:, gap] * (moved * after))
                known += self.p @ (length[:, gap] * (~good & stop) * (left[0] if gap else 0))
            left.append(np.linalg.solve(np.eye(n) - same, known))
        return left[horizon][self.names.index(begin)]


class Gaps:
    def __init__(self, chain):
        self.within = torch.from_numpy(chain.gap).cumsum(1)

    def chance_within(self, tokens, seconds):
        days = (seconds / 86400 + 1e-9).floor().long()
        found = self.within[tokens][:, days.clamp(0, 2)].T
        return (found * (days >= 0)[:, None]).float()


def draw(chain, observers, prompts, samples, seed=0, horizon=HORIZON, begin="A"):
    """Futures of `prompts` prompts that all end in one token, as the engine draws them."""
    rng = torch.Generator().manual_seed(seed)
    n = prompts * samples
    at = torch.arange(n)
    zeros = torch.zeros(n, dtype=torch.int64)
    p = torch.from_numpy(chain.p).float()
    told = {
        "future": at,
        "prompt": at // samples,
        "sample": at % samples,
        "end": zeros + horizon * DAY,
        "spelled": torch.full((n,), NOTHING),
        "alive": torch.ones(n, dtype=torch.bool),
    }
    rows = Rows(**{f.name: told.get(f.name, zeros) for f in fields(Rows)})
    last = torch.full((n,), chain.names.index(begin))
    timing = Gaps(chain) if chain.gaps is not None else None
    for each in observers:
        each.begin(n)
    while rows.alive.any():
        likely = p[last].clone()
        for each in observers:
            weights = each.before(rows, likely, timing)
            likely = likely if weights is None else likely * weights
        rows.alive &= likely.sum(1) > 0
        token = torch.multinomial(likely + (likely.sum(1, keepdim=True) == 0), 1, generator=rng)[
            :, 0
        ]
        gap = chain.seconds[token] * 1_000_000
        if timing is not None:
            gap = (
                torch.multinomial(torch.from_numpy(chain.gap)[token], 1, generator=rng)[:, 0] * DAY
            )
        time = torch.where(rows.alive, rows.time + gap, rows.time)
        happened = rows.alive & (time <= rows.end)
        for each in observers:
            each.after(rows, token, time, happened)
        rows = replace(
            rows,
            drawn=rows.drawn + 1,
            time=time,
            spelled=chain.spelling.follow(rows.spelled, token),
            alive=happened,
        )
        finished = torch.stack([each.finished(rows) for each in observers]).all(0)
        rows.alive = rows.alive & ~finished
        keep = rows.alive.nonzero()[:, 0]
        rows = Rows(**{f.name: getattr(rows, f.name)[keep] for f in fields(Rows)})
        last = token[keep]


def estimated(chain, name, asked, prompts, samples, confidence=0.95, **more):
    found = ESTIMATORS[name](asked, chain.spelling)
    draw(chain, [found], prompts, samples, **more)
    value, weight = (x.view(prompts, samples).numpy() for x in (found.value, found.weight))
    return found.estimate(value, weight, confidence), found


def by_clock(bad, after_end=0.002):
    """Well, ill and worse, by which token of time is drawn; only the worse meet the outcome."""
    times = [("T1", "time"), ("T2", "time")]
    return Chain(
        tokens=[*times, *((n, "code") for n in ("A", "ILL", "WORSE", "BAD", "END"))],
        next={
            "A": {"T1": 6, "ILL": 2, "END": 0.3},
            "T1": {"A": 9, "ILL": 1},
            "ILL": {"T2": 5, "WORSE": 3},
            "T2": {"ILL": 3, "A": 3, "WORSE": 3},
            "WORSE": {"T2": 5, "BAD": bad, "A": 4},
            "BAD": {"T1": 1},
            "END": {"T1": 1, "BAD": after_end},
        },
    )


def by_gaps(bad, after_end=0.002):
    """The same where each token says when it comes."""
    return Chain(
        tokens=[(n, "code") for n in ("A", "ILL", "WORSE", "BAD", "END")],
        next={
            "A": {"A": 6, "ILL": 2, "END": 0.3},
            "ILL": {"A": 5, "WORSE": 3},
            "WORSE": {"ILL": 4, "BAD": bad, "A": 4},
            "BAD": {"A": 1},
            "END": {"A": 1, "BAD": after_end},
        },
        gaps={
            "A": [0.2, 0.5, 0.3],
            "ILL": [0.5, 0.5, 0],
            "BAD": [0.3, 0.3, 0.4],
            "END": [0.5, 0.5, 0],
        },
    )


OUTCOME = (pattern("^BAD$"),)
CHAINS = {"clock": by_clock, "gaps": by_gaps}
REPEATS, SAMPLES = 200, 100
CASES = [("clock", bad) for bad in (0.003, 0.1, 0.7, 12)] + [("gaps", 0.004), ("gaps", 3)]
"""Chain, and weight of the outcome: risks of .001, .02, .1 and .6; of .001 and .2."""


@pytest.fixture(scope="module")
def repeated():
    """Chain, weight of the outcome and estimator -> the truth, and 200 estimates from 100 futures each."""
    found = {}
    for name, bad in CASES:
        chain = CHAINS[name](bad)
        exact = chain.exact({"BAD"})
        for estimator in ("mc", "scope", "reach"):
            made, _ = estimated(chain, estimator, task(OUTCOME), REPEATS, SAMPLES)
            found[name, bad, estimator] = (exact, made)
    return found


def test_risks_of_the_chains_are_what_they_are_meant_to_be(repeated):
    exact = [repeated[name, bad, "mc"][0] for name, bad in CASES]
    assert exact == pytest.approx([0.0009, 0.017, 0.105, 0.6, 0.0009, 0.15], rel=0.25)


@pytest.mark.parametrize("estimator", ["mc", "scope", "reach"])
@pytest.mark.parametrize(("name", "bad"), CASES)
def test_estimates_are_unbiased_and_their_intervals_hold_as_often_as_they_say(
    repeated, name, bad, estimator
):
    exact, found = repeated[name, bad, estimator]
    off = found.risk.mean() - exact
    assert abs(off) < 4 * found.risk.std() / REPEATS**0.5
    held = ((found.lower <= exact) & (exact <= found.upper)).mean()
    noise = (0.95 * 0.05 / REPEATS) ** 0.5
    assert held > 0.95 - 3.5 * noise
    if estimator != "mc":  # that one promises at least so much
        assert held <= 0.999 or exact < 0.005
    assert (found.lower <= found.risk).all()
    assert (found.risk <= found.upper).all()


@pytest.mark.parametrize(
    ("bad", "scope", "reach"),
    [
        (0.003, (50, 5000), (50, 5000)),
        (0.1, (20, 300), (20, 300)),
        (0.7, (5, 40), (5, 40)),
        (12, (0.6, 3), (1.3, 6)),
    ],
)
def test_chances_need_far_fewer_futures_than_counts_where_the_outcome_is_rare(
    repeated, bad, scope, reach
):
    """A reference has 50x at .02, 8-10x at .11, and .9x (scope) and 2.9x (reach) at .52."""
    exact = repeated["clock", bad, "mc"][0]
    counted = exact * (1 - exact) / SAMPLES
    for name, (low, high) in (("scope", scope), ("reach", reach)):
        ratio = counted / repeated["clock", bad, name][1].risk.var()
        assert low < ratio < high, name


@pytest.mark.parametrize("name", CHAINS)
@pytest.mark.parametrize("estimator", ["mc", "scope", "reach"])
def test_an_outcome_after_what_competes_with_it_does_not_count_but_at_its_moment_does(
    name, estimator
):
    chain = CHAINS[name](5, after_end=1)
    exact = chain.exact({"BAD"}, {"END"})
    assert exact < 0.97 * chain.exact({"BAD"})
    asked = task(OUTCOME, stop=(pattern("^END$"),))
    found, _ = estimated(chain, estimator, asked, 100, 100, seed=1)
    assert abs(found.risk.mean() - exact) < 4 * found.risk.std() / 10


@pytest.mark.parametrize("name", CHAINS)
def test_several_tasks_look_on_at_one_pool_and_see_what_each_would_see_alone(name):
    chain = CHAINS[name](5)
    asked = [task(OUTCOME), task((pattern("^WORSE$"),), horizon_days=3), task(OUTCOME, absent=True)]

    def observers():
        kinds = ("mc", "scope", "scope")
        return [ESTIMATORS[k](t, chain.spelling) for k, t in zip(kinds, asked, strict=True)]

    together = observers()
    draw(chain, together, 100, 50)
    for each, days, yes in zip(
        together, (HORIZON, 3, HORIZON), ("BAD", "WORSE", "BAD"), strict=True
    ):
        exact = chain.exact({yes}, horizon=days)
        exact = 1 - exact if each.task.absent else exact
        value, weight = (x.view(100, 50).numpy() for x in (each.value, each.weight))
        risk = each.estimate(value, weight, 0.95).risk
        assert abs(risk.mean() - exact) < 4 * risk.std() / 10
    assert together[1].spent.sum() < together[0].spent.sum()


@pytest.mark.parametrize("name", CHAINS)
@pytest.mark.parametrize("estimator", ["mc", "scope", "reach"])
def test_where_something_decides_the_risk_is_among_the_futures_that_have_an_answer(name, estimator):
    chain = CHAINS[name](5)
    yes = chain.exact({"BAD"}, {"END"})
    asked = task(OUTCOME, given=(pattern("^(BAD|END)$"),))
    found, _ = estimated(chain, estimator, asked, 100, 100, seed=2)
    both = chain.exact({"BAD", "END"})
    exact = yes / both
    assert abs(found.risk.mean() - exact) < 4 * found.risk.std() / 10 + 0.01
    held = ((found.lower <= exact) & (exact <= found.upper)).mean()
    assert held > 0.85


def test_the_next_stay_begins_before_its_outcome_counts_and_its_end_ends_the_wait():
    chain = Chain(
        tokens=[("T1", "time"), *((n, "code") for n in ("A", "IN", "OUT", "BAD"))],
        next={
            "A": {"T1": 2, "BAD": 5, "IN": 1},  # what comes outside of a stay does not count
            "T1": {"A": 1},
            "IN": {"BAD": 1, "OUT": 3},
            "BAD": {"T1": 1},
            "OUT": {"T1": 1},
        },
    )
    start = StartConfig(code="^IN$", until="^OUT$", at="end")
    asked = task(OUTCOME, start=start, window="next", horizon_days=2000)
    for estimator in ("mc", "scope", "reach"):
        found, _ = estimated(chain, estimator, asked, 1, 2000, horizon=2000)
        assert found.risk[0] == pytest.approx(0.25, abs=1e-6 if estimator != "mc" else 0.05)


def test_direct_is_the_chance_of_the_next_token_and_draws_none():
    chain = by_clock(5)
    asked = task((pattern("^(BAD|END)$"),))
    found, observer = estimated(chain, "direct", asked, 3, 1, begin="WORSE")
    assert found.risk == pytest.approx(5 / 14)
    assert observer.spent.sum() == 0


def test_a_value_counts_by_the_number_of_its_bin_once_the_bin_is_told():
    bins = [("Q1", "bin"), ("Q2", "bin"), ("Q3", "bin")]
    chain = Chain(
        tokens=[("T1", "time"), ("A", "code"), ("K", "code"), ("NA", "code"), *bins],
        next={
            "A": {"K": 1, "NA": 4, "T1": 3},
            "K": {"Q1": 5, "Q2": 3, "Q3": 1},
            "NA": {"Q1": 1, "Q3": 1},
            **{q: {"T1": 1} for q, _ in bins},
            "T1": {"A": 1},
        },
        edges={"K": [3.5, 5.0], "NA": [135.0, 145.0]},
    )
    a, k = 1 / 8, 1 / 9  # K, and then Q3
    exact = 1 - (1 - a * k) ** (HORIZON + 1)
    for estimator in ("mc", "scope", "reach"):
        asked = task((pattern("^K$", above=5.0),))
        found, _ = estimated(chain, estimator, asked, 50, 200)
        assert abs(found.risk.mean() - exact) < 4 * found.risk.std() / 50**0.5
    assert not Rule(chain.spelling, [pattern("^K$", above=5.1)]).can_happen()  # no bin is known to
    assert Rule(chain.spelling, [pattern("^K$", below=4.0)]).can_happen()


HEADS = [f"ICD//{a}{n}" for a in "AE" for n in (10, 11)]
VOCABULARY = [
    *((h, "code", {}) for h in (*HEADS, "K", "NA", "ADM")),
    *((f"ICD//3-6//.{n}", "part", {}) for n in (6, 65, 7)),
    ("ICD//SFX//A", "part", {}),
    *((f"Q{n}", "bin", {"bin": n}) for n in (1, 2, 3)),
    ("K//Q2", "value", {"code": "K", "bin": 2, "lower": 3.5, "upper": 5.0}),
    ("TIME", "time", {"seconds": 3600.0}),
    ("[UNK]", "special", {}),
]
NAMES = [row[0] for row in VOCABULARY]
EDGES = {"K": [3.5, 5.0], "ICD//E11.6": [1.0]}
PATTERNS = [
    [pattern("^ICD//E1[01]")],
    [pattern(r"^ICD//E11\.65$")],
    [pattern("65A$"), pattern("^ADM")],
    [pattern("^K$", above=4.0)],
    [pattern("^K$", below=3.5), pattern(r"E11\.6$", above=0.5)],
    [pattern("^K$")],
]


def events(ids):
    """What tokens tell, read anew from the first on: code and bounds of each event."""
    told, goes_on = [], False
    for i in ids:
        token, kind, more = VOCABULARY[i]
        if kind in {"code", "value"}:
            bounds = (more.get("lower", -np.inf), more.get("upper", np.inf))
            told.append((more.get("code", token), *bounds))
            goes_on = kind == "code"
        elif kind == "part" and goes_on:
            told[-1] = (told[-1][0] + token.split("//")[-1], -np.inf, np.inf)
        elif kind == "bin" and goes_on:
            edges = [-np.inf, *EDGES.get(told[-1][0], []), np.inf]
            if len(edges) > 2 and more["bin"] < len(edges):
                told[-1] = (told[-1][0], *edges[more["bin"] - 1 : more["bin"] + 1])
            goes_on = False
        elif kind not in {"part", "bin"}:
            goes_on = False
    return told


@pytest.mark.parametrize("patterns", PATTERNS, ids=lambda p: p[0].code)
def test_a_rule_allows_the_tokens_by_which_decoded_sequences_first_match(patterns):
    words = [word(i, token, kind, **more) for i, (token, kind, more) in enumerate(VOCABULARY)]
    spelling = Spelling(words, EDGES)
    rule = Rule(spelling, patterns)

    def match(ids):
        told = events(ids)
        found = [Told(*told[-1])] if told else []
        yes = False
        for t in found:
            for p in patterns:
                value = t.value
                near = value is not None and (p.above or -9) < value < (p.below or 9)
                bounded = p.above is not None or p.below is not None
                yes |= re.search(p.code, t.code) is not None and (near or not bounded)
        return len(told), yes

    rng, hits = np.random.default_rng(0), 0
    for _ in range(200):
        ids = rng.integers(0, len(VOCABULARY), rng.integers(0, 6)).tolist()
        ids += [rng.choice([NAMES.index(n) for n in ("K", "ICD//E11", "ICD//3-6//.6")])]
        state = torch.full((1,), NOTHING)
        for i in ids:
            state = spelling.follow(state, torch.tensor([i]))
        before = match(ids)
        expected = {
            v
            for v in range(len(VOCABULARY))
            if (after := match([*ids, v]))[1] and not (before[1] and after[0] == before[0])
        }
        mask = rule.mask(state)[0]
        assert set(rule.tokens[mask].tolist()) == expected
        every = torch.arange(len(VOCABULARY))
        happens = rule.happens(state.expand(len(every)), every)
        assert set(every[happens].tolist()) == expected
        hits += len(expected)
    assert hits > 20
    assert rule.can_happen()


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (task((pattern("^NO_SUCH"),)), "can tell its outcome (^NO_SUCH)"),
        (task((pattern("^K$", above=99),)), "can tell its outcome (^K$ above 99)"),
        (task((pattern("^TIME"),)), "can tell its outcome (^TIME)"),
        (
            task(
                (pattern("^K$"),),
                start=StartConfig(code="^X", until="^Y"),
                window="next",
            ),
            "can tell its stay that it has to be in (^X)",
        ),
    ],
)
def test_an_outcome_that_no_token_can_tell_is_refused(asked, said):
    words = [word(i, token, kind, **more) for i, (token, kind, more) in enumerate(VOCABULARY)]
    with pytest.raises(UserError) as e:
        Wait(asked, Spelling(words, EDGES))
    assert said in str(e.value)
