import math

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel, AutoModelForMaskedLM
from transformers.loss.loss_utils import ForMaskedLMLoss

from ehr_models.heads.token import hidden_states, token_logits
from ehr_models.kinds.behrt.model import BehrtConfig, BehrtForMaskedLM, BehrtModel
from ehr_models.layers.embeddings import (
    DAY_US,
    ORIGIN_US,
    STATIC,
    BinnedDays,
    Time2Vec,
    days_since_2020,
    rotary,
    rotate,
    sinusoid,
)
from ehr_tracking.contracts import MASK_ID, PAD_ID, SPECIALS


def inputs(length=6, batch=2):
    torch.manual_seed(3)
    return {
        "input_ids": torch.randint(len(SPECIALS), 90, (batch, length)),
        "age": torch.rand(batch, length) * 30_000,
        "time": (torch.rand(batch, length) * 60_000).long() * DAY_US,
        "visit": torch.arange(length).expand(batch, -1),
        "segment": torch.arange(length).expand(batch, -1) % 2,
    }


def test_time2vec_by_hand():
    embed = Time2Vec(3, 3)
    with torch.no_grad():
        embed.frequency.copy_(torch.tensor([0.5, math.pi, 2.0]))
        embed.phase.copy_(torch.tensor([1.0, 0.0, -1.0]))
        embed.projection.weight.copy_(torch.eye(3) * 2)
    days = torch.tensor([0.0, 365.25 / 2, 3652.5])  # 0, 1/2 and 10 years
    expected = [
        [1.0, 0.0, math.sin(-1)],
        [1.25, 1.0, math.sin(0)],
        [6.0, math.sin(10 * math.pi), math.sin(19)],
    ]
    torch.testing.assert_close(embed.features(days), torch.tensor(expected), atol=1e-5, rtol=0)
    torch.testing.assert_close(embed(days), 2 * torch.tensor(expected), atol=1e-5, rtol=0)


def test_time2vec_starts_well_conditioned(make_model):
    """Over a century the linear feature stays near 1 and periods reach from a month to it."""
    embed = BehrtModel(BehrtConfig(hidden_size=256)).embeddings.time
    century = torch.linspace(0, 36_525, 5000)
    features = embed.features(century).detach()
    assert features[:, 0].diff().sum().item() == pytest.approx(1, abs=1e-4)
    assert (2 * math.pi / embed.frequency[1:]).min().item() == pytest.approx(1 / 12, rel=1e-4)
    assert (2 * math.pi / embed.frequency[1:]).max().item() == pytest.approx(100, rel=1e-4)
    assert embed(century).std().item() == pytest.approx(0.02, rel=0.3)  # as a code's embedding


def test_time2vec_keeps_days_apart_in_a_bf16_model():
    embed = BehrtModel(BehrtConfig()).bfloat16().embeddings.time
    a, b = embed.features(torch.tensor([50_000.0, 50_001.0]))
    assert a.dtype == torch.float32
    assert (a - b).abs().max() > 0.1  # the period of a month turns by 12 degrees a day


def test_a_table_of_months_by_hand():
    table = BinnedDays(13, 12, 1)
    with torch.no_grad():
        table.weight.copy_(torch.arange(13.0)[:, None])
    days = torch.tensor([-400.0, 0.0, 30.0, 31.0, 364.0, 366.0, 9e4])  # a month has 30.4 days
    assert table(days).flatten().tolist() == [0, 0, 0, 1, 11, 12, 12]


@pytest.mark.parametrize("how", ["sinusoid", "months"])
def test_age_and_absolute_time_in_other_ways(make_model, how):
    """What an age and a time add to the code: waves of days, or rows of months (since 1900)."""
    embed = make_model("behrt", age=how, time=how, static=False).base_model.embeddings
    age, time = torch.tensor([[4000.0]]), torch.tensor([[ORIGIN_US + 40 * DAY_US]])
    added = embed._when({"age": age, "time": time}, torch.zeros(64)).flatten()
    if how == "months":
        expected = embed.age.weight[131] + embed.time.weight[1441]  # 120 years and 40 days
    else:
        waves = [
            [
                math.sin(d * 1e4 ** (-i / 64))
                if i % 2 == 0
                else math.cos(d * 1e4 ** ((1 - i) / 64))
                for i in range(64)
            ]
            for d in (4000, 40)
        ]
        expected = 0.02 * math.sqrt(2) * torch.tensor(waves).sum(0)
    torch.testing.assert_close(added, expected, atol=1e-5, rtol=0)


