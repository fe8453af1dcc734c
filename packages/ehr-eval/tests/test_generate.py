"""Futures of chains whose every probability is known: their laws, their ends, what they may see, and files."""

import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from datetime import datetime, timedelta

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from click.testing import CliRunner

from ehr_eval.cli import main
from ehr_eval.generate.build import build_engine
from ehr_eval.generate.config import GenerateConfig
from ehr_eval.generate.prompts import make_prompts
from ehr_eval.generate.run import generate
from ehr_eval.generate.stops import ENOUGH, SUPPRESSED
from ehr_models.checkpoint import load_checkpoint, save_checkpoint
from ehr_models.data.store import open_split
from ehr_models.data.tokens import open_tokens
from ehr_models.kinds import KINDS
from ehr_models.registry import build, model_class
from ehr_tracking.contracts import TRAJECTORIES
from ehr_tracking.manifest import load_manifest, verify

from .chains import DAY, Chain, labels, word

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
    generate(
        checkpoint,
        tokens,
        asked,
        root / name,
        GenerateConfig(precision="fp32", **settings),
        workers=workers,
    )
    return tuple(pl.read_parquet(root / name / f"{f}/*.parquet") for f in ("events", "futures"))


def share(p, n):
    """About p of n, as far as chance lets it."""
    return pytest.approx(p, abs=4.5 * (p * (1 - p) / n) ** 0.5 + 1e-9)


def test_what_follows_comes_as_often_as_the_chain_says(timed):
    root, _, tokens, run = timed
    n = 4000
    events, futures = draw(root, tokens, run, [(2, 5)], samples=n, horizon="12h")
    assert futures["reason"].unique().to_list() == ["horizon"]
    assert events.height == 0  # a day is the least
    assert futures["until"].unique().to_list() == [at(5.5)]
    events, futures = draw(root, tokens, run, [(2, 5)], samples=n, horizon="36h")
    assert set(events["time"]) == {at(6)}
    # six months are beyond the horizon; what train lacks, a birth and [MASK] are left out behind B
    a, b, dead = 0.75 * 0.6, 0.75 * 0.3, 0.75 * 0.1
    first = events.group_by("sample", maintain_order=True).first()
    for code, p in {"A": a, "B": b, "MEDS_DEATH": dead}.items():
        assert (first["code"] == code).sum() / n == share(p, n)
    after = events.filter(events["sample"].is_in(first.filter(code="B")["sample"].implode()))
    again = after.group_by("sample").len().filter(pl.col("len") == 2).height
    assert again / first.filter(code="B").height == share(0.5 / 0.7, first.filter(code="B").height)
    assert Counter(futures["reason"]) == {
        "death": first.filter(code="MEDS_DEATH").height,
        "horizon": n - first.filter(code="MEDS_DEATH").height,
    }
    assert futures.filter(reason="death")["until"].unique().to_list() == [at(6)]


def test_temperature_and_top_p_shape_what_is_drawn(timed):
    root, _, tokens, run = timed
    n = 2000
    some = {"samples": n, "horizon": "36h", "stop": ("^[AB]$",)}
    events, _ = draw(root, tokens, run, [(2, 5)], temperature=0.5, **some)
    weights = {"A": 0.6**2, "B": 0.3**2, "MEDS_DEATH": 0.1**2}
    day = 0.75**2 / (0.75**2 + 0.25**2)
    for code, weight in weights.items():
        found = (events["code"] == code).sum() / n
        assert found == share(day * weight / sum(weights.values()), n)
    events, _ = draw(root, tokens, run, [(2, 5)], top_p=0.7, **some)
    assert Counter(events["code"])["A"] / n == share(2 / 3, n)  # a day always; A or B
    assert set(events["code"]) == {"A", "B"}
    events, _ = draw(root, tokens, run, [(2, 5)], suppress=("^A$", "^TIME//6"), **some)
    assert Counter(events["code"])["B"] / n == share(0.75, n)


