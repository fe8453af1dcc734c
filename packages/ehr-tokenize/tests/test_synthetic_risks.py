import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from ehr_tokenize.synthetic import risks
from ehr_tokenize.synthetic.block import ENTRY_DAYS, draw_block
from ehr_tokenize.synthetic.config import RisksConfig, SynthConfig
from ehr_tokenize.synthetic.course import DAYS, Aftermath, simulate
from ehr_tokenize.synthetic.disease import (
    BURDEN,
    _invert,
    cumulative_hazard,
    draw_onsets,
    sample_latent,
)
from ehr_tokenize.synthetic.evidence import first_day_age, read_evidence
from ehr_tokenize.synthetic.future import death_in_stay, stays_long
from ehr_tokenize.synthetic.posterior import Chains
from ehr_tokenize.synthetic.tasks import label, read_visits
from ehr_tokenize.synthetic.views import Query

TASKS = {
    "in_hospital_mortality",
    "readmission_30d",
    "long_stay",
    "mortality_1y",
    "new_diagnosis_1y",
    "abnormal_lab_next_visit",
}


def test_the_cumulative_hazard_is_what_the_drawn_age_inverts() -> None:
    rng = np.random.default_rng(0)
    causes = rng.uniform(5, 120, (500, 3))
    causes[rng.random(causes.shape) < 0.3] = np.inf
    ratios = np.array([0.9, -0.4, 1.6])
    target = rng.exponential(size=500)
    age = _invert(target, causes, ratios, 2.5)
    assert np.allclose(cumulative_hazard(age, causes, ratios, 2.5), target)


def test_drawing_what_comes_after_an_age_anew_leaves_the_distribution_as_it_was() -> None:
    rng = np.random.default_rng(1)
    config = SynthConfig()
    male = rng.random(20_000) < 0.5
    first = sample_latent(rng, male, config)
    again = draw_onsets(rng, first, male, np.full(len(male), 55.0), config)
    past = first.onset <= 55
    assert np.array_equal(first.onset[past], again.onset[past])
    assert np.array_equal(first.rate[past], again.rate[past])
    assert (again.onset[~past] > 55).all()
    everyone = np.arange(len(male))
    for age in (65.0, 80.0):
        a, b = (x.burden(everyone, np.full(len(male), age)) for x in (first, again))
        assert abs(a.mean() - b.mean()) < 4 * np.hypot(a.std(), b.std()) / np.sqrt(len(male))
        share = ((first.onset <= age).mean(axis=0), (again.onset <= age).mean(axis=0))
        assert np.abs(share[0] - share[1]).max() < 4 * np.sqrt(0.5 / len(male))


def test_risks_in_a_stay_are_the_frequencies_of_simulated_stays() -> None:
    rng = np.random.default_rng(2)
    config = SynthConfig(admission_rate=3, dropout_rate=0)
    latent = sample_latent(rng, rng.random(1500) < 0.5, config)
    entry = np.full(1500, 60.0)
    e = simulate(rng, latent, entry, entry + 3, config).encounters
    still = e.stay & (e.days > 1)
    q = e.acute[still]
    for risk, outcome in (
        (stays_long(q), e.days[still] > 7),
        (death_in_stay(q), e.died[still]),
    ):
        for low, high in ((-9, 0), (0, 1), (1, 9)):
            some = (q >= low) & (q < high)
            sd = np.sqrt((risk[some] * (1 - risk[some])).sum())
            assert abs((outcome[some] - risk[some]).sum()) < 4 * sd


def test_a_run_goes_on_from_what_the_last_stay_left_and_stops_once_seen() -> None:
    rng = np.random.default_rng(3)
    config = SynthConfig(dropout_rate=0)
    n = 4000
    latent = sample_latent(rng, np.zeros(n, bool), config)
    entry = np.full(n, 60.0)
    after = {}
    for unstable in (0.0, 1.0):
        before = Aftermath(entry, np.full(n, unstable))
        done = simulate(
            rng, latent, entry, entry + 9, config, before=before, until=entry + 30 / DAYS
        )
        e = done.encounters
        after[unstable] = (e.stay & (e.age < 60 + 30 / DAYS)).sum()
        seen = np.full(n, -np.inf)
        np.maximum.at(seen, e.subject, e.age + e.days / DAYS)
        late = e.age >= 60 + 30 / DAYS
        assert np.bincount(e.subject[late], minlength=n).max() == 1
    assert after[1.0] > 3 * after[0.0] > 0


