"""The decoder that knows time: beside Llama, token by token, and what of time it hears."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

from ehr_models.adapters.config import AdapterConfig
from ehr_models.adapters.inject import adapt, trained
from ehr_models.checkpoint import load_checkpoint
from ehr_models.config import ModelConfig
from ehr_models.data.batch import pack
from ehr_models.data.tokens import STATIC
from ehr_models.describe import count_parameters
from ehr_models.forecasts.time import time_edges
from ehr_models.heads.config import PooledConfig
from ehr_models.heads.forecasts import attach, forecast_head
from ehr_models.heads.pooled import build_classifier, with_both
from ehr_models.heads.token import hidden_states, token_logits
from ehr_models.kinds.chrono import SIZES, ChronoModelConfig
from ehr_models.layers.rotary import periods, time_rotary
from ehr_models.registry import build, without_pooled
from ehr_tracking.config import ConfigError, validate

from .conftest import sizes_over_depth
from .test_zoo import save

DAY_US, MINUTE_US = 86_400_000_000, 60_000_000
NAMES = ["chrono", "chrono-time", "chrono-order", "chrono-forecasts"]
TIME = {"edges": time_edges(9)}


def rows(batch, start=0, stop=None):
    """The inputs of some tokens of a span, as [1, L]."""
    names = ("input_ids", "position_ids", "age", "time")
    return {name: getattr(batch, name)[None, start:stop] for name in names}


# --- beside Llama


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_without_time_it_is_llama(kv_heads, batch, padded):
    """Transformers' own, with copied weights: states, logits, loss and gradients."""
    sizes = {"size": "tiny", "layers": 2, "kv_heads": kv_heads}
    torch.manual_seed(0)
    ours = build(ChronoModelConfig(**sizes, positions="order", age="none", time="none"), 90).train()
    theirs = LlamaForCausalLM(
        LlamaConfig(
            **{"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4},
            **{"num_key_value_heads": kv_heads, "intermediate_size": 384, "vocab_size": 128},
            **{"tie_word_embeddings": True, "pad_token_id": 0},
        )
    )
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.05)
    theirs.load_state_dict(ours.state_dict())
    inputs = padded(ours, batch)
    real = inputs["attention_mask"].bool()
    shown = {name: inputs[name] for name in ("input_ids", "attention_mask")}
    a, b = ours(**shown), theirs(**shown)
    assert b.logits[real].std() > 0.1
    assert (a.logits - b.logits)[real].abs().max() < 1e-5
    packed = token_logits(ours, hidden_states(ours, batch))
    assert (packed - b.logits[real][:, :90]).abs().max() < 1e-5
    for out in (a, b):
        out.logits[real].square().mean().backward()
    for (name, mine), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert (mine.grad - other.grad).abs().max() <= 1e-5 * (1 + other.grad.abs().max()), name


def test_its_loss_is_cross_entropy_over_codes(make_model, records, spans):
    model, batch = make_model("chrono"), pack(records, spans[2])
    out = model(**rows(batch), labels=batch.input_ids[None])
    likely = out.logits[0, :-1, :90].log_softmax(-1).gather(-1, batch.input_ids[1:, None])
    assert out.loss.item() == pytest.approx(-likely.mean().item(), rel=1e-5)


# --- token by token


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("pieces", [[1] * 60, [7, 1, 20, 32]])
def test_tokens_fed_in_pieces_are_what_they_are_together(name, pieces, make_model, records, spans):
    """Each with its age and time; static ones as well as those behind them."""
    model, batch = make_model(name), pack(records, spans[2])
    with torch.no_grad():
        together = token_logits(model, hidden_states(model, batch))
        cache, found, at = None, [], 0
        for piece in pieces:
            out = model(**rows(batch, at, at + piece), past_key_values=cache, use_cache=True)
            cache, at = out.past_key_values, at + piece
            found.append(out.logits[0, :, :90])
    assert together.std() > 0.1
    assert (torch.cat(found) - together).abs().max() < 1e-5


@pytest.mark.parametrize("name", NAMES)
def test_places_are_counted_where_they_are_not_given_and_padding_may_be_on_the_left(
    name, make_model, batch, padded
):
    model = make_model(name)
    left, right = (padded(model, batch, side) for side in ("left", "right"))
    with torch.no_grad():
        packed = hidden_states(model, batch)
        shown = model.base_model(**left).last_hidden_state[left["attention_mask"].bool()]
        del right["position_ids"]
        counted = model.base_model(**right).last_hidden_state[right["attention_mask"].bool()]
    assert (shown - packed).abs().max() < 1e-5
    assert (counted - packed).abs().max() < 1e-5


# --- time


