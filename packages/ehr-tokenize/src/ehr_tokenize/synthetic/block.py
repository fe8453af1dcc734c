"""One block of subjects: what is behind them and what is written about them."""

from dataclasses import dataclass, replace

import numpy as np

from ehr_tokenize.synthetic import codes, novel, records
from ehr_tokenize.synthetic.conditions import RACES
from ehr_tokenize.synthetic.config import SynthConfig
from ehr_tokenize.synthetic.course import DAYS, Encounters, simulate
from ehr_tokenize.synthetic.disease import Bools, Floats, Ints, Latent, sample_latent
from ehr_tokenize.synthetic.records import CODE_ID
from ehr_tokenize.synthetic.rows import (
    DAY,
    INSIDE,
    LAST,
    STATIC,
    Rows,
    concatenate,
    in_order,
    plain,
)

BLOCK = 2048
"""Subjects that are drawn together, each block from its own random stream."""
FIRST_ENTRY = int(np.datetime64("2008-01-01", "m").astype(np.int64))
ENTRY_DAYS = 5 * 365
"""Days after `FIRST_ENTRY` on which subjects enter."""
LAST_DAY = int(np.datetime64("2022-01-01", "m").astype(np.int64))
ENTRY_AGE, ENTRY_AGE_SD = 52.0, 17.0
"""Mean and deviation of the age at entry, before it is held to 18..90."""


@dataclass(frozen=True, slots=True)
class Block:
    """Some subjects, whole."""

    ids: Ints
    """[N], their `subject_id`."""
    male: Bools
    """[N]."""
    birth: Ints
    """[N], minutes since 1970."""
    latent: Latent
    """Of the N subjects."""
    usual: Floats
    """[N, K], deviations of each subject's own laboratory levels."""
    encounters: Encounters
    """By subject and time."""
    rows: Rows
    """Every event, by subject and time, static ones first; in the codes of `VOCABULARY`."""


def draw_block(config: SynthConfig, block: int) -> Block:
    """Draw one block of subjects.

    Args:
        config: Of the cohort.
        block: Number of the block; it has subjects `block * BLOCK` to `(block + 1) * BLOCK`.
    """
    n = min(BLOCK, config.num_patients - block * BLOCK)
    rng = np.random.default_rng(np.random.SeedSequence(config.seed, spawn_key=(block,)))
    male = rng.random(n) < 0.5
    race = rng.choice(len(RACES), size=n, p=list(RACES.values()))
    entry_age = np.clip(ENTRY_AGE + ENTRY_AGE_SD * rng.standard_normal(n), 18, 90)
    entry = FIRST_ENTRY + rng.integers(0, ENTRY_DAYS * DAY, size=n)
    birth = (entry - np.rint(entry_age * DAYS * DAY).astype(np.int64)) // DAY * DAY
    entry_age = (entry - birth) / (DAYS * DAY)
    lost = np.full(n, np.inf)
    if config.dropout_rate > 0:
        lost = rng.exponential(1 / config.dropout_rate, size=n)
    end_age = np.minimum((LAST_DAY - birth) / (DAYS * DAY), entry_age + lost)

    latent = sample_latent(rng, male, config)
    course = simulate(rng, latent, entry_age, end_age, config)
    start = minutes(birth[course.encounters.subject], course.encounters.age)
    record, usual = records.write_record(rng, latent, course.encounters, start, config)
    everyone = np.arange(n)
    outside = np.setdiff1d(  # a death in hospital is written with its stay
        np.flatnonzero(~np.isnan(course.death)),
        course.encounters.subject[course.encounters.died],
    )
    dying = np.full(len(outside), CODE_ID[codes.DEATH])
    gender = np.where(male, CODE_ID["GENDER//M"], CODE_ID["GENDER//F"])
    races = np.array([CODE_ID[f"RACE//{x}"] for x in RACES])
    static = np.full(n, STATIC)
    rows = concatenate(
        [
            plain(everyone, static, INSIDE, gender),
            plain(everyone, static, INSIDE, races[race]),
            plain(everyone, birth, INSIDE, np.full(n, CODE_ID[codes.BIRTH])),
            record,
            plain(outside, minutes(birth[outside], course.death[outside]), LAST, dying),
        ]
    )
    ids = everyone + block * BLOCK + 1
    return Block(ids, male, birth, latent, usual, course.encounters, in_order(rows))


def with_novel_codes(rows: Rows, config: SynthConfig, block: int) -> Rows:
    """The events of a block as they are written: some in novel codes.

    The stream of random numbers is another one, so that nothing else depends on `novel_prob`.
    """
    if config.novel_prob == 0:
        return rows
    rng = np.random.default_rng(np.random.SeedSequence(config.seed, spawn_key=(block, 1)))
    return replace(rows, code=novel.renamed(rng, rows.code, config.novel_prob))


def minutes(birth: Ints, age: Floats) -> Ints:
    """Minutes since 1970 at an age in years, rounded down so that order is kept."""
    return birth + np.floor(age * (DAYS * DAY)).astype(np.int64)