def test_embeddings_narrower_than_the_model(make_model):
    """They are as said, all of them; a linear map takes them to the width of the model."""
    model = make_model("behrt-narrow")
    embed = model.base_model.embeddings
    assert {p.shape[-1] for n, p in embed.named_parameters() if "projection" not in n} == {24}
    assert model.head.decoder.weight is embed.code.weight
    given = {n: v[:1, :2] for n, v in inputs().items()}
    code = embed.code(given["input_ids"])
    whole, projection = embed(code, given), embed.projection
    embed.projection = torch.nn.Identity()
    narrow = embed(code, given)
    assert narrow.shape == (1, 2, 24)
    torch.testing.assert_close(whole, narrow @ projection.weight.T + projection.bias)


def test_sinusoid_by_hand():
    expected = [math.sin(3), math.cos(3), math.sin(0.03), math.cos(0.03)]
    torch.testing.assert_close(sinusoid(torch.tensor(3), 4), torch.tensor(expected))


def test_rotation_by_hand():
    pair = torch.tensor([[[[1.0, 2.0]]]], requires_grad=True)
    turned = rotate(pair, *rotary(torch.tensor([[3]]), 2, 10_000.0))
    c, s = math.cos(3), math.sin(3)
    torch.testing.assert_close(turned.flatten(), torch.tensor([c - 2 * s, s + 2 * c]))
    (turned.flatten() @ torch.tensor([5.0, 7.0])).backward()
    torch.testing.assert_close(pair.grad.flatten(), torch.tensor([5 * c + 7 * s, 7 * c - 5 * s]))


def test_rotated_products_depend_on_distance_alone():
    torch.manual_seed(0)
    query, key = torch.randn(1, 1, 1, 16), torch.randn(1, 1, 1, 16)

    def product(at, distance):
        a = rotate(query, *rotary(torch.tensor([[at]]), 16, 10_000.0))
        b = rotate(key, *rotary(torch.tensor([[at + distance]]), 16, 10_000.0))
        return (a * b).sum().item()

    assert product(5, 7) == pytest.approx(product(400, 7), abs=1e-4)
    assert abs(product(5, 7) - product(5, 8)) > 1e-3


@pytest.mark.parametrize("name", ["behrt", "behrt-original", "behrt-learned", "behrt-narrow"])
def test_nothing_is_lost_or_overwritten_by_saving(make_model, batch, name, tmp_path):
    """No NaN buffer, no sinusoid table turned to noise, and the tie is kept."""
    model = make_model(name)
    model.save_pretrained(tmp_path)
    loaded = AutoModelForMaskedLM.from_pretrained(tmp_path, attn_implementation="ehr_packed")
    assert type(loaded) is BehrtForMaskedLM
    for tensor in (*loaded.parameters(), *loaded.buffers()):
        assert tensor.isfinite().all()
    with torch.no_grad():
        a = token_logits(model, hidden_states(model, batch))
        b = token_logits(loaded, hidden_states(loaded, batch))
    assert (a - b).abs().max() < 1e-6
    assert loaded.head.decoder.weight is loaded.behrt.embeddings.code.weight
    assert "head.decoder.weight" not in load_file(tmp_path / "model.safetensors")
    base = AutoModel.from_pretrained(tmp_path)
    assert torch.equal(base.embeddings.code.weight, loaded.head.decoder.weight)


def test_the_sinusoid_survives_initialisation_and_loading(tmp_path):
    """What a visit adds is the published encoding, before and after."""
    fresh = BehrtModel(BehrtConfig(position="sinusoid", visit=False))
    fresh.save_pretrained(tmp_path)
    visits = torch.tensor([1, 2])
    for model in (fresh, BehrtModel.from_pretrained(tmp_path)):
        added = model.embeddings._visits(visits, torch.zeros(128)) / (0.02 * math.sqrt(2))
        torch.testing.assert_close(added, sinusoid(visits, 128))