@pytest.mark.slow
def test_outcomes_are_as_frequent_as_the_true_risks_say() -> None:
    config = SynthConfig(num_patients=1200, seed=11, risks=RisksConfig(true_draws=100))
    block = draw_block(config, 0)
    visits = read_visits(block.rows)
    rows = label(block, visits)
    rng = np.random.default_rng(0)
    true = risks._true_risks(rng, block, visits, read_evidence(block, visits), rows, config)
    assert set(true) == TASKS
    for task, risk in true.items():
        outcome = rows[task].label
        subject = visits.subject[rows[task].visit]
        for some in (risk < np.quantile(risk, 0.7), risk >= np.quantile(risk, 0.7)):
            difference = np.bincount(subject[some], (outcome - risk)[some], minlength=1200)
            # rows of a subject share futures: the deviation is taken over subjects; 0.005: the draws
            assert abs(difference.sum()) < 4 * np.sqrt((difference**2).sum()) + 0.005 * some.sum()
        assert risk[outcome].mean() > risk[~outcome].mean() * 1.3, task


@pytest.fixture(scope="module")
def posterior():
    """Where the truth lies among the draws given each subject's whole record."""
    config = SynthConfig(num_patients=150, seed=21, risks=RisksConfig(chains=24, cells=192))
    block = draw_block(config, 0)
    visits = read_visits(block.rows)
    evidence = read_evidence(block, visits)
    rng = np.random.default_rng(1)
    ranks, errors = [], []
    for subject in np.unique(visits.subject):
        low, high = np.searchsorted(visits.subject, [subject, subject + 1])
        earliest = float(first_day_age(block)[subject])
        chains = Chains(
            rng, evidence.take(slice(low, high)), bool(block.male[subject]),
            (earliest, earliest + ENTRY_DAYS / DAYS), config,
        )  # fmt: skip
        if visits.died[high - 1]:
            continue
        with threadpool_limits(1):
            [draws] = chains.sample([Query(high - low - 1, False)])
        age = evidence.end[high - 1]
        years = np.maximum(age - draws.onset, 0)
        burden = -np.expm1(-draws.rate * years) @ BURDEN
        truth = block.latent.burden(np.array([subject]), np.array([age]))[0]
        ranks.append(
            [
                (burden < truth).mean() + 0.5 * (burden == truth).mean(),
                (draws.frailty < block.latent.frailty[subject]).mean(),
                (draws.propensity < block.latent.propensity[subject]).mean(),
                (draws.usual[:, 0] < block.usual[subject, 0]).mean(),
            ]
        )
        errors.append((truth, burden.mean(), burden.std()))
    return np.array(ranks), np.array(errors).T


@pytest.mark.slow
def test_the_truth_is_anywhere_among_the_draws_with_equal_chance(posterior) -> None:
    # simulation-based calibration (Talts et al. 2018): ranks of the truth are uniform
    ranks, _ = posterior
    n = len(ranks)
    assert n > 100
    for rank in ranks.T:
        assert abs(rank.mean() - 0.5) < 4 * np.sqrt(1 / 12 / n) + 0.02
        assert abs(((rank > 0.25) & (rank < 0.75)).mean() - 0.5) < 4 * np.sqrt(0.25 / n)
        assert ((rank > 0.02) & (rank < 0.98)).mean() > 0.85


@pytest.mark.slow
def test_the_record_tells_most_of_the_burden(posterior) -> None:
    _, (truth, mean, spread) = posterior
    assert np.corrcoef(truth, mean)[0, 1] > 0.9
    assert 0.8 < np.sqrt(((truth - mean) ** 2).mean() / (spread**2).mean()) < 1.35


def test_a_chunk_is_the_same_whatever_was_drawn_before() -> None:
    few = RisksConfig(true_draws=4, chains=3, cells=16, burn_in=1, sweeps=1, kept=1, futures=2)
    config = SynthConfig(num_patients=60, seed=1, risks=few)
    first, second = (risks.chunk_risks(config, 0, 0) for _ in range(2))
    assert set(first) == TASKS
    for task, tables in first.items():
        assert [t.equals(u) for t, u in zip(tables, second[task], strict=True)] == [True, True]
