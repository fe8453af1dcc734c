import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from ehr_models import registry
from ehr_models.checkpoint import load_checkpoint
from ehr_models.data.batch import pack
from ehr_models.data.store import open_split
from ehr_models.data.tokens import STATIC, open_tokens
from ehr_models.data.windows import newest, window_at
from ehr_models.heads.forecasts import forecast_head
from ehr_models.heads.token import hidden_states
from ehr_models.kinds.chrono import ChronoModelConfig
from ehr_tracking.checkpoints import CheckpointStore
from ehr_tracking.config import ConfigError, load_config
from ehr_tracking.contracts import BOS_ID, SPECIALS
from ehr_tracking.manifest import sha256
from ehr_train.config import OptimConfig, TrainConfig
from ehr_train.data.codes import Codes
from ehr_train.data.event_codes import waits
from ehr_train.data.examples import whole_records
from ehr_train.objectives import CLM
from ehr_train.objectives.asker import Asker
from ehr_train.objectives.events import Events
from ehr_train.objectives.learner import Learner
from ehr_train.objectives.parts import Material
from ehr_train.objectives.total import Part, Sum
from ehr_train.run import train

from .conftest import TINY, tiny_config, write_tokens

FIRST = len(SPECIALS)
DX, LAB, LAB_HIGH, LAB_LOW, UREA, Q1, Q2, GAP, SEX, BIRTH = range(FIRST, FIRST + 10)
VOCABULARY = [
    {"token": "DX", "kind": "code", "code": "DX"},
    {"token": "LAB", "kind": "code", "code": "LAB"},  # without a value
    {"token": "LAB//Q2", "kind": "value", "code": "LAB", "bin": 2},
    {"token": "LAB//Q1", "kind": "value", "code": "LAB", "bin": 1},
    {"token": "UREA", "kind": "code", "code": "UREA"},  # its value is the token behind it
    {"token": "Q1", "kind": "bin", "bin": 1},
    {"token": "Q2", "kind": "bin", "bin": 2},
    {"token": "TIME//1d", "kind": "time"},
    {"token": "SEX", "kind": "code", "code": "SEX"},
    {"token": "MEDS_BIRTH//X", "kind": "code", "code": "MEDS_BIRTH//X"},
]
CODES = ["DX", "LAB", "UREA"]


def record(rng, subject):
    """Moments of one to four tokens, some at the same day as others; UREA is followed by its bin or by none."""
    token, time, day = [BOS_ID, SEX], [None, None], 0.0
    if rng.random() < 0.5:
        token, time = [*token, BIRTH], [*time, -9000.0]
    for _ in range(rng.integers(1, 25)):
        for choice in rng.choice([DX, LAB, LAB_HIGH, LAB_LOW, UREA, GAP], rng.integers(1, 4)):
            token.append(int(choice))
            if choice == UREA and rng.random() < 0.8:
                token.append(int(rng.choice([Q1, Q2])))
        time += [day] * (len(token) - len(time))
        day += float(rng.choice([0.0, 0.01, 1.0, 30.0, 400.0]))
    return {"subject_id": subject, "token": token, "time": time}


def records(first, n, seed):
    rng = np.random.default_rng(seed)
    return [record(rng, first + i) for i in range(n)]


@pytest.fixture(scope="module")
def marked(tmp_path_factory):
    """Tokens with values of their own and with shared bins."""
    splits = {"train": records(100, 40, 0), "tuning": records(200, 20, 1)}
    path = tmp_path_factory.mktemp("marked") / "tokens"
    return open_tokens(write_tokens(path, splits, behind=VOCABULARY))


def fitted(tokens, **settings):
    examples = whole_records(open_split(tokens, "train"))
    return Events(**settings).fitted(examples, Codes(tokens)), examples


def ask(objective, examples, tokens, windows, epoch=0):
    batch = pack(examples.tokens, windows)
    material = Material(examples, windows, tokens.vocab_size, 3, Codes(tokens))
    return batch, objective.ask(batch, material, epoch)


