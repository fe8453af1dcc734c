"""Risks by the commands, of models whose every probability is known: chains written into weights."""

import json
from datetime import datetime, timedelta

import polars as pl
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from ehr_eval.cli import main
from ehr_eval.frames import KEY
from ehr_eval.generate import zeroshot as module
from ehr_eval.predictions import read_predictions
from ehr_tracking.contracts import PREDICTIONS
from ehr_tracking.errors import UnfinishedError
from ehr_tracking.manifest import load_manifest, verify

from .chains import Chain, word

EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001 -- MEDS times have no zone
DAILY = 1 - 0.81  # .1 at once, .3 by an illness that .3 meet
TASK = "name: {name}\ndoc: d\nstart: {{code: ^A$}}\noutcome: [{{code: {code}}}]\n{more}\n"
TASKS = {
    "bad": ("^BAD$", "horizon_days: 3"),
    "ill": ("^ILL$", "horizon_days: 2"),
    "well": ("^BAD$", "horizon_days: 3\nabsent: true"),
    "stopped": ("^BAD$", "stop: [{code: ^ILL$}]"),
    "rare": ("^RARE$", "horizon_days: 10"),
    "which": ("^BAD$", "given: [{code: ^(ILL|BAD)$}]"),
}
RISKS = {
    "bad": 1 - (1 - DAILY) ** 3,
    "ill": 1 - 0.7**2,
    "well": (1 - DAILY) ** 3,
    "stopped": (0.1 + 0.3 * 0.3) / (0.1 + 0.3 + 0.002),  # RARE comes before either, and stays
    "rare": 0.002 * sum(0.998**k for k in range(10)),
    "which": (0.1 + 0.3 * 0.3) / 0.4,
}


def at(day):
    return EPOCH + timedelta(days=day)