@pytest.mark.parametrize("name", ["age", "time", "visit", "segment"])
def test_each_input_moves_the_output_and_may_not_be_missing(make_model, name):
    model = make_model("behrt").base_model
    given = inputs()
    changed = dict(given)
    more = 40 * (DAY_US if name == "time" else 1)
    changed[name] = 1 - given[name] if name == "segment" else given[name] + more
    with torch.no_grad():
        a, b = model(**given).last_hidden_state, model(**changed).last_hidden_state
    assert (a - b).abs().max() > 1e-3
    del given[name]
    with pytest.raises(ValueError, match=f"embeds {name}: pass {name}="):
        model(**given)


def test_inputs_that_are_not_embedded_are_not_asked_for(make_model):
    model = make_model("behrt", age="none", time="none", visit=False, segment=False)
    ids = inputs()["input_ids"]
    assert model(ids).logits.shape == (2, 6, 128)


def test_tables_take_any_visit_and_age(make_model):
    model = make_model("behrt-original").base_model
    given = inputs()
    given["visit"] = given["visit"] + 60_000
    given["age"] = given["age"] * 1e6
    assert model(**given).last_hidden_state.isfinite().all()


def test_months_are_the_unit_of_the_original(make_model):
    embed = make_model("behrt-original").base_model.embeddings
    given = dict.fromkeys(("time", "visit", "segment"), torch.zeros(1, 1, dtype=torch.long))
    code = torch.zeros(1, 1, 288)

    def at(days):
        return embed(code, {**given, "age": torch.tensor([[days]])})

    assert torch.equal(at(10.0), at(30.0))
    assert not torch.equal(at(30.0), at(31.0))
    assert torch.equal(at(365.25 * 120 + 1), at(1e6))


def test_a_mask_is_not_padding(make_model, batch):
    """[MASK] is seen and learned; padding is neither."""
    assert MASK_ID != PAD_ID
    model = make_model("behrt")
    assert model.config.pad_token_id == PAD_ID
    given = inputs()
    given["input_ids"][:, 2] = MASK_ID
    model(**given).logits[:, 2, 50].sum().backward()
    assert model.behrt.embeddings.code.weight.grad[MASK_ID].abs().max() > 0


MINUTE_US = 60_000_000


@pytest.mark.parametrize(("locality", "near"), [(2.0, (0.6, 1.0)), (0.0, (0.0, 0.1))])
def test_attention_begins_at_the_nearest_tokens(make_model, locality, near):
    """Of 128 tokens those within two places get most of it, whatever they are of; without, 5 of 128."""
    model = make_model("behrt", locality=locality)
    attention = model.behrt.layers[0].attention
    torch.manual_seed(1)
    shape = (1, 128, model.config.num_attention_heads, attention.head_dim)
    rope = rotary(torch.arange(128)[None], attention.head_dim, model.config.rope_theta)
    x = torch.randn(1, 128, model.config.hidden_size)
    query, key = (
        rotate(p(x).view(shape).transpose(1, 2), *rope)
        for p in (attention.q_proj, attention.k_proj)
    )
    weights = (query @ key.transpose(-1, -2) * attention.head_dim**-0.5).softmax(-1)[0]
    distance = (torch.arange(128)[:, None] - torch.arange(128)).abs()
    share = (weights * (distance <= 2)).sum(-1)[:, 8:-8].mean().item()
    assert near[0] <= share <= near[1]


def at(year):
    return ORIGIN_US + int((year - 2020) * 365.25 * DAY_US)