def test_every_future_is_a_walk_on_the_chain_and_ends_for_what_it_says(timed):
    root, _, tokens, run = timed
    rows = [(1, 3), (2, 0), (2, 5), (3, 4.5), (3, 5), (3, 200)]
    ways = {"horizon": "3d", "budget": 40, "stop": ("^B$",), "samples": 50}
    events, futures = draw(root, tokens, run, rows, **ways)
    assert set(futures["reason"]) == {"horizon", "death", "stop"}
    keys = ["subject_id", "prediction_time", "sample"]
    named = [(s, at(d), n) for s, d in rows for n in range(50)]
    assert futures.select(keys).sort(keys).rows() == named  # each once, also those without events
    of_two = events.filter(pl.col("subject_id") > 1)  # of one split, so of one part
    assert of_two.sort([*keys, "time"], maintain_order=True).equals(of_two)
    assert (events["time"] > events["prediction_time"]).all()
    assert (events["time"] <= events["prediction_time"] + timedelta(days=3)).all()
    told = events.group_by(keys, maintain_order=True).agg("code", "time")
    ends = {tuple(f[k] for k in keys): f for f in futures.to_dicts()}
    for row in told.to_dicts():
        future = ends[tuple(row[k] for k in keys)]
        for code, time in zip(row["code"][:-1], row["time"][:-1], strict=True):
            assert code == "A"  # after B and a death nothing comes
            assert time <= future["until"]
        last = {"A": "horizon", "B": "stop", "MEDS_DEATH": "death"}[row["code"][-1]]
        assert future["reason"] == last
        if last != "horizon":
            assert future["until"] == row["time"][-1]
    assert (
        futures.filter(reason="horizon")["until"]
        == futures.filter(reason="horizon")["prediction_time"] + timedelta(days=3)
    ).all()


def test_a_future_that_hits_its_budget_is_kept_as_that(timed):
    root, _, tokens, run = timed
    events, futures = draw(root, tokens, run, [(2, 5)], samples=100, horizon="100y", budget=4)
    assert set(futures["reason"]) == {"budget", "death"}
    assert futures.filter(reason="budget")["tokens"].unique().to_list() == [4]
    assert futures.filter(reason="death")["tokens"].max() <= 4
    assert events.height > 100


def test_the_end_of_a_record_is_an_end_where_the_vocabulary_knows_it(tmp_path):
    chain = Chain(
        [word("TIME//1d", "time", seconds=86_400.0), word("A"), word("SEX//F")],
        {"[BOS]": {"A": 1.0}, "A": {"TIME//1d": 0.5, "[EOS]": 0.5}, "TIME//1d": {"A": 1.0}},
        special={"[EOS]": 5},
    )
    tokens = chain.tokens(tmp_path / "tokens", [(1, "train", [(0, "A")])])
    run = chain.checkpoint(tmp_path / "run", tokens)
    events, futures = draw(tmp_path, tokens, run, [(1, 0)], samples=1000, horizon="10y")
    assert set(futures["reason"]) == {"end"}
    assert (futures["tokens"] == 1).sum() / 1000 == share(0.5, 1000)  # at once
    assert set(events["code"]) == {"A"}
    lengths = events.group_by("sample").len()["len"]
    assert (lengths == 1).sum() / len(lengths) == share(0.5, len(lengths))


def test_a_wait_until_the_prediction_time_counts(timed):
    """Half a year may still come after 30 days without anything; a day cannot."""
    root, _, tokens, run = timed
    events, _ = draw(root, tokens, run, [(2, 35)], samples=300, horizon="200d")
    first = events.group_by("sample", maintain_order=True).first()
    assert set(first["time"]) == {at(5 + 180)}
    assert first.height == 300
    events, _ = draw(root, tokens, run, [(2, 5 + 200)], samples=300, horizon="1y")
    first = events.group_by("sample", maintain_order=True).first()
    assert set(first["time"]) == {at(5 + 200 + 180)}  # under way for longer than its mean
    events, _ = draw(root, tokens, run, [(2, 5 + 1.5)], samples=2000, horizon="10d", stop=(".",))
    # longer than a day, shorter than where six months begin: half of the way to there
    reach = (86_400 * 180 * 86_400) ** 0.5 / 86_400
    assert set(events["time"]) == {at(5 + (1.5 + reach) / 2)}
    assert events.height / 2000 == share(0.75, 2000)