def told(asked, moments):
    """(moment, code) -> seconds, from the chunks."""
    size = max(1, -(-moments // len(asked.targets["row"])))
    found = {}
    for chunk, (row, code, seconds) in enumerate(
        zip(*(asked.targets[n] for n in ("row", "code", "seconds")), strict=True)
    ):
        for r, k, s in zip(row, code, seconds, strict=True):
            if s >= 0:
                assert (chunk * size + r, k) not in found
                found[chunk * size + r, k] = float(s)
    return found


def loops(objective, tokens, at, end):
    """What comes next of each code, strictly later than the token at `at`, and its value: by looking."""
    names, found = objective.settings["codes"], {}
    for place in range(end - 1, at, -1):
        if tokens.time[place] <= tokens.time[at]:
            break
        token = int(tokens.token[place])
        if not FIRST <= token <= UREA:
            continue
        code = names.index(VOCABULARY[token - FIRST]["code"])
        ids, value = objective.settings["value_ids"][code], None
        if token in ids:
            value = ids.index(token)
        elif token == UREA and place + 1 < end and tokens.token[place + 1] in (Q1, Q2):
            value = ids.index(tokens.token[place + 1])
        found[code] = (tokens.time[place] - tokens.time[at]) / 1e6, value
    return found


def test_codes_are_those_that_come_later_and_their_values_their_own_or_the_bins_behind_them(marked):
    objective, examples = fitted(marked)
    assert sorted(objective.settings["codes"]) == CODES  # not SEX, which is there from the start
    about = {
        name: (ids, values)
        for name, ids, values in zip(
            *(objective.settings[key] for key in ("codes", "ids", "value_ids")), strict=True
        )
    }
    assert about["DX"] == ([DX], [])
    assert about["LAB"] == ([LAB, LAB_HIGH, LAB_LOW],) * 2
    assert about["UREA"] == ([UREA], [Q1, Q2])
    later = {"DX": 0, "LAB": 0, "UREA": 0}
    for subject in range(len(examples)):
        rows = slice(*examples.tokens.offsets[subject : subject + 2])
        token, time = examples.tokens.token[rows], examples.tokens.time[rows]
        first = min(time[time != STATIC], default=0)
        for name in later:
            later[name] += bool(np.isin(token[time > first], about[name][0]).any())
    counts = [later[name] for name in objective.settings["codes"]]
    assert counts == sorted(counts, reverse=True)
    assert fitted(marked, codes=1)[0].settings["codes"] == objective.settings["codes"][:1]
    assert fitted(marked, include=("A", "D"), exclude=("^UREA$",))[0].settings["codes"] == [
        name for name in objective.settings["codes"] if name != "UREA"
    ]


@pytest.mark.parametrize("context", [8, 500])
def test_what_comes_is_what_loops_find_also_behind_the_window(marked, context):
    objective, examples = fitted(marked, moments=5)
    tokens, rng = examples.tokens, np.random.default_rng(context)
    rows = rng.permutation(len(examples))[:25]
    offset = rng.integers(0, np.maximum(examples.visible[rows] - context, 0) + 1)
    windows = window_at(
        tokens, examples.subject[rows], examples.visible[rows], offset, context, rows
    )
    batch, asked = ask(objective, examples, marked, windows)
    moments = asked.targets["rows"]
    found = told(asked, len(moments))
    assert len(found) == asked.counts["time"] > 50
    beyond, values, wanted, inside = 0, {}, {}, windows.stop[batch.span]
    for m, row in enumerate(moments):
        at = int(batch.index[row])
        end = int(tokens.offsets[examples.subject[rows[batch.span[row]]] + 1])
        assert tokens.time[at + 1] > tokens.time[at] != STATIC
        seen = (tokens.time[end - 1] - tokens.time[at]) / 1e6
        assert asked.targets["seen"][m] == pytest.approx(seen)
        for code, (seconds, value) in loops(objective, tokens, at, end).items():
            if seconds > objective.settings["edges"][-1]:  # not yet come there
                continue
            wanted[m, code] = seconds
            values |= {} if value is None else {(m, code): value}
            beyond += tokens.time[at] + seconds * 1e6 > tokens.time[inside[row] - 1]
    assert found == pytest.approx(wanted)
    of_value = (asked.targets[f"value_{n}"].tolist() for n in ("row", "code", "place"))
    assert {(m, k): v for m, k, v in zip(*of_value, strict=True)} == values
    assert asked.counts["value"] == len(values) > 20
    assert (beyond > 0) == (context == 8)


def test_moments_are_drawn_anew_in_each_epoch_and_at_most_so_many_of_a_window(marked):
    objective, examples = fitted(marked, moments=3)
    windows = newest(examples.tokens, examples.subject, examples.visible, 500)
    draws = []
    for epoch in (0, 1, 0):
        batch, asked = ask(objective, examples, marked, windows, epoch)
        rows = asked.targets["rows"]
        assert (np.diff(rows) > 0).all()
        assert np.bincount(batch.span[rows]).max() == 3
        draws.append(rows.tolist())
    assert draws[0] == draws[2] != draws[1]
    # of a window it is the same moments, whatever is beside it
    batch, asked = ask(objective, examples, marked, windows.take(np.array([7])))
    alone = batch.index[asked.targets["rows"]]
    batch, asked = ask(objective, examples, marked, windows)
    mine = asked.targets["rows"][batch.span[asked.targets["rows"]].numpy() == 7]
    assert batch.index[mine].tolist() == alone.tolist()


def test_every_moment_is_asked_of_that_something_follows_but_for_births(marked):
    objective, examples = fitted(marked, moments=1000)
    windows = newest(examples.tokens, examples.subject, examples.visible, 500)
    batch, asked = ask(objective, examples, marked, windows)
    tokens, wanted = examples.tokens, []
    for subject in examples.subject:
        rows = range(*tokens.offsets[subject : subject + 2])
        times = sorted({int(tokens.time[i]) for i in rows} - {int(STATIC)})
        last = {int(tokens.time[i]): i for i in rows}
        wanted += [last[time] for time in times[:-1] if tokens.token[last[time]] != BIRTH]
    assert batch.index[asked.targets["rows"]].tolist() == wanted
    assert BIRTH in tokens.token


def test_what_is_behind_what_may_be_seen_of_a_record_is_never_told(marked):
    objective, examples = fitted(marked)
    long = int(np.argmax(examples.visible))
    half = int(examples.visible[long] // 2)
    cut = type(examples)(examples.tokens, examples.subject[[long]], np.array([half]))
    windows = newest(cut.tokens, cut.subject, cut.visible, 500)
    batch, asked = ask(objective, cut, marked, windows)
    end = cut.tokens.offsets[cut.subject[0]] + half
    last = cut.tokens.time[end - 1]
    for m, row in enumerate(asked.targets["rows"]):
        assert batch.time[row] + asked.targets["seen"][m] * 1e6 == pytest.approx(float(last))
    for (m, _), seconds in told(asked, len(asked.targets["rows"])).items():
        assert seconds <= asked.targets["seen"][m]


def test_edges_reach_from_the_shortest_to_the_longest_wait_or_are_given(marked):
    objective, examples = fitted(marked, bins=6)
    edges = objective.settings["edges"]
    longest = max(
        np.ptp(examples.tokens.time[a:b][examples.tokens.time[a:b] != STATIC])
        for a, b in zip(examples.tokens.offsets, examples.tokens.offsets[1:], strict=False)
        if (examples.tokens.time[a:b] != STATIC).any()
    )
    assert len(edges) == 7
    assert edges[0] == 0
    assert edges[-1] <= longest / 1e6
    np.testing.assert_allclose(np.diff(np.log(edges[1:])), np.log(edges[2] / edges[1]))
    assert fitted(marked, edges=(0, 1, 7.5))[0].settings["edges"] == [0, 86_400, 648_000]


def test_hazards_at_the_start_are_events_over_time_seen(marked):
    """By loops, over the very moments that they are fitted to."""
    objective, examples = fitted(marked, bins=4)
    found = waits(objective.known, examples)
    edges, codes = np.array(objective.settings["edges"]), len(CODES)
    events, exposure = np.zeros((4, codes)), np.zeros((4, codes))
    until = {(m, k): s for m, k, s in zip(found.moment, found.code, found.seconds, strict=True)}
    for m, seen in enumerate(found.seen):
        for k in range(codes):
            end = until.get((m, k), seen)
            for b in range(4):
                exposure[b, k] += np.clip((end - edges[b]) / (edges[b + 1] - edges[b]), 0, 1)
                events[b, k] += (m, k) in until and edges[b] < end <= edges[b + 1]
    width = np.diff(edges)[:, None]
    prior = (events.sum(0) + 0.5) / (exposure * width).sum(0) * width
    hazards, shares = objective.start
    np.testing.assert_allclose(hazards, (events + prior) / (exposure + 1))
    assert events.sum() > 100
    assert shares.sum() == pytest.approx(2)  # of LAB and of UREA


def test_values_are_left_out_where_they_weigh_nothing_or_there_are_none(marked, tokens):
    objective, examples = fitted(marked, value=0)
    assert objective.weights == {"time": 1.0}
    windows = newest(examples.tokens, examples.subject, examples.visible, 500)
    assert ask(objective, examples, marked, windows)[1].counts.keys() == {"time"}
    assert fitted(open_tokens(tokens))[0].weights == {"time": 1.0}
    assert fitted(marked)[0].weights == Events().weights == {"time": 1.0, "value": 1.0}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"include": ("^NONE",)}, "no code that include and exclude leave"),
        ({"exclude": ("",)}, "no code that include and exclude leave"),
    ],
)
def test_nothing_to_forecast_is_refused_in_one_line(marked, settings, message):
    with pytest.raises(ConfigError, match=message) as error:
        fitted(marked, **settings)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("edges", ["[0]", "[1, 2]", "[0, 2, 2]"])
