"""`ehr-eval query`: what is asked, what may move an answer, and what is refused; on tiny tokens."""

import json
from types import SimpleNamespace

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from click.testing import CliRunner

from ehr_eval.cli import main
from ehr_eval.predictions import read_predictions
from ehr_models.checkpoint import load_checkpoint, save_checkpoint
from ehr_models.data.batch import pack
from ehr_models.data.store import open_split
from ehr_models.data.tokens import open_tokens
from ehr_models.data.windows import newest
from ehr_models.forecasts.query import Queries
from ehr_models.heads.forecasts import attach
from ehr_models.heads.token import hidden_states
from ehr_models.kinds.chrono import ChronoModelConfig
from ehr_models.kinds.gpt2 import Gpt2ModelConfig
from ehr_models.registry import build
from ehr_tracking.contracts import ANSWERS, BOS_ID, CHECKPOINT, PREDICTIONS, SPECIALS, TOKENS
from ehr_tracking.manifest import MANIFEST, new_artifact, read_manifest, seal, source, verify

DAY = 86_400_000_000
WORDS = [
    *((text, "special", None, None, None, None) for text in SPECIALS),
    ("SEX//F", "code", "SEX//F", None, None, None),
    *((f"DX//E1{i}", "code", f"DX//E1{i}", None, None, None) for i in range(4)),
    *(
        (f"LAB//K//{b}", "value", "LAB//K", b, low, high)
        for b, (low, high) in enumerate([(-np.inf, 3.5), (3.5, 5.0), (5.0, np.inf)], start=1)
    ),
    ("LAB//K", "code", "LAB//K", None, None, None),
    ("MEDS_DEATH", "code", "MEDS_DEATH", None, None, None),
]
NAMES = [text for text, *_ in WORDS]
TINY = {"size": "tiny", "hidden": 16, "layers": 1, "heads": 2, "intermediate": 24, "kv_heads": 1}


EVENTS = {
    "codes": ["LAB//K", "DX//E10", "DX//E11", "DX//E13"],
    "ids": [[12, 13, 14, 15], [8], [9], [11]],
    "value_ids": [[12, 13, 14, 15], [], [], []],
    "edges": [0.0, 3600.0, 86_400.0, 30 * 86_400.0, 400 * 86_400.0],
    "rank": 4,
}
"""Of an events head, which does not know MEDS_DEATH and DX//E12."""


def records(seed=0):
    """Subject -> (token, day or None)."""
    rng = np.random.default_rng(seed)
    found = {}
    for subject in range(100, 112):
        days = np.sort(rng.integers(0, 300, 30))
        codes = rng.integers(8, len(WORDS) - 1, 30)
        events = zip(codes.tolist(), days.tolist(), strict=True)
        found[subject] = [(BOS_ID, None), (7, None), *events]
    return found


def split_of(subject):
    return ("train", "tuning", "held_out")[subject % 3]


def write_tokens(out, by_subject):
    with new_artifact(out, TOKENS) as partial:
        columns = ("token", "kind", "code", "bin", "lower", "upper")
        table = {name: [w[i] for w in WORDS] for i, name in enumerate(columns)}
        types = {"bin": pa.int32(), "lower": pa.float32(), "upper": pa.float32()}
        arrays = {n: pa.array(v, types.get(n, pa.string())) for n, v in table.items()}
        many = pa.array([1] * len(WORDS), pa.int64())
        blank = pa.nulls(len(WORDS), pa.string())
        parents = pa.nulls(len(WORDS), pa.list_(pa.string()))
        vocabulary = pa.table(
            {"id": pa.array(range(len(WORDS)), pa.int32()), **arrays, "count": many,
             "subjects": many, "description": blank, "parents": parents}
        )  # fmt: skip
        pq.write_table(vocabulary, partial / "vocab.parquet")
        (partial / "tokenizer.json").write_text(json.dumps({"scheme": "joint"}))
        for split in ("train", "tuning", "held_out"):
            mine = {s: r for s, r in by_subject.items() if split_of(s) == split}
            times = [[None if d is None else d * DAY for _, d in r] for r in mine.values()]
            ages = [[0.0 if d is None else float(d) for _, d in r] for r in mine.values()]
            (partial / split).mkdir()
            pq.write_table(
                pa.table(
                    {
                        "subject_id": pa.array(list(mine), pa.int64()),
                        "token": pa.array(
                            [[t for t, _ in r] for r in mine.values()], pa.list_(pa.uint16())
                        ),
                        "time": pa.array(times, pa.list_(pa.timestamp("us"))),
                        "age": pa.array(ages, pa.list_(pa.float32())),
                        "visit": pa.array([[0] * len(r) for r in times], pa.list_(pa.uint16())),
                    }
                ),
                partial / split / "0.parquet",
            )
        seal(partial, TOKENS, producer="test 0", config={}, seed=0)
    return out