def test_what_comes_before_the_next_visit_is_told_where_time_tokens_stand_between_visits(tmp_path):
    chain = Chain(
        [word("TIME//D1", "time", seconds=100_000.0), word("A"), word("B")],
        {
            "[BOS]": {"A": 1.0},
            "A": {"B": 0.5, "TIME//D1": 0.5},
            "B": {"A": 1.0},
            "TIME//D1": {"B": 1.0},
        },
        scheme={"time": "calendar"},
    )
    tokens = chain.tokens(tmp_path / "tokens", [(1, "train", [(0, "A")])])
    run = chain.checkpoint(tmp_path / "run", tokens)
    events, _ = draw(tmp_path, tokens, run, [(1, 0)], samples=1000, horizon="1d", budget=30)
    soon = at(0) + timedelta(microseconds=1)
    assert set(events["time"]) == {soon}
    assert events["sample"].n_unique() / 1000 == share(0.5, 1000)
    events, _ = draw(tmp_path, tokens, run, [(1, 0)], samples=100, horizon="2d", budget=30)
    assert set(events["time"]) == {soon, soon + timedelta(seconds=100_000)}


def head_chain():
    """A and LAB, whose bins come at the same moment, dated by a time head."""
    edges = [1.0, 60.0, 3600.0, 86_400.0, 864_000.0]
    return Chain(
        [word("A"), word("LAB"), *(word(f"Q{n}", "bin", bin=n) for n in (1, 2, 3)), word("SEX//F")],
        {
            "[BOS]": {"A": 1.0},
            "A": {"A": 0.5, "LAB": 0.5},
            "LAB": {"Q1": 0.25, "Q2": 0.25, "Q3": 0.5},
            **{f"Q{n}": {"A": 1.0} for n in (1, 2, 3)},
        },
        gaps={"A": [0.4, 0, 0.2, 0.4, 0], "LAB": [0.2, 0, 0, 0, 0.8], "Q1": [0, 0, 0, 0, 1.0]},
        edges=edges,
        inner={"LAB": [2.0, 5.0]},
    )


@pytest.fixture(scope="module")
def headed(tmp_path_factory):
    root, chain = tmp_path_factory.mktemp("headed"), head_chain()
    records = [(1, "train", [(0, "A"), (4, "A")]), (2, "held_out", [(None, "SEX//F")])]
    tokens = chain.tokens(root / "tokens", records)
    return root, tokens, chain.checkpoint(root / "run", tokens, "chrono", age="none", time="none")


def test_gaps_and_values_come_as_often_as_the_time_head_and_the_chain_say(headed):
    root, tokens, run = headed
    n = 4000
    events, _ = draw(root, tokens, run, [(1, 4)], samples=n, horizon="30d", budget=3)
    first = events.group_by("sample", maintain_order=True).first()
    hours = (first["time"] - first["prediction_time"]).dt.total_seconds() / 3600
    # nothing comes at the prediction time itself: .6 of A and .8 of LAB are left
    a, lab = 0.5 * 0.6, 0.5 * 0.8
    is_a = first["code"] == "A"
    assert is_a.sum() / n == share(a / (a + lab), n)
    assert ((hours < 1) & is_a).sum() / is_a.sum() == share(0.2 / 0.6, is_a.sum())
    assert (hours.filter(is_a) < 24.01).all()
    assert (hours.filter(~is_a) > 23.99).all()
    # log-uniform within a bin: half of the gaps are below the geometric middle
    middle = (24 * 240) ** 0.5
    assert (hours.filter(~is_a) < middle).sum() / (~is_a).sum() == share(0.5, (~is_a).sum())
    values = first.filter(code="LAB")["numeric_value"]
    assert (values > 5).sum() / len(values) == share(0.5, len(values))
    assert ((values > 2) & (values < 5)).sum() / len(values) == share(0.25, len(values))