def test_periods_go_from_minutes_to_decades():
    days = periods(16)
    assert days[0] * 24 * 60 == pytest.approx(10)
    assert days[-1] / 365.25 == pytest.approx(100)
    steps = (days[1:] / days[:-1]).tolist()
    assert steps == pytest.approx([steps[0]] * 15)


def test_angles_are_those_of_exact_arithmetic_late_in_life():
    """By integers; a product of two rotations is the angle of what lies between."""
    born = -1_000_000_000_123_456  # 1938
    at = born + 80 * 365 * DAY_US + torch.arange(50) * 7_654_321
    age = ((at - born).double() / DAY_US).float()
    cos, sin = time_rotary(age[None], at[None], 16)
    between = torch.atan2(
        sin[0, 1:] * cos[0, :-1] - cos[0, 1:] * sin[0, :-1],
        cos[0, 1:] * cos[0, :-1] + sin[0, 1:] * sin[0, :-1],
    )
    turns = (7_654_321 / DAY_US) / periods(16)
    fast = periods(16) < 1
    expected = 2 * torch.pi * turns
    assert (between[:, fast] - expected[fast]).abs().max() < 1e-5
    assert (between[:, ~fast] - expected[~fast]).abs().max() < 0.02  # float32 days


def test_static_tokens_stand_at_birth_and_at_no_time_of_day():
    time, age = torch.tensor([[STATIC, 0, DAY_US]]), torch.tensor([[0.0, 0.0, 1.0]])
    cos, sin = time_rotary(age, time, 12)
    short = periods(12) < 1
    assert 0 < short.sum() < 12
    assert not cos[0, 0, short].any()
    assert not sin[0, 0].any()
    assert torch.equal(cos[0, 0, ~short], torch.ones(12)[~short])
    assert torch.equal(cos[0, 1, ~short], torch.ones(12)[~short])
    assert not torch.equal(cos[0, 2], cos[0, 1])


@pytest.mark.parametrize("name", ["chrono", "chrono-time"])
def test_minutes_are_told_apart_at_age_80(name, make_model, records, spans):
    """Also where dates and ages in float32 are the same."""
    model, batch = make_model(name), pack(records, spans[2])
    model.base_model.when = None  # but for rotations
    dated = (batch.time != STATIC).cumsum(0)
    time = torch.where(dated > 0, dated * MINUTE_US * 5, STATIC)
    age = torch.where(dated > 0, 80 * 365.25, 0.0)
    early = replace(batch, time=time, age=age)
    late = replace(early, time=time + (dated >= 30) * MINUTE_US)
    with torch.no_grad():
        change = (hidden_states(model, early) - hidden_states(model, late)).abs().amax(-1)
    first = int((dated >= 30).nonzero()[0])
    assert not change[:first].any()
    assert (change[first:] > 1e-4).all()


@pytest.mark.parametrize("positions", ["time", "both"])
def test_a_record_as_a_whole_may_lie_at_any_time(positions, records, spans, make_model):
    """Where time is relative; the hour and the season are not, and the date even less."""
    batch = pack(records, spans[2])
    dated = batch.time != STATIC
    moved = replace(batch, time=torch.where(dated, batch.time + 123_456_789_012_345, STATIC))
    for age in ("none", "waves"):
        model = make_model("chrono", positions=positions, time="none", age=age)
        with torch.no_grad():
            assert (hidden_states(model, batch) - hidden_states(model, moved)).abs().max() < 1e-5
    years = replace(batch, time=torch.where(dated, batch.time + 4 * 1461 * DAY_US, STATIC))
    for time, same in (("clock", 7 * 4 * 1461), ("date", None)):
        model = make_model("chrono", positions=positions, time=time)
        with torch.no_grad():
            before = hidden_states(model, batch)
            assert (before - hidden_states(model, moved)).abs().max() > 1e-3
            assert (before - hidden_states(model, years)).abs().max() > 1e-3
            if same is not None:  # whole weeks, years and days
                other = replace(batch, time=torch.where(dated, batch.time + same * DAY_US, STATIC))
                assert (before - hidden_states(model, other)).abs().max() < 1e-5


def cases(rng, number):
    """[BOS], one code, two of no meaning in between, another code, and what tells if that is within a week."""
    days = np.exp(rng.uniform(np.log(0.05), np.log(400), number))[:, None]
    begun = rng.uniform(0, 20_000, (number, 1))
    between = np.sort(rng.uniform(0, 1, (number, 2)), 1) * days
    zero = np.zeros((number, 1))
    at = begun + np.concatenate([zero, zero, between, days, days], 1)
    ids = rng.integers(20, 30, (number, 6))
    ids[:, [0, 1, 4]] = 5, 10, 11
    ids[:, 5] = np.where(days[:, 0] < 7, 12, 13)
    time, age = (at * DAY_US).astype(np.int64), at.astype(np.float32)
    time[:, 0], age[:, 0] = STATIC, 0
    return torch.from_numpy(ids), {"time": torch.from_numpy(time), "age": torch.from_numpy(age)}