def test_edges_that_do_not_rise_from_0_are_refused(edges):
    with pytest.raises(ConfigError, match="ascending numbers of days, from 0"):
        load_config(TrainConfig, overrides=["objective.kind=events", f"objective.edges={edges}"])


# --- with a model

SUM = Sum(parts=(Part(objective=CLM()), Part(objective=Events(moments=4, bins=5, rank=4))))


def chrono(**changes):
    return tiny_config("clm", model=ChronoModelConfig(**TINY, kv_heads=2), **changes)


def log(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def config():
    return chrono(objective=SUM, optim=OptimConfig(lr=3e-3, steps=8))


@pytest.fixture(scope="module")
def run(marked, tmp_path_factory, config):
    return train(marked.directory, tmp_path_factory.mktemp("events") / "run", config)


def test_a_run_logs_each_loss_and_its_checkpoint_says_of_what_codes_it_is(run, marked):
    steps = log(run)
    assert {"loss", "loss_clm", "loss_events/time", "loss_events/value"} <= steps[0].keys()
    first = steps[0]
    parts = [first[f"loss_{n}"] for n in ("clm", "events/time", "events/value")]
    assert first["loss"] == pytest.approx(sum(parts))
    validated = next(step for step in steps if "val_loss" in step)
    figures = ("loss", "time_loss", "value_loss", "value_accuracy", "auroc")
    assert {f"val_events_{name}" for name in figures} <= validated.keys()
    model = load_checkpoint(CheckpointStore(run / "checkpoints").latest()).model
    settings = fitted(marked, bins=5, rank=4)[0].settings
    assert model.config.events_head == json.loads(json.dumps(settings)) == settings
    assert forecast_head(model, "events").names == settings["codes"]


def test_a_run_that_goes_on_ends_with_the_same_bits(run, marked, tmp_path, config):
    other = Path(shutil.copytree(run, tmp_path / "run"))
    (other / "manifest.json").unlink()
    store = CheckpointStore(other / "checkpoints")
    latest = store.latest()
    (latest / "model.safetensors").write_bytes(b"")  # the one before it is gone on from
    train(marked.directory, other, config, resume=True)
    assert sha256(store.latest() / "manifest.json") == sha256(
        CheckpointStore(run / "checkpoints").latest() / "manifest.json"
    )
    assert (other / "metrics.jsonl").read_bytes() == (run / "metrics.jsonl").read_bytes()


@pytest.mark.dist
@pytest.mark.slow
def test_two_processes_learn_and_judge_what_one_does(run, marked, tmp_path, config):
    two = train(marked.directory, tmp_path / "run", config, nproc=2)
    for one, other in zip(log(run), log(two), strict=True):
        assert other == pytest.approx(one, abs=1e-4)


def test_what_was_learned_of_events_is_kept_by_a_run_that_starts_from_it(run, marked):
    objective, _ = fitted(marked, moments=4, bins=5, rank=4)
    model = load_checkpoint(CheckpointStore(run / "checkpoints").latest()).model
    before = forecast_head(model, "events").bias.clone()
    assert objective.attach(model) is model
    assert torch.equal(forecast_head(model, "events").bias, before)
    with pytest.raises(ConfigError, match="events head already"):
        fitted(marked, bins=6, rank=4)[0].attach(model)


def learner(tokens, objective, **of_model):
    torch.manual_seed(0)
    config = ChronoModelConfig(**TINY, kv_heads=2, **of_model)
    return Learner(objective.attach(registry.build(config, tokens)), objective)


def test_a_new_head_begins_at_what_train_says_whoever_is_looked_at(marked):
    objective, _ = fitted(marked, moments=1000)
    head = forecast_head(learner(marked, objective).model, "events")
    with torch.no_grad():
        head.codes.weight.zero_()
        expected = torch.nn.functional.softplus(head.logits(torch.zeros(1, 16)))[0]
    np.testing.assert_allclose(expected.numpy(), objective.start[0], rtol=1e-4)


def test_the_future_moves_what_is_wanted_and_no_state_that_is_asked(marked, tmp_path):
    """Another second half of a record: the losses of the first are others, its states are not."""
    objective, examples = fitted(marked, moments=1000)
    model = learner(marked, objective).eval()
    long = int(np.argmax(examples.visible))
    half, answers = int(examples.visible[long]) // 2, []
    for other in (DX, LAB_LOW):
        changed = records(100, 40, 0)[int(examples.subject[long])]
        changed["token"][half:] = [other] * len(changed["token"][half:])
        where = write_tokens(tmp_path / str(other), {"train": [changed]}, behind=VOCABULARY)
        tokens = open_tokens(where)
        one = whole_records(open_split(tokens, "train"))
        windows = newest(one.tokens, one.subject, one.visible, 500)
        question = Asker(objective, one, tokens.vocab_size, 0, Codes(tokens)).ask(windows, 0)
        asked = question.targets["rows"]
        with torch.no_grad():
            states = hidden_states(model.model, question.batch)[asked[asked < half]]
            answers.append((states, model(question)["time"][0]))
    assert len(answers[0][0]) > 3
    assert torch.equal(answers[0][0], answers[1][0])
    assert answers[0][1] != answers[1][1]


def test_every_weight_of_model_and_head_learns(marked):
    objective, examples = fitted(marked)
    model = learner(marked, objective)
    windows = newest(examples.tokens, examples.subject, examples.visible, 32)
    question = Asker(objective, examples, marked.vocab_size, 0, Codes(marked)).ask(windows, 0)
    pairs = model(question)
    assert all(count == question.counts[name] for name, (_, count) in pairs.items())
    sum(total for total, _ in pairs.values()).backward()
    still = [n for n, p in model.model.named_parameters() if p.grad is None or not p.grad.any()]
    assert still == []


def test_a_batch_without_a_moment_to_ask_of_costs_nothing_and_can_be_learned_from(marked):
    objective, examples = fitted(marked)
    short = int(np.argmin(examples.visible))
    cut = type(examples)(examples.tokens, examples.subject[[short]], np.array([2]))  # [BOS], SEX
    windows = newest(cut.tokens, cut.subject, cut.visible, 32)
    model = learner(marked, objective)
    question = Asker(objective, cut, marked.vocab_size, 0, Codes(marked)).ask(windows, -1)
    pairs = model(question)
    assert question.counts == {"time": 0, "value": 0}
    sum(total for total, _ in pairs.values()).backward()
    assert np.isnan(objective.scores(model.model, hidden_states(model.model, question.batch), question).detach().numpy()).all()  # fmt: skip


def test_auroc_is_of_who_has_a_code_in_time_among_those_seen_long_enough(marked):
    from sklearn.metrics import roc_auc_score

    objective, examples = fitted(marked, within=40.0)
    model = learner(marked, objective).eval()
    windows = newest(examples.tokens, examples.subject, examples.visible, 500)
    question = Asker(objective, examples, marked.vocab_size, 0, Codes(marked)).ask(windows, -1)
    with torch.no_grad():
        states = hidden_states(model.model, question.batch)
        scores = objective.scores(model.model, states, question).double().numpy()
        pairs = objective.loss(model.model, states, question)
    tokens, each = examples.tokens, []
    known = ~np.isnan(scores).any((1, 2))
    assert 10 < known.sum() < len(examples)
    for k in range(len(CODES)):
        came = []
        for span in np.flatnonzero(known):
            row = int(question.targets["rows"][question.targets["judged"][span]])
            at, end = (
                int(question.batch.index[row]),
                int(tokens.offsets[examples.subject[span] + 1]),
            )
            assert tokens.time[end - 1] - tokens.time[at] >= 40 * 86_400e6
            seconds = loops(objective, tokens, at, end).get(k, (np.inf, None))[0]
            came.append(seconds <= 40 * 86_400)
        each.append(roc_auc_score(came, scores[known, 0, k]))
    means = {name: float(total) / count for name, (total, count) in pairs.items()}
    found = objective.metrics(means, scores, examples)
    assert found["auroc"] == pytest.approx(np.mean(each))
    assert found["loss"] == pytest.approx(found["time_loss"] + found["value_loss"])


@pytest.mark.parametrize(
    ("model", "objective", "message"),
    [
        ({}, SUM, "needs the events head, but model kind gpt2 can have no such head; chrono can"),
        ({"kind": "behrt"}, Events(), "needs the events head, but model kind behrt can have no"),
    ],
)
def test_a_kind_without_such_a_head_is_refused_in_one_line(marked, tmp_path, model, objective, message):  # fmt: skip
    config = tiny_config("mlm" if model else "clm", objective=objective)
    with pytest.raises(ConfigError, match=message) as error:
        train(marked.directory, tmp_path / "run", config)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_a_sum_of_two_that_share_a_head_is_refused():
    with pytest.raises(ValueError, match="has one head of each kind"):
        Sum(parts=(Part(objective=Events()), Part(objective=Events())))


def poisson(subject, rng):
    """DX comes every 20 or 4 days by what the static token says, GAP every 2 and when the record ends."""
    quick, until = subject % 2, rng.exponential(25.0) + 3.0
    token, time = [BOS_ID, (SEX, UREA)[quick]], [None, None]
    for code, wait in ((DX, (20.0, 4.0)[quick]), (GAP, 2.0)):
        days = np.cumsum(rng.exponential(wait, 200))
        time += days[days < until].tolist()
        token += [code] * int((days < until).sum())
    token, time = [*token, GAP], [*time, until]
    order = [0, 1, *(np.argsort(time[2:]) + 2)]
    return {
        "subject_id": subject,
        "token": [int(token[i]) for i in order],
        "time": [time[i] for i in order],
    }


def test_it_learns_from_records_how_often_what_comes_by_what_is_known_of_whom(tmp_path):
    rng = np.random.default_rng(0)
    subjects = [poisson(i, rng) for i in range(300)]
    words = [
        {**word, "kind": "code"} if word["token"] == "TIME//1d" else word for word in VOCABULARY
    ]
    tokens = open_tokens(write_tokens(tmp_path / "t", {"train": subjects}, behind=words))
    objective, examples = fitted(tokens, include=("^DX$",), bins=8, rank=4)
    # with a clock it would learn the very days of so few subjects by heart
    model = learner(tokens, objective, positions="order", age="none", time="none")
    windows = newest(examples.tokens, examples.subject, examples.visible, 500)
    asker = Asker(objective, examples, tokens.vocab_size, 0, Codes(tokens))
    optimizer = torch.optim.Adam(model.parameters(), 0.02)
    for epoch in range(60):
        question = asker.ask(windows.take(np.arange(epoch % 4, len(windows), 4)), epoch)
        total, count = model(question)["time"]
        (total / count).backward()
        optimizer.step()
        optimizer.zero_grad()
    question, head = asker.ask(windows, 0), forecast_head(model.model, "events")
    with torch.no_grad():
        states = hidden_states(model.model, question.batch)[question.targets["rows"]]
        risk = head.chance_within(states, torch.tensor([0]), torch.tensor(5 * 86_400.0))[:, 0]
    subject = examples.tokens.subject_id[question.batch.span[question.targets["rows"]].numpy()]
    for quick, wait in enumerate((20.0, 4.0)):
        found = risk[torch.from_numpy(subject % 2 == quick)].mean().item()
        assert found == pytest.approx(1 - np.exp(-5 / wait), abs=0.06)