def test_a_gap_under_way_goes_on(headed):
    """Two hours after A with nothing since: only what takes longer is left."""
    root, tokens, run = headed
    n = 4000
    events, _ = draw(root, tokens, run, [(1, 4 + 2 / 24)], samples=n, horizon="30d", budget=3)
    first = events.group_by("sample", maintain_order=True).first()
    hours = (first["time"] - first["prediction_time"]).dt.total_seconds() / 3600
    left = 0.4 * (1 - np.log(2) / np.log(24))
    a, lab = 0.5 * left, 0.5 * 0.8
    assert (first["code"] == "A").sum() / n == share(a / (a + lab), n)
    assert (hours > 0).all()
    of_a = hours.filter(first["code"] == "A") + 2
    assert (of_a.log() < (np.log(2) + np.log(24)) / 2).sum() / len(of_a) == share(0.5, len(of_a))


def test_a_record_without_dates_begins_with_the_prediction_time(headed):
    root, tokens, run = headed
    events, futures = draw(root, tokens, run, [(2, 100)], samples=50, horizon="1d", budget=6)
    assert events.height
    assert (events["time"] > at(100)).all()
    assert set(futures["reason"]) <= {"horizon", "budget"}


def test_what_is_recorded_later_changes_no_byte(timed):
    root, chain, tokens, run = timed
    later = [
        (s, split, [e for e in events if e[0] is None or e[0] <= 5]) for s, split, events in RECORDS
    ]
    later[1][2].extend([(6, "B"), (7, "MEDS_DEATH")])
    later[2][2].append((5.01, "A"))
    other = chain.tokens(root / "other", [RECORDS[0], *later[1:]])
    asked = labels(root / "before-labels", [(2, 5), (3, 5)])
    config = GenerateConfig(samples=20, horizon="3y", budget=50)
    for name, source in {"seen": tokens, "unseen": other}.items():
        generate(run, source, asked, root / name, config, workers=1)
    for folder in ("events", "futures"):
        seen, unseen = (
            (root / n / folder / "00000.parquet").read_bytes() for n in ("seen", "unseen")
        )
        assert seen == unseen


KILLED = """
import os, signal, sys
from ehr_eval.generate import run
from ehr_eval.generate.config import GenerateConfig

draw = run.draw_part

def draw_two(part, **more):
    if part.number == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    draw(part, **more)

run.draw_part = draw_two
run.generate(*sys.argv[1:], GenerateConfig(samples=7, horizon="3y", part=1, budget=50), workers=1)
"""


@pytest.mark.slow
def test_a_killed_run_goes_on_and_workers_share_parts_and_all_give_the_same_bytes(
    timed, monkeypatch
):
    root, _, tokens, run = timed
    asked = labels(root / "killed-labels", [(1, 0), (1, 3), (2, 0), (2, 5), (3, 4.5)])
    inputs = [str(p) for p in (run, tokens, asked, root / "killed")]
    done = subprocess.run([sys.executable, "-c", KILLED, *inputs], check=False)
    assert done.returncode == -signal.SIGKILL
    (left,) = root.glob(".killed.*.partial")
    before = {p.name: p.stat().st_mtime_ns for p in (left / "futures").iterdir()}
    assert sorted(before) == ["00000.parquet", "00001.parquet"]
    assert not (root / "killed").exists()
    config = GenerateConfig(samples=7, horizon="3y", part=1, budget=50)
    generate(run, tokens, asked, root / "killed", config, workers=1)
    after = {p.name: p.stat().st_mtime_ns for p in (root / "killed" / "futures").iterdir()}
    assert {n: after[n] for n in before} == before  # not drawn again
    generate(run, tokens, asked, root / "at-once", config, workers=1)
    generate(run, tokens, asked, root / "shared", config, workers=2)
    files = sorted(
        p.relative_to(root / "killed") for p in (root / "killed").rglob("*") if p.is_file()
    )
    assert len(files) == 11
    for other in ("at-once", "shared"):
        for name in files:
            assert (root / "killed" / name).read_bytes() == (root / other / name).read_bytes()