def test_what_only_the_time_between_tokens_tells_is_learned_by_rotation():
    sizes = {"size": "tiny", "hidden": 64, "layers": 2, "heads": 2, "intermediate": 128}
    right = {}
    for positions in ("both", "order"):
        torch.manual_seed(0)
        rng = np.random.default_rng(0)
        config = ChronoModelConfig(**sizes, positions=positions, age="none", time="none")
        model = build(config, 90)
        optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
        for _ in range(100):
            ids, when = cases(rng, 64)
            logits = model(ids, use_cache=False, **when).logits[:, 4]
            torch.nn.functional.cross_entropy(logits, ids[:, 5]).backward()
            optimizer.step()
            optimizer.zero_grad()
        ids, when = cases(np.random.default_rng(1), 1000)
        with torch.no_grad():
            answer = model(ids, use_cache=False, **when).logits[:, 4].argmax(-1)
        right[positions] = (answer == ids[:, 5]).float().mean().item()
    assert right["both"] > 0.9
    assert right["order"] < 0.65


def test_order_alone_hears_no_time(make_model, batch):
    model = make_model("chrono-order")
    other = replace(batch, time=batch.time.flip(0), age=batch.age.flip(0))
    with torch.no_grad():
        assert torch.equal(hidden_states(model, batch), hidden_states(model, other))


def test_tokens_without_their_time_are_refused(make_model):
    model, ids = make_model("chrono"), torch.tensor([[5, 20, 30]])
    with pytest.raises(ValueError, match=r"pass age= of each token, \[1, 3\], not none"):
        model(input_ids=ids)
    with pytest.raises(ValueError, match=r"pass time= of each token, \[1, 3\], not \[1, 2\]"):
        model(input_ids=ids, age=torch.zeros(1, 3), time=torch.zeros(1, 2, dtype=torch.int64))
    out = make_model("chrono-order").generate(ids, max_new_tokens=4, do_sample=False)
    assert out.shape == (1, 7)


# --- sizes


def test_sizes_are_what_they_are_called():
    totals = {size: count_parameters(ChronoModelConfig(size=size), 1000) for size in SIZES}
    assert [round(t["total"] / 1e6, 1) for t in totals.values()] == [0.9, 4.7, 24.1, 76.3, 309.4]
    assert list(SIZES) == ["tiny", "small", "base", "medium", "350m"]
    whole = count_parameters(ChronoModelConfig(size="350m"), 39_818)["total"]
    assert 340e6 < whole < 360e6
    width, inner, kv = 128, 384, 64
    layer = 2 * width * width + 2 * width * kv + 3 * width * inner + 2 * width
    age, clock = 12 * width, 6 * width
    assert totals["tiny"]["embeddings"] == 1024 * width + age + clock + width
    assert totals["tiny"]["layers"] == 4 * layer + width


@pytest.mark.parametrize("size", ["small", "base"])
def test_new_states_of_wide_models_keep_their_size(size, records, spans):
    torch.manual_seed(0)
    model = build(ChronoModelConfig(size=size), 90).base_model.eval()
    sizes = sizes_over_depth(model, **rows(pack(records, spans[2])))
    assert len(sizes) == SIZES[size].layers + 1
    assert max(sizes) < 4 * min(sizes)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"kv_heads": 3}, "heads = 4 must be a multiple of kv_heads = 3"),
        ({"heads": 8, "kv_heads": 16}, "heads = 8 must be a multiple of kv_heads = 16"),
        ({"positions": "days"}, "chrono.positions = 'days'"),
        ({"time": "months"}, "chrono.time = 'months'"),
    ],
)
def test_what_does_not_fit_is_refused(fields, message):
    with pytest.raises(ConfigError, match=message):
        validate(ModelConfig, {"kind": "chrono", **fields}, where="config")


def test_heads_of_keys_follow_an_override_of_heads():
    assert ChronoModelConfig(size="base", heads=2, hidden=64).shared_heads == 2
    assert ChronoModelConfig(size="base", heads=16).shared_heads == 4


# --- forecasts