@pytest.mark.parametrize("year", [1930, 2020, 2190])
def test_a_minute_is_told_apart_at_any_time(make_model, year):
    """By as much as exact arithmetic says, to a hundredth; float32 days lose it altogether."""
    embed = make_model("behrt").base_model.embeddings.time
    t = torch.tensor([at(year), at(year) + MINUTE_US])
    features = embed.features(days_since_2020(t)).detach()
    years = [(int(x) - ORIGIN_US) / DAY_US / 365.25 for x in t]
    angle = [
        [y * w + p for w, p in zip(embed.frequency.tolist(), embed.phase.tolist(), strict=True)][1:]
        for y in years
    ]
    exact = torch.tensor([[math.sin(a) for a in row] for row in angle], dtype=torch.float64)
    assert (features[:, 1:] - exact).abs().max() < 1e-6
    moved = (features[1, 1:] - features[0, 1:]).abs().max().item()
    assert moved == pytest.approx((exact[1] - exact[0]).abs().max().item(), rel=0.01)
    days = ((t - ORIGIN_US).double() / DAY_US).float()
    assert year == 2020 or days[0] == days[1]
    assert (embed(days_since_2020(t)).diff(dim=0) != 0).any()


def test_equal_differences_turn_features_by_equal_angles(make_model):
    """A minute is the same turn in 1930 as in 2190, where float32 would round it to none or six."""
    embed = make_model("behrt").base_model.embeddings.time
    with torch.no_grad():
        embed.frequency[1:] = 2 * math.pi * 365.25 * 24  # an hour
        embed.phase[1] = 0.0
    turns = []
    for year in (1930, 2020, 2190):
        t = torch.tensor([at(year), at(year) + MINUTE_US])
        angle = days_since_2020(t) / 365.25 * embed.frequency[1].double()
        assert (embed.features(days_since_2020(t))[:, 1] - angle.sin()).abs().max() < 1e-6
        turns.append(angle.diff().item())
    assert turns == pytest.approx([turns[1]] * 3, rel=1e-4)


@pytest.mark.parametrize("name", ["behrt", "behrt-months"])
def test_static_tokens_look_like_no_time_and_no_age(make_model, name):
    model = make_model("behrt", age="months" if name == "behrt-months" else "time2vec").base_model
    embed = model.embeddings
    given = {n: v[:1, :1] for n, v in inputs().items()}
    code = embed.code(given["input_ids"])
    birth = {**given, "age": torch.zeros(1, 1), "time": torch.full((1, 1), ORIGIN_US)}
    static = {**birth, "time": torch.full((1, 1), STATIC)}
    assert (embed(code, static) - embed(code, birth)).abs().max() > 1e-3
    # whatever its age column says
    assert torch.equal(embed(code, static), embed(code, {**static, "age": torch.ones(1, 1) * 9e3}))
    embed(code, static).square().sum().backward()
    assert embed.static.grad.abs().max() > 0


def test_the_original_sees_static_tokens_as_published(make_model):
    """As of age 0; and it does not ask for times."""
    model = make_model("behrt-original").base_model
    given = inputs()
    del given["time"]
    assert not hasattr(model.embeddings, "static")
    assert model(**given).last_hidden_state.isfinite().all()


def test_labels_give_the_mean_loss_over_the_true_vocabulary(make_model):
    """That of transformers' own loss where the embedding has no padding columns."""
    model = make_model("behrt")
    assert (model.config.true_vocab_size, model.config.vocab_size) == (90, 128)
    with torch.no_grad():
        model.head.decoder.bias[90:] = 20.0  # what padding columns must not be able to do
    given = inputs()
    labels = torch.full((2, 6), -100)
    labels[0, 1], labels[1, 4] = 33, 44
    out = model(**given, labels=labels)
    expected = ForMaskedLMLoss(out.logits[..., :90], labels, vocab_size=90)
    assert out.loss.item() == pytest.approx(expected.item(), rel=1e-6)
    picked = out.logits[..., :90].log_softmax(-1)[[0, 1], [1, 4], [33, 44]]
    assert out.loss.item() == pytest.approx(-picked.mean().item(), rel=1e-5)


def test_embeddings_can_be_resized_and_stay_tied(make_model):
    model = make_model("behrt")
    model.resize_token_embeddings(256)
    assert model.head.decoder.weight is model.get_input_embeddings().weight
    assert model(**inputs()).logits.shape[-1] == 256