def test_the_artifact_is_sealed_and_says_what_it_was_made_with(timed):
    root, _, tokens, run = timed
    asked = labels(root / "sealed-labels", [(2, 5), (3, 5)])
    config = GenerateConfig(samples=3, horizon="20d", budget=30, per_sample=True, seed=4)
    summary = generate(run, tokens, asked, root / "sealed", config, workers=1)
    assert verify(root / "sealed") == []
    manifest = load_manifest(root / "sealed")
    assert manifest.contract == TRAJECTORIES.tag
    assert manifest.seed == 4
    assert sorted(manifest.inputs) == ["checkpoint", "labels", "tokens"]
    assert manifest.config["dates"] == "tokens"
    for folder, columns in {
        "events": TRAJECTORIES.columns,
        "futures": TRAJECTORIES.beside["futures/{part}.parquet"],
    }.items():
        schema = pq.read_schema(root / "sealed" / folder / "00000.parquet")
        assert {f.name: str(f.type) for f in schema} == {c.name: c.dtype for c in columns}
    assert (summary.futures, summary.prediction_times) == (6, 2)
    assert summary.events == pl.read_parquet(root / "sealed/events/*.parquet").height
    assert sum(summary.reasons.values()) == 6


def test_tables_of_samples_are_what_meds_trajectory_evaluation_reads(timed):
    root, *_ = timed
    if not (root / "sealed").exists():
        test_the_artifact_is_sealed_and_says_what_it_was_made_with(timed)
    files = sorted((root / "sealed" / "samples").iterdir())
    assert [p.name for p in files] == ["000.parquet", "001.parquet", "002.parquet"]
    events, futures = (
        pl.read_parquet(root / f"sealed/{f}/*.parquet") for f in ("events", "futures")
    )
    for n, path in enumerate(files):
        table = pq.read_table(path)
        # GeneratedTrajectorySchema 0.0.6: DataSchema of MEDS 0.4 with a prediction_time that is never null
        assert {f.name: (f.type, f.nullable) for f in table.schema} == {
            "subject_id": (pa.int64(), True),
            "time": (pa.timestamp("us"), True),
            "code": (pa.string(), True),
            "numeric_value": (pa.float32(), True),
            "prediction_time": (pa.timestamp("us"), False),
        }
        found = pl.DataFrame(pl.from_arrow(table))
        keys = ["subject_id", "prediction_time", "time"]
        assert found.sort(keys, maintain_order=True).equals(found)
        ends = found.filter(pl.col("code").str.starts_with("TRAJECTORY_END//"))
        assert found.join(
            ends, on=found.columns, how="anti", nulls_equal=True, maintain_order="left"
        ).equals(events.filter(sample=n).select(found.columns))
        last = events.group_by("subject_id", "sample").agg(pl.col("time").max())
        mine = futures.filter(sample=n).join(last, on=["subject_id", "sample"], how="left")
        mine = mine.filter(pl.col("time").is_null() | (pl.col("time") < pl.col("until")))
        assert ends["code"].to_list() == [f"TRAJECTORY_END//{why}" for why in mine["reason"]]
        assert ends["time"].to_list() == mine["until"].to_list()
    assert set(futures["reason"]) == {"death", "horizon"}
    everyone = pl.concat([pl.read_parquet(p) for p in files])
    assert everyone.group_by("subject_id").len().height == 2


ACES = """
predicates:
  a: {code: A}
  death: {code: MEDS_DEATH}
trigger: a
windows:
  input: {start: null, end: trigger, start_inclusive: true, end_inclusive: true, index_timestamp: end}
  gap: {start: input.end, end: start + 1h, start_inclusive: false, end_inclusive: true}
  target: {start: gap.end, end: start + 47h, start_inclusive: false, end_inclusive: true, label: death}
"""
LABELLER = os.environ.get("ZSACES_LABEL") or shutil.which("ZSACES_label")


