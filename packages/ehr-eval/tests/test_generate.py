"""Futures of chains whose every probability is known, and of tiny models beside the plain forward."""

from collections import Counter
from datetime import datetime, timedelta

import polars as pl
import pytest

from ehr_eval.generate.config import GenerateConfig
from ehr_eval.generate.run import generate

from .chains import Chain, labels, word

EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001 -- MEDS times have no zone
HOUR_DAY_MONTH = {"TIME//1h": 3600.0, "TIME//1d": 86_400.0, "TIME//6mo": 180 * 86_400.0}


def at(day):
    return EPOCH + timedelta(days=day)


def timed_chain():
    """A day or six months, then A, B or a death, day after day."""
    words = [word(t, "time", seconds=s) for t, s in HOUR_DAY_MONTH.items()]
    words += [word("A"), word("B"), word("MEDS_DEATH"), word("MEDS_BIRTH"), word("SEX//F")]
    words += [word("UNSEEN", count=0)]
    intervals = {"TIME//1d": 0.75, "TIME//6mo": 0.25}
    return Chain(
        words,
        {
            "[BOS]": {"A": 1.0},
            "SEX//F": {"A": 1.0},
            "A": intervals,
            "B": {"A": 0.5, "UNSEEN": 0.1, "MEDS_BIRTH": 0.1, "[MASK]": 0.1, "TIME//1d": 0.2},
            "TIME//1h": {"A": 1.0},
            "TIME//1d": {"A": 0.6, "B": 0.3, "MEDS_DEATH": 0.1},
            "TIME//6mo": {"B": 0.9, "SEX//F": 0.1},
            "MEDS_DEATH": {"[EOS]": 1.0},
        },
    )


RECORDS = [
    (1, "train", [(None, "SEX//F"), (0, "A"), (3, "A"), (3, "A"), (9, "B")]),
    (2, "held_out", [(None, "SEX//F"), (0, "A"), (5, "A")]),
    (3, "held_out", [(None, "SEX//F"), (0, "MEDS_BIRTH"), (2, "A"), (4.5, "A"), (5, "B")]),
]


@pytest.fixture(scope="module")
def timed(tmp_path_factory):
    root, chain = tmp_path_factory.mktemp("timed"), timed_chain()
    tokens = chain.tokens(root / "tokens", RECORDS)
    return root, chain, tokens, chain.checkpoint(root / "run", tokens)


def draw(root, tokens, checkpoint, rows, **settings):
    """Futures from rows of (subject, day), as tables of events and of futures."""
    workers = settings.pop("workers", 1)
    name = f"futures-{len(list(root.iterdir()))}"
    asked = labels(root / f"{name}-labels", rows)
    generate(checkpoint, tokens, asked, root / name, GenerateConfig(**settings), workers=workers)
    return (
        pl.read_parquet(root / name / "events/*.parquet"),
        pl.read_parquet(root / name / "futures/*.parquet"),
    )


def test_what_follows_comes_as_often_as_the_chain_says(timed):
    root, _, tokens, run = timed
    events, futures = draw(root, tokens, run, [(2, 5)], samples=4000, horizon="12h", budget=500)
    assert futures["reason"].value_counts().sort("count").rows() == [("horizon", 4000)]
    assert events.height == 0  # a day is the least
    events, futures = draw(root, tokens, run, [(2, 5)], samples=4000, horizon="36h", budget=500)
    first = Counter(events["code"])
    assert events["time"].unique().to_list() == [at(6)]
    # B is followed by another A at once (.5 of .7, with what is never drawn left out), or by a day
    a, b, dead = 0.75 * 0.6, 0.75 * 0.3, 0.75 * 0.1
    expected = {"A": a + b * 0.5 / 0.7, "B": b, "MEDS_DEATH": dead}
    for code, p in expected.items():
        assert first[code] / 4000 == pytest.approx(p, abs=4 * (p * (1 - p) / 4000) ** 0.5 + 1e-3)
    assert futures.filter(reason="death").height == first["MEDS_DEATH"]