def write_labels(root, tasks):
    for task, rows in tasks.items():
        (root / task).mkdir(parents=True)
        subject, day, value = zip(*rows, strict=True)
        times = pa.array([round(d * DAY) for d in day], pa.timestamp("us"))
        table = {
            "subject_id": list(subject),
            "prediction_time": times,
            "boolean_value": list(value),
        }
        pq.write_table(pa.table(table), root / task / "0.parquet")
    return root


def write_checkpoint(out, tokens, kind="query"):
    torch.manual_seed(0)
    if kind == "gpt2":
        model = build(Gpt2ModelConfig(size="tiny", hidden=16, layers=1, heads=2), len(WORDS))
    else:
        model = build(ChronoModelConfig(**TINY), len(WORDS))
        attach(model, kind, EVENTS if kind == "events" else {"blocks": 1, "heads": 2})
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
    objective = {"kind": "query", "shortest": 1.0, "longest": 730.0}
    config = {"objective": {"kind": "sum", "parts": [{"objective": objective}]}}
    with new_artifact(out, CHECKPOINT) as partial:
        save_checkpoint(partial, model, tokens, metrics={}, producer="test 0", config=config,
                        seed=0, inputs={"tokens": source(tokens)})  # fmt: skip
    return out


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    root = tmp_path_factory.mktemp("query")
    tokens = write_tokens(root / "tokens", records())
    rng = np.random.default_rng(1)
    rows = [(s, d, bool(rng.random() < 0.5)) for s in records() for d in (80, 150.25, 301.5)]
    labels = write_labels(root / "labels", {"death": rows, "other": rows[:5]})
    checkpoint = write_checkpoint(root / "checkpoint", tokens)
    return SimpleNamespace(
        root=root, tokens=tokens, labels=labels, checkpoint=checkpoint, rows=rows
    )


def run(world, out, *options, code=0, **changed):
    paths = {n: changed.get(n, getattr(world, n)) for n in ("checkpoint", "tokens", "labels")}
    given = [x for name, path in paths.items() for x in (f"--{name}", str(path))]
    done = CliRunner().invoke(main, ["query", *given, "--out", str(out), *options])
    assert done.exit_code == code, done.output
    return done.output


ASK = """
queries:
  - name: death
    outcome: [{code: ^MEDS_DEATH}]
    horizon: 365d
  - name: diabetes
    doc: any of them
    outcome: [{code: "^DX//E1[013]"}]
    horizon: [90d, 36h]
  - name: potassium
    outcome: [{code: ^LAB//K, above: 4.5}, {code: ^DX//E12}]
"""


@pytest.fixture(scope="module")
def answered(world):
    (world.root / "ask.yaml").write_text(ASK)
    ask = ("--ask", str(world.root / "ask.yaml"), "--horizon", "30d", "-s", "precision=fp32")
    out = world.root / "answers"
    return SimpleNamespace(out=out, said=run(world, out, *ask), ask=ask)


def test_answers_are_those_of_the_head_one_by_one(world, answered):
    assert read_manifest(answered.out, ANSWERS, reader="test 0").files
    assert verify(answered.out) == []
    found = pl.read_parquet(answered.out / "answers.parquet")
    ANSWERS.check({f.name: str(f.type) for f in pq.read_schema(answered.out / "answers.parquet")}, where="")  # fmt: skip
    assert found.height == len(world.rows) * 4
    model = load_checkpoint(world.checkpoint).model
    sets = {"death": ["MEDS_DEATH"], "diabetes": ["DX//E10", "DX//E11", "DX//E13"],
            "potassium": ["DX//E12", "LAB//K//3"]}  # fmt: skip
    told = json.loads((answered.out / "queries.json").read_text())
    assert {q["name"]: q["tokens"] for q in told} == sets
    for subject, day, _ in world.rows[::4]:
        tokens = open_split(open_tokens(world.tokens), split_of(subject))
        row = int(np.flatnonzero(tokens.subject_id == subject)[0])
        time = tokens.time[tokens.offsets[row] : tokens.offsets[row + 1]]
        visible = int((time <= round(day * DAY)).sum())
        batch = pack(tokens, newest(tokens, [row], [visible], 512))  # nothing later is even there
        mine = found.filter(subject_id=subject).filter(
            pl.col("prediction_time").dt.epoch("us") == round(day * DAY)
        )
        assert mine.height == 4
        for name, days, p, censored in mine.select(
            "query", "horizon_days", "probability", "censored_probability"
        ).iter_rows():
            ids = torch.tensor([NAMES.index(t) for t in sets[name]])
            with torch.inference_mode():
                logits = model.query_head(
                    hidden_states(model, batch),
                    model.get_input_embeddings().weight,
                    Queries(
                        ids,
                        torch.tensor([0]),
                        torch.tensor([days * 86_400.0]).float(),
                        torch.tensor([day * 86_400.0 - time[visible - 1] / 1e6]).float(),
                        torch.tensor([0]),
                        torch.tensor([visible]),
                    ),
                )[0]
            assert (p, censored) == pytest.approx(logits.sigmoid().tolist(), abs=2e-5)
    assert found["probability"].std() > 0.005
    assert set(found["horizon_days"]) == {365.0, 90.0, 1.5, 30.0}