def write_labels(out, rows):
    for task, mine in rows.items():
        (out / task).mkdir(parents=True)
        table = {
            "subject_id": [s for s, _ in mine],
            "prediction_time": [at(d) for _, d in mine],
            "boolean_value": [s % 2 == 0 for s, _ in mine],
        }
        pl.DataFrame(table).write_parquet(out / task / "labels.parquet")
    return out


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A day, then well, ill, the outcome at once or after an illness, or what is rare and lasts."""
    root = tmp_path_factory.mktemp("zeroshot")
    day = word("TIME//1d", "time", seconds=86_400.0)
    chain = Chain(
        [day, *(word(code) for code in ("A", "ILL", "BAD", "RARE"))],
        {
            "[BOS]": {"A": 1.0},
            "A": {"TIME//1d": 1.0},
            "TIME//1d": {"A": 0.598, "ILL": 0.3, "BAD": 0.1, "RARE": 0.002},
            "ILL": {"TIME//1d": 0.7, "BAD": 0.3},
            "BAD": {"TIME//1d": 1.0},
            "RARE": {"TIME//1d": 1.0},
        },
    )
    subjects = range(1, 9)
    seen = [(d, "A") for d in range(4)]
    records = [(s, ("train", "tuning", "held_out")[min(s, 3) - 1], seen) for s in subjects]
    tokens = chain.tokens(root / "tokens", records)
    run = chain.checkpoint(root / "run", tokens)
    labels = write_labels(root / "labels", {t: [(s, 3) for s in subjects] for t in TASKS})
    for name, (code, more) in TASKS.items():
        (root / f"{name}.yaml").write_text(TASK.format(name=name, code=code, more=more))
    return root, tokens, run, labels


def call(work, *words, tasks=(), labels=None, command="zeroshot", code=0, **inputs):
    root, tokens, run, own = work
    given = {"checkpoint": run, "tokens": tokens, **inputs}
    if command == "zeroshot":
        given = {"labels": labels or own, "workers": 1, **given}
    line = [command, *(f"--{k}={v}" for k, v in given.items())]
    line += [f"--task={root / f'{t}.yaml'}" for t in tasks]
    done = CliRunner().invoke(main, [*line, *(str(w) for w in words)])
    assert done.exit_code == code, done.output
    return done.output


@pytest.mark.parametrize("estimator", ["mc", "scope", "reach"])
def test_risks_are_those_of_the_chain_and_their_intervals_hold_them(work, estimator):
    root, *_ = work
    out = root / estimator
    settings = ("-s", "draw.samples=400", "-s", "draw.horizon=400d", "-s", "draw.precision=fp32")
    said = call(work, *settings, tasks=TASKS, estimator=estimator, out=out)
    assert verify(out) == []
    for name, exact in RISKS.items():
        assert name in said
        found = pl.read_parquet(out / name / "held_out.parquet")
        assert found["subject_id"].to_list() == list(range(3, 9))
        risk = found["predicted_boolean_probability"]
        width = (found["upper"] - found["lower"]).mean()
        assert risk.mean() == pytest.approx(exact, abs=width / 6**0.5 + 1e-6), name
        held = (found["lower"] <= exact + 1e-6) & (exact - 1e-6 <= found["upper"])
        assert held.sum() >= 4, name
        assert (found["tokens"] > 400).all()
    # chances say the same with fewer futures: next to nothing is left to the dice of what is rare
    rare = pl.read_parquet(out / "rare" / "held_out.parquet")
    width = (rare["upper"] - rare["lower"]).mean()
    assert width > 0.02 if estimator == "mc" else width < 0.004
    assert "absent" in json.dumps(load_manifest(out).config)


SECONDS = [60.0, 3600.0, 50 * 86_400.0, 100 * 86_400.0]
"""Edges of gaps: none, then minutes, days, and many days."""


@pytest.mark.parametrize("estimator", ["mc", "scope", "reach"])
def test_with_gaps_of_a_time_head_what_comes_too_late_does_not_count(tmp_path, estimator):
    """Of A 60% come within minutes, of the outcome half; else after the horizon of a day."""
    gaps = {"A": [0, 0.6, 0, 0.4], "BAD": [0, 0.5, 0, 0.5]}
    chain = Chain(
        [word("A"), word("BAD")],
        {"[BOS]": {"A": 1.0}, "A": {"A": 0.8, "BAD": 0.2}, "BAD": {"A": 1.0}},
        gaps=gaps,
        edges=SECONDS,
    )
    subjects = range(1, 9)
    records = [(s, "train" if s < 3 else "held_out", [(0, "A"), (1, "A")]) for s in subjects]
    tokens = chain.tokens(tmp_path / "tokens", records)
    run = chain.checkpoint(tmp_path / "run", tokens, "chrono", age="none", time="none")
    labels = write_labels(tmp_path / "labels", {"bad": [(s, 1) for s in subjects]})
    (tmp_path / "bad.yaml").write_text(
        TASK.format(name="bad", code="^BAD$", more="horizon_days: 1")
    )
    settings = ("--samples", 400, "--estimator", estimator, "-s", "draw.precision=fp32")
    call((tmp_path, tokens, run, labels), *settings, tasks=["bad"], out=tmp_path / "out")
    found = pl.read_parquet(tmp_path / "out" / "bad" / "held_out.parquet")
    exact = 0.2 * 0.5 / (1 - 0.8 * 0.6)
    risk = found["predicted_boolean_probability"]
    width = (found["upper"] - found["lower"]).mean()
    assert 0 < width < 0.1
    assert risk.mean() == pytest.approx(exact, abs=width / 2)
    assert ((found["lower"] <= exact) & (exact <= found["upper"])).sum() >= 4


def test_predictions_are_read_beside_those_of_others(work):
    root, _, _, labels = work
    out = root / "read"
    call(work, "--samples", 2, tasks=["bad"], estimator="mc", out=out)
    told = pl.read_parquet(labels / "bad" / "labels.parquet").filter(pl.col("subject_id") > 2)
    found = read_predictions(out, {"bad": told.sort(KEY)}, others=[])
    assert len(next(iter(found["bad"].values())).probability) == 6
    table = pq.read_table(out / "bad" / "held_out.parquet")
    PREDICTIONS.check({f.name: str(f.type) for f in table.schema}, where="it")


def test_direct_looks_at_the_next_token_alone(work):
    root, *_ = work
    # the prediction time lies half a day after the last event, so a day has to pass before anything
    call(work, tasks=["bad"], estimator="direct", out=root / "direct")
    found = pl.read_parquet(root / "direct" / "bad" / "held_out.parquet")
    assert found["predicted_boolean_probability"].to_list() == [0.0] * 6
    assert found["tokens"].to_list() == [0] * 6
    assert found["lower"].equals(found["upper"])


def test_other_parts_and_companions_give_the_same_risks_and_a_killed_run_goes_on(work, monkeypatch):
    root, *_ = work
    settings = ("--samples", 5, "-s", "draw.part=2")
    call(work, *settings, tasks=["bad", "ill"], out=root / "whole")
    call(work, "--samples", 5, tasks=["bad"], out=root / "alone")
    asked = []
    ask = module.ask

    def killed(question, *more):
        asked.append(question.number)
        if len(asked) == 3:
            raise UnfinishedError("no more")
        return ask(question, *more)

    monkeypatch.setattr(module, "ask", killed)
    call(work, *settings, tasks=["bad", "ill"], out=root / "again", code=2)
    assert not (root / "again").exists()
    call(work, *settings, tasks=["bad", "ill"], out=root / "again")
    assert asked == [0, 1, 2, 2]  # the parts that were there are not drawn anew
    bad = [pl.read_parquet(root / n / "bad" / "held_out.parquet") for n in ("whole", "alone")]
    assert bad[0].equals(bad[1])
    files = [root / n / "manifest.json" for n in ("whole", "again")]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_tuning_rows_are_asked_beside_and_move_no_risk(work):
    root, *_ = work
    settings = ("--samples", 6, "--estimator", "mc", "-s", "tuning=true")
    call(work, *settings[:4], tasks=["bad"], out=root / "untuned")
    call(work, *settings, tasks=["bad"], out=root / "tuned")
    assert not (root / "untuned" / "tuning").exists()
    bad = [pl.read_parquet(root / n / "bad" / "held_out.parquet") for n in ("untuned", "tuned")]
    assert bad[0].equals(bad[1])
    tuning = pl.read_parquet(root / "tuned" / "tuning" / "bad" / "tuning.parquet")
    assert tuning.select("subject_id", "boolean_value").rows() == [(2, True)]
    assert verify(root / "tuned") == []


def test_tasks_share_futures_whatever_came_of_them(work, tmp_path):
    labels, drawn = tmp_path / "labels", []
    write_labels(labels, {t: [(s, 3) for s in range(3, 9)] for t in ("bad", "ill")})
    for name in ("alike", "apart"):
        said = call(work, "--samples", 4, tasks=["bad", "ill"], labels=labels, out=tmp_path / name)
        drawn.append(said.rpartition(": ")[2])
        path = labels / "ill" / "labels.parquet"
        table = pl.read_parquet(path)
        table.with_columns(~pl.col("boolean_value")).write_parquet(path)
    assert drawn[0] == drawn[1]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"task": "code: ^NO_SUCH$"}, "task bad: no token of the vocabulary can tell its outcome"),
        ({"task": "code: ^BAD$, over: 3"}, "unknown key outcome.0.over"),
        ({"labels": {"bad": [(99, 3)]}}, "99"),
        ({"labels": {"ill": [(3, 3)]}}, "has no labels of task bad; it has ill"),
        ({"labels": {"bad": [(1, 3)]}}, "no label of task bad is of a subject"),
        ({"horizon": "0"}, "horizon_days = 0"),
    ],
)
def test_what_cannot_be_asked_is_refused_in_one_line(work, tmp_path, change, said):
    root, *_, labels = work
    text = (root / "bad.yaml").read_text()
    text = text.replace("code: ^BAD$", change.get("task", "code: ^BAD$"))
    text = text.replace("horizon_days: 3", f"horizon_days: {change.get('horizon', 3)}")
    path = tmp_path / "task.yaml"
    path.write_text(text)
    given = write_labels(tmp_path / "labels", change["labels"]) if "labels" in change else labels
    output = call(work, "--task", path, labels=given, out=tmp_path / "out", code=2)
    line = [x for x in output.splitlines() if x.startswith("Error")]
    assert len(line) == 1
    assert said in line[0]
    assert not (tmp_path / "out").exists()


def test_a_curve_tells_at_each_time_what_zeroshot_tells_then(work):
    root, *_ = work
    out, asked = root / "curve", ("bad", "ill")
    settings = ("--samples", 7, "--estimator", "scope", "--subject", 4)
    call(work, *settings, "--every", "12h", tasks=asked, out=out, command="curve")
    assert verify(out) == []
    found = pl.read_parquet(out / "curve.parquet")
    assert found.filter(task="bad")["prediction_time"].to_list() == [at(d / 2) for d in range(7)]
    call(work, *settings[:4], tasks=["bad"], out=root / "point")
    one = pl.read_parquet(root / "point" / "bad" / "held_out.parquet").filter(subject_id=4)
    last = found.filter(task="bad", prediction_time=at(3))
    assert last["risk"].to_numpy() == pytest.approx(one["predicted_boolean_probability"].to_numpy())
    page = (out / "report.html").read_text()
    assert page.count("data:image/png") == 2
    assert "a stay began" in page
    for task in asked:
        assert (out / "plots" / f"{task}.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--subject", 77), "has no subject 77"),
        (("--subject", 4, "--every", "1m"), "more than 2,000"),
        (("--subject", 4, "--every", "soon"), "--every 'soon'"),
        (("--subject", 4, "--from", "noon"), "--from 'noon' is no time"),
        (("--subject", 4, "--from", "1970-01-03", "--to", "1970-01-02"), "before it begins"),
    ],
)
def test_a_curve_that_cannot_be_drawn_is_refused_in_one_line(work, tmp_path, words, said):
    output = call(work, *words, tasks=["bad"], out=tmp_path / "out", command="curve", code=2)
    line = [x for x in output.splitlines() if x.startswith("Error")]
    assert len(line) == 1
    assert said in line[0]