def test_a_head_is_put_in_once_and_found(make_model, batch):
    model = make_model("chrono")
    before = token_logits(model, hidden_states(model, batch))
    with pytest.raises(ConfigError, match="no time head: train it with objective time"):
        forecast_head(model, "time")
    torch.manual_seed(3)
    head = forecast_head(attach(model, "time", TIME), "time")
    assert (model.forecasts, model.config.time_head) == (["time"], TIME)
    assert head.out.weight.std().item() == pytest.approx(0.02, rel=0.1)
    assert head.from_state.weight.std().item() == pytest.approx(128**-0.5, rel=0.1)
    assert not head.out.bias.any()
    assert torch.equal(before, token_logits(model, hidden_states(model, batch)))
    weight = head.out.weight.clone()
    assert forecast_head(attach(model, "time", dict(TIME)), "time") is head
    assert torch.equal(head.out.weight, weight)
    with pytest.raises(ConfigError, match="has a time head already, with other edges"):
        attach(model, "time", {"edges": time_edges(12)})
    torch.manual_seed(3)
    again = forecast_head(attach(make_model("chrono"), "time", TIME), "time")
    assert make_model("chrono") is not model
    assert not torch.equal(again.out.weight, torch.zeros_like(weight))


def test_the_seed_decides_a_new_head():
    heads = []
    for seed in (1, 1, 2):
        torch.manual_seed(0)
        model = build(ChronoModelConfig(size="tiny", layers=1), 90)
        torch.manual_seed(seed)
        heads.append(forecast_head(attach(model, "time", TIME), "time").out.weight)
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])


def test_other_kinds_can_have_none(make_model):
    with pytest.raises(ConfigError, match="kind llama can have no time head; chrono can"):
        attach(make_model("llama"), "time", TIME)
    with pytest.raises(ConfigError, match=r"this llama model has no time head$"):
        forecast_head(make_model("llama"), "time")


def test_heads_go_with_the_model_through_other_heads_and_adapters(make_model, batch):
    model = make_model("chrono-forecasts")
    classifier = build_classifier(model, 1, PooledConfig(), problem="binary")
    both = with_both(model, classifier)
    alone = without_pooled(both)
    for other in (both, alone):
        for name, value in forecast_head(model, "time").state_dict().items():
            assert torch.equal(other.time_head.state_dict()[name], value)
        states = hidden_states(other, batch)
        assert torch.equal(token_logits(other, states), token_logits(model, states))
    with pytest.raises(ConfigError, match="no time head"):
        forecast_head(classifier, "time")
    adapt(alone, AdapterConfig(rank=2))
    names = {name.rpartition(".lora_")[0].rpartition(".")[2] for name in trained(alone)} - {""}
    assert names == {"q_proj", "k_proj", "v_proj", "o_proj"}
    assert "time_head.out.weight" in trained(alone)  # as any head beside that of the next token


ELSEWHERE = """
import sys
from pathlib import Path

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.startswith("ehr_"):
            raise ImportError(f"{name} is not installed here")

sys.meta_path.insert(0, Blocker())
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

torch.set_num_threads(1)
root = Path(sys.argv[1])
model = AutoModelForCausalLM.from_pretrained(root / "c", trust_remote_code=True).eval()
inputs = load_file(root / "inputs")
with torch.no_grad():
    states = model.model(**inputs)[0][0]
    gaps = model.time_head(states[:-1], model.get_input_embeddings()(inputs["input_ids"][0, 1:]))
    chance = model.time_head.chance_within(gaps, torch.full((len(gaps),), 86400.0))
save_file({"gaps": gaps, "chance": chance}, root / "answer")
"""


@pytest.mark.slow
def test_its_time_head_answers_where_no_package_of_ours_is(
    make_model, records, spans, tokens_dir, tmp_path
):
    model, batch = make_model("chrono-forecasts"), pack(records, spans[2])
    directory = save(tmp_path / "c", model, tokens_dir)
    names = {"chrono.py", "rotary.py", "embeddings.py", "time.py"}
    assert names <= {path.name for path in directory.glob("*.py")}
    assert json.loads((directory / "config.json").read_text())["time_head"] == TIME
    save_file(rows(batch), tmp_path / "inputs")
    subprocess.run(
        [sys.executable, "-c", ELSEWHERE, str(tmp_path)],
        check=True,
        cwd=tmp_path,
        env={**os.environ, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1"},
    )
    head = forecast_head(load_checkpoint(directory).model, "time")
    with torch.no_grad():
        states = hidden_states(model, batch)
        gaps = head(states[:-1], model.get_input_embeddings()(batch.input_ids[1:]))
        chance = head.chance_within(gaps, torch.full((59,), 86_400.0))
    found = load_file(tmp_path / "answer")
    assert (found["gaps"] - gaps).abs().max() < 1e-5
    assert (found["chance"] - chance).abs().max() < 1e-5