def test_a_query_that_is_called_like_a_task_predicts_it(world, answered):
    assert "predictions: 12 held-out rows of death" in answered.said
    manifest = read_manifest(answered.out / "predictions", PREDICTIONS, reader="test 0")
    assert list(manifest.files) == ["death/held_out.parquet", "tuning/death/tuning.parquet"]
    table = pl.read_parquet(answered.out / "predictions/death/held_out.parquet")
    answers = pl.read_parquet(answered.out / "answers.parquet").filter(query="death")
    both = table.join(answers, on=["subject_id", "prediction_time"], how="left")
    assert both["split"].unique().to_list() == ["held_out"]
    np.testing.assert_array_equal(both["predicted_boolean_probability"], both["probability"])
    truth = {(s, round(d * DAY)): v for s, d, v in world.rows}
    for subject, time, value in table.select("subject_id", "prediction_time", "boolean_value").iter_rows():  # fmt: skip
        assert truth[subject, round(time.timestamp() * 1e6)] == value
    labels = {"death": table.select("subject_id", "prediction_time", "boolean_value")}
    assert len(read_predictions(answered.out / "predictions", labels)) == 1


def test_neither_what_comes_later_nor_how_rows_are_batched_moves_an_answer(world, answered):
    later = {
        s: [(t, d) if d is None or d <= 150 else (8 + (t + 3) % 8, d) for t, d in r[:28]]
        for s, r in records().items()
    }
    tokens = write_tokens(world.root / "later", later)
    out = world.root / "later-answers"
    run(world, out, *answered.ask, tokens=tokens)
    early = pl.col("prediction_time").dt.epoch("us") <= 150.25 * DAY
    found, same = (
        pl.read_parquet(o / "answers.parquet").filter(early) for o in (out, answered.out)
    )
    assert found.height == 12 * 2 * 4
    np.testing.assert_allclose(found["probability"], same["probability"], atol=1e-6)
    apart = world.root / "apart"
    run(world, apart, *answered.ask, "-s", "batch_tokens=1", "-s", "one_pass=false")
    whole = pl.read_parquet(answered.out / "answers.parquet")
    other = pl.read_parquet(apart / "answers.parquet")
    np.testing.assert_allclose(other["probability"], whole["probability"], atol=2e-6)


def test_options_ask_and_task_files_do(world, tmp_path):
    said = run(
        world, tmp_path / "a", "--code", "^LAB//K", "--below", "3.7", "--horizon", "1000d", "--name",
        "other",
    )  # fmt: skip
    assert "trained on horizons of 1 to 730 days alone, not on 1000" in said
    assert "held-out rows of other" in said
    said = run(world, tmp_path / "d", "--code", "^DX", "--code", "^ICD", "--horizon", "9d")
    assert "tells ^ICD by itself; asked without it" in said
    task = tmp_path / "death.yaml"
    plain = "name: death\ndoc: d\nstart: {code: ^ADM}\noutcome: [{code: ^MEDS_DEATH}]\n"
    task.write_text(plain + "horizon_days: 0.5\n")
    run(world, tmp_path / "b", "--task", str(task))
    found = pl.read_parquet(tmp_path / "b/answers.parquet")
    assert found["horizon_days"].unique().to_list() == [0.5]
    assert (tmp_path / "b/predictions" / MANIFEST).is_file()
    task.write_text(plain + "horizon_days: 0.5\nabsent: true\n")
    run(world, tmp_path / "not", "--task", str(task))
    other = pl.read_parquet(tmp_path / "not/answers.parquet")
    assert (found["probability"] + other["probability"]).to_numpy() == pytest.approx(1, abs=1e-5)
    assert found["censored_probability"].equals(other["censored_probability"])
    task.write_text(plain + "stop: [{code: ^X}]\n")
    said = run(world, tmp_path / "c", "--task", str(task), code=2)
    assert "task death has stop, no horizon_days, but a query is whether" in said


@pytest.fixture(scope="module")
def hazards(world):
    return write_checkpoint(world.root / "events", world.tokens, "events")