@pytest.mark.slow
@pytest.mark.skipif(
    LABELLER is None,
    reason="MEDS_trajectory_evaluation 0.0.6 needs MEDS-transforms below 0.7, we have 0.7: install it in an "
    "environment of its own and name its command as $ZSACES_LABEL",
)
def test_meds_trajectory_evaluation_reads_the_tables_with_its_own_command(timed, tmp_path):
    _, _, tokens, run = timed
    asked = labels(tmp_path / "labels", [(2, 5), (3, 5)])
    config = GenerateConfig(samples=8, horizon="3d", precision="fp32", per_sample=True)
    generate(run, tokens, asked, tmp_path / "out", config, workers=1)
    (tmp_path / "task.yaml").write_text(ACES)
    given = {
        "task.criteria_fp": tmp_path / "task.yaml",
        "trajectories_dir": tmp_path / "out" / "samples",
        "output_dir": tmp_path / "labelled",
    }
    command = [LABELLER, *(f"{name}={value}" for name, value in given.items())]
    subprocess.run(command, check=True, capture_output=True, cwd=tmp_path)
    files = sorted((tmp_path / "labelled").glob("*.parquet"))
    assert [p.name for p in files] == [f"{n:03d}.parquet" for n in range(8)]
    for path in files:
        found = pl.read_parquet(path).sort("subject_id")
        assert found.select("subject_id", "prediction_time").rows() == [(2, at(5)), (3, at(5))]
        assert found["valid"].all()
        assert found["determinable"].all()  # also of futures in which nothing happens


class Seer:
    """Notes what it is shown; asks for weights; has enough after the first A."""

    def __init__(self, weights=None):
        self.weights, self.probabilities, self.happened = weights, [], []

    def begin(self, futures):
        self.seen = torch.zeros(futures, dtype=torch.bool)

    def before(self, rows, probabilities, timing):
        assert timing is None
        self.probabilities.append(probabilities[rows.alive].clone())
        return None if self.weights is None else self.weights.expand_as(probabilities)

    def after(self, rows, token, time, happened):
        self.happened += zip(
            rows.future[happened].tolist(),
            token[happened].tolist(),
            time[happened].tolist(),
            strict=True,
        )
        self.seen[rows.future] |= happened & (token == self.ids["A"])

    def finished(self, rows):
        return self.seen[rows.future]


def engine_of(timed, **settings):
    _, chain, tokens, run = timed
    split = open_split(open_tokens(tokens), "held_out")
    loaded = load_checkpoint(run)
    config = GenerateConfig(precision="fp32", **settings)
    built = build_engine(loaded, {"train": open_split(open_tokens(tokens), "train")}, config)
    rows = np.array([0, 1])
    prompts = make_prompts(split, rows, np.array([5 * DAY, 5 * DAY]), context=9, where="")
    Seer.ids = chain.ids
    return built.engine, prompts, chain


def test_observers_see_what_is_drawn_and_may_end_it_early(timed):
    engine, prompts, chain = engine_of(timed, samples=30, horizon="3y", budget=60)
    seer, other = Seer(), Seer()
    futures = engine.run(prompts, [seer, other], whole=False)
    drawn = sorted(
        zip(futures.future.tolist(), futures.time.tolist(), futures.token.tolist(), strict=True)
    )
    assert sorted((f, t, i) for f, i, t in seer.happened) == drawn
    assert (futures.reason == ENOUGH).sum() > 30
    shown = seer.probabilities[0]
    assert torch.allclose(shown.sum(1), torch.ones(60))
    # of the first step a time token only: .75 and .25 behind A, none of the day-long one's but .2 behind B
    ids = [chain.ids["TIME//1d"], chain.ids["TIME//6mo"]]
    assert shown[:30, ids].round(decimals=3).unique(dim=0).tolist() == [[0.75, 0.25]]
    assert shown[30:, ids].round(decimals=3).unique(dim=0).tolist() == [[1.0, 0.0]]
    first_a = [i for i, (f, t, _) in enumerate(seer.happened) if t == chain.ids["A"]]
    assert len({seer.happened[i][0] for i in first_a}) == len(first_a)  # nothing comes after
    whole = engine.run(prompts, [Seer()], whole=True)
    assert (whole.reason != ENOUGH).all()