def test_an_events_head_answers_for_codes_whatever_their_value(world, hazards, tmp_path):
    ask = ("--head", "events", "-s", "precision=fp32", "--horizon", "20d", "--horizon", "2h")
    codes = {"lab": ["^LAB//K"], "diabetes": ["^DX//E1[013]"], "lost": ["^DX", "^MEDS_DEATH"]}
    asked = [{"name": n, "outcome": [{"code": c} for c in found]} for n, found in codes.items()]
    (tmp_path / "ask.yaml").write_text(json.dumps({"queries": asked}))
    said = run(world, tmp_path / "a", *ask, "--ask", str(tmp_path / "ask.yaml"), checkpoint=hazards)
    assert "query lost: the events head does not forecast 2 of its 5 tokens" in said
    found = pl.read_parquet(tmp_path / "a/answers.parquet")
    assert found["censored_probability"].null_count() == found.height == len(world.rows) * 6
    model = load_checkpoint(hazards).model
    head = model.events_head
    places = {"lab": [0], "diabetes": [1, 2, 3], "lost": [1, 2, 3]}
    for subject, day, _ in world.rows[::4]:
        tokens = open_split(open_tokens(world.tokens), split_of(subject))
        row = int(np.flatnonzero(tokens.subject_id == subject)[0])
        time = tokens.time[tokens.offsets[row] : tokens.offsets[row + 1]]
        visible = int((time <= round(day * DAY)).sum())
        batch = pack(tokens, newest(tokens, [row], [visible], 512))
        since = torch.tensor(day * 86_400.0 - time[visible - 1] / 1e6)
        mine = found.filter(subject_id=subject).filter(
            pl.col("prediction_time").dt.epoch("us") == round(day * DAY)
        )
        assert mine.height == 6
        for name, days, p in mine.select("query", "horizon_days", "probability").iter_rows():
            with torch.inference_mode():
                chance = head.chance_within(
                    hidden_states(model, batch)[-1:],
                    torch.tensor(places[name]),
                    torch.tensor(days * 86_400.0),
                    since,
                )
            assert p == pytest.approx(1 - (1 - chance[0]).prod().item(), abs=2e-5)
    assert found["probability"].std() > 0.005


def test_what_an_events_head_cannot_say_is_one_line(world, hazards, tmp_path):
    ask = ("--head", "events", "--horizon", "1d", "--code", "^LAB//K", "--above", "4.5")
    said = run(world, tmp_path / "out", *ask, code=2, checkpoint=hazards)
    assert "query query: the events head forecasts none of its codes, whatever their value" in said
    said = run(world, tmp_path / "out", *ask[:6], code=2)
    assert "this chrono model has no events head: train it with objective events" in said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--code", "^NO//SUCH", "--horizon", "30d"], "tells ^NO//SUCH by itself"),
        (["--code", "^LAB//K$", "--above", "5.1", "--below", "5", "--horizon", "1d"],
         "tells ^LAB//K$ above 5.1 below 5 by itself"),
        (["--code", "^DX", "--horizon", "0d"], "has to be above 0"),
        (["--code", "^DX", "--horizon", "soon"], "a length of time is a number with"),
        (["--code", "("], "no regular expression"),
        (["--code", "^DX"], "query query has no horizon: give one, or --horizon 365d"),
        (["--name", "x", "--horizon", "1d"], "are of the query by --code"),
        (["--horizon", "1d"], "nothing is asked"),
        (["--code", "^DX", "--name", "death", "--horizon", "1d", "--horizon", "2d"],
         "give it one horizon, not 2"),
    ],
)  # fmt: skip
def test_bad_questions_are_one_line(world, tmp_path, options, message):
    said = run(world, tmp_path / "out", *options, code=2)
    assert message in said
    assert said.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_bad_inputs_are_one_line(world, tmp_path):
    ask = ("--code", "^DX", "--horizon", "1d")
    other = write_checkpoint(tmp_path / "gpt2", world.tokens, "gpt2")
    said = run(world, tmp_path / "out", *ask, code=2, checkpoint=other)
    assert "gpt2: this gpt2 model has no query head" in said
    unknown = write_labels(tmp_path / "unknown", {"t": [(999, 10, True)]})
    said = run(world, tmp_path / "out", *ask, code=2, labels=unknown)
    assert "999" in said
    assert said.count("\n") == 1
    file = tmp_path / "ask.yaml"
    file.write_text("queries: [{name: a, outcome: [{code: ^DX}], horizons: 3d}]")
    assert "unknown key queries.0.horizons" in run(
        world, tmp_path / "out", "--ask", str(file), code=2
    )
    file.write_text("queries: [{name: a, outcome: [], horizon: 3d}]")
    assert "name at least one code" in run(world, tmp_path / "out", "--ask", str(file), code=2)
    assert not (tmp_path / "out").exists()