def test_weights_of_observers_are_drawn_by_and_none_left_is_an_end(timed):
    engine, prompts, chain = engine_of(timed, samples=50, horizon="3y", budget=60)
    weights = torch.ones(len(chain.words))
    weights[chain.ids["A"]] = 0
    seer = Seer(weights)
    futures = engine.run(prompts, [seer], whole=True)
    assert chain.ids["A"] not in futures.token
    assert (futures.reason == SUPPRESSED).sum() == 0
    weights[[chain.ids["TIME//1d"], chain.ids["TIME//6mo"]]] = 0
    futures = engine.run(prompts, [Seer(weights)], whole=True)
    assert (futures.reason == SUPPRESSED).all()
    assert len(futures.token) == futures.tokens.sum() == 0
    assert (futures.until == 5 * DAY).all()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_draws_the_same_futures(timed, headed):
    for root, tokens, run in ((timed[0], *timed[2:]), headed):
        found = []
        for device in ("cpu", "cuda"):
            asked = labels(root / f"labels-{device}", [(1, 4)])
            config = GenerateConfig(samples=200, horizon="30d", budget=50, precision="fp32")
            generate(run, tokens, asked, root / device, config, device=device, workers=1)
            found.append(pl.read_parquet(root / device / "futures/*.parquet"))
        assert (found[0]["tokens"] == found[1]["tokens"]).mean() > 0.98


def refused(*arguments):
    result = CliRunner().invoke(main, ["generate", *map(str, arguments)])
    assert result.exit_code == 2
    (line,) = [x for x in result.output.splitlines() if x.strip()][-1:]
    assert line.startswith("Error: ")
    return line


def test_bad_input_is_one_clear_line(timed, tmp_path):
    _, chain, tokens, run = timed
    asked, out = labels(tmp_path / "labels", [(2, 5)]), tmp_path / "out"
    usual = ["--tokens", tokens, "--out", out, "--workers", "1"]
    unknown = labels(tmp_path / "unknown", [(2, 5), (77, 5)])
    line = refused("--checkpoint", run, "--labels", unknown, *usual)
    assert "name 1 subjects" in line
    assert "the first 77" in line
    line = refused("--checkpoint", run, "--labels", asked, *usual, "--horizon", "0d")
    assert "horizon = '0d'" in line
    assert "has to be above 0" in line
    line = refused("--checkpoint", run, "--labels", asked, *usual, "--horizon", "soon")
    assert "e.g. 365d" in line
    line = refused("--checkpoint", run, "--labels", asked, *usual, "-s", "suppress=['.']")
    assert "no token is left" in line

    def saved(model):
        directory = tmp_path / type(model).__name__
        directory.mkdir()
        made = {"producer": "test 0", "config": {}, "seed": 0, "inputs": {}}
        save_checkpoint(directory, model, tokens, metrics={}, **made)
        return directory

    encoder = build(KINDS["bert"].config(size="tiny", layers=1), len(chain.words))
    line = refused("--checkpoint", saved(encoder), "--labels", asked, *usual)
    assert "bert" in line
    assert "cannot generate" in line
    tuned = model_class(KINDS["llama"], "pooled", chain.model().config)(chain.model().config)
    line = refused("--checkpoint", saved(tuned), "--labels", asked, *usual)
    assert "none over tokens" in line
    timeless = Chain([word("A"), word("SEX//F")], {"A": {"A": 1.0}})
    others = timeless.tokens(tmp_path / "timeless", [(2, "train", [(0, "A")])])
    headless = timeless.checkpoint(tmp_path / "headless", others, "chrono")
    line = refused("--checkpoint", headless, "--labels", asked, "--tokens", others, "--out", out)
    assert "no time head" in line
    assert "no time tokens" in line
    line = refused("--checkpoint", headless, "--labels", asked, *usual)
    assert "another vocabulary" in line
    assert not out.exists()
    assert [p for p in tmp_path.iterdir() if p.name.startswith(".out")] == []
