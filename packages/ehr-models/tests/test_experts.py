"""The mixture of experts beside dense layers, Mixtral's and itself computed another way."""

from dataclasses import replace

import pytest
import torch
from transformers import GPT2Config, GPT2Model, MixtralConfig
from transformers.models.mixtral.modeling_mixtral import (
    MixtralSparseMoeBlock,
    load_balancing_loss_func,
)

from ehr_models.config import ModelConfig
from ehr_models.data.batch import pack
from ehr_models.heads.token import answer, hidden_states, token_logits
from ehr_models.kinds.gpt2_moe import SIZES, Gpt2MoeModelConfig
from ehr_models.kinds.gpt2_moe.model import MLP, Gpt2MoeConfig, Mixture
from ehr_models.layers.experts import Routing, grouped, one_by_one, tell
from ehr_models.layers.initialization import METHODS
from ehr_models.registry import architecture, build
from ehr_tracking.config import ConfigError, validate

from .conftest import sizes_over_depth
from .test_initialization import drawn_by

SMALL = {"n_embd": 16, "n_inner": 24, "experts": 5, "experts_per_token": 2}


def mixture(**changes):
    """A mixture of large random weights, and its configuration."""
    config = Gpt2MoeConfig(**{**SMALL, **changes})
    torch.manual_seed(0)
    layer = Mixture(config)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.normal_(0, 0.4)
    return layer, config


def chosen(model, batch):
    """Of each layer with experts [T, K]."""
    found = []
    for block in model.base_model.h:
        block.mlp.router.register_forward_hook(lambda _m, _a, out: found.append(out.chosen))
    with torch.no_grad():
        hidden_states(model, batch)
    return torch.stack(found)


# --- the layer


@pytest.mark.parametrize("shared", [False, True])
def test_equal_experts_are_a_dense_mlp(shared):
    layer, config = mixture(shared=shared)
    dense = MLP(config)
    with torch.no_grad():
        for expert in range(5):
            layer.experts.up[expert] = dense.c_fc.weight.T
            layer.experts.down[expert] = dense.c_proj.weight.T
        x = torch.randn(2, 9, 16)
        expected = dense(x) if not shared else dense(x) + layer.shared(x)
        assert (layer(x)[0] - expected).abs().max() < 1e-5


def test_a_layer_with_copied_weights_is_that_of_mixtral():
    """Whose gated experts are ours where the gated half is always 1: by an input that is."""
    layer, _ = mixture()
    config = MixtralConfig(
        **{"hidden_size": 16, "intermediate_size": 24, "num_local_experts": 5},
        **{"num_experts_per_tok": 2, "hidden_act": "gelu_pytorch_tanh"},
    )
    theirs = MixtralSparseMoeBlock(config)
    x = torch.randn(2, 30, 16)
    x[..., -1] = 1.0
    with torch.no_grad():
        theirs.gate.weight.copy_(layer.router.weight)
        theirs.experts.gate_up_proj.zero_()
        theirs.experts.gate_up_proj[:, :24] = layer.experts.up.transpose(1, 2)
        theirs.experts.gate_up_proj[:, 24:, -1] = 1.0
        theirs.experts.down_proj.copy_(layer.experts.down.transpose(1, 2))
        expected = theirs(x)
        assert expected.std() > 0.1
        assert (layer(x)[0] - expected).abs().max() < 1e-5


@pytest.mark.parametrize("counts", [[3, 0, 1, 12], [5, 5, 4, 2], [16, 0, 0, 0]])
def test_one_call_gives_what_a_loop_over_experts_does(counts):
    counts, found = torch.tensor(counts), []
    for product in (grouped, one_by_one):
        torch.manual_seed(0)
        rows, stack = torch.randn(16, 8), torch.randn(4, 8, 12)
        rows, stack = rows.requires_grad_(), stack.requires_grad_()
        out = product(rows, stack, counts)
        out.square().sum().backward()
        found.append((out.detach(), rows.grad, stack.grad))
    by_hand = torch.cat([r @ m for r, m in zip(rows.split(counts.tolist()), stack, strict=True)])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b)
    torch.testing.assert_close(found[0][0], by_hand.detach())


def test_routing_is_fp32_under_autocast_and_the_same_in_training():
    layer, _ = mixture()
    x = torch.randn(40, 16)
    expected = layer.router(x)
    with torch.autocast("cpu", torch.bfloat16):
        rough = layer.train().router(x)
    assert rough.logits.dtype == rough.weights.dtype == torch.float32
    assert torch.equal(rough.chosen, expected.chosen)
    assert torch.equal(rough.weights, expected.weights)


def test_a_single_expert_counts_its_probability_so_that_the_router_learns():
    layer, _ = mixture(experts_per_token=1)
    layer(torch.randn(3, 20, 16))[0].square().sum().backward()
    assert layer.router.weight.grad.abs().max() > 1e-3


def test_a_correction_moves_choices_and_not_what_they_count():
    layer, _ = mixture(bias_rate=0.02)
    x = torch.randn(200, 16)
    x[..., -1] = 3.0  # of which each expert likes to hear more or less
    before = after = layer.router(x)
    uneven = shares = tell([before], None).shares[0]
    for step in range(20):
        layer.router.rebalance(shares, 0.02)
        if step == 0:
            assert torch.equal(layer.router.correction, 0.02 * (1 / 5 - shares).sign())
        after = layer.router(x)
        shares = tell([after], None).shares[0]
    assert uneven.std() > 0.1
    assert shares.std() < 0.5 * uneven.std()
    assert torch.equal(after.logits, before.logits)
    likely = after.logits.softmax(-1).gather(-1, after.chosen)
    torch.testing.assert_close(after.weights, likely / likely.sum(-1, keepdim=True))
    layer.router.requires_grad_(False)  # frozen, it stays where it is
    kept = layer.router.correction.clone()
    layer.router.rebalance(shares, 0.5)
    assert torch.equal(layer.router.correction, kept)


# --- what it tells


def test_losses_are_those_of_transformers_and_the_formula_without_padding():
    logits = torch.randn(3, 40, 6)
    real = torch.rand(40) > 0.3
    routings = [Routing(x, x.topk(2, -1).indices, x[:, :2]) for x in logits]
    told, theirs = tell(routings, real), load_balancing_loss_func(tuple(logits), 6, 2, real[None])
    assert told.balance.item() == pytest.approx(theirs.item(), rel=1e-5)
    whole = load_balancing_loss_func(tuple(logits), 6, 2)
    assert tell(routings, None).balance.item() == pytest.approx(whole.item(), rel=1e-5)
    z = logits[:, real].exp().sum(-1).log().square().mean().item()
    assert told.z.item() == pytest.approx(z, rel=1e-5)
    by_hand = [(r.chosen[real] == e).float().mean().item() for r in routings for e in range(6)]
    torch.testing.assert_close(told.shares.flatten(), torch.tensor(by_hand))


def test_the_loss_of_forward_is_cross_entropy_over_codes_and_the_weighted_losses(make_model):
    model, ids = make_model("gpt2_moe"), torch.randint(7, 90, (2, 12))
    out = model(input_ids=ids, labels=ids)
    likely = out.logits[:, :-1, :90].log_softmax(-1).gather(-1, ids[:, 1:, None])
    expected = -likely.mean() + 0.01 * out.balance + 0.001 * out.z
    assert out.loss.item() == pytest.approx(expected.item(), rel=1e-5)
    (out.balance + out.z).backward()
    for block in model.transformer.h:
        assert block.mlp.router.weight.grad.abs().max() > 1e-6


def test_padding_is_not_told_of(make_model, batch, padded):
    model = make_model("gpt2_moe")
    with torch.no_grad():
        packed = answer(model, batch)
        for side in ("right", "left"):
            out = model.base_model(**padded(model, batch, side))
            torch.testing.assert_close(out.expert_shares, packed.expert_shares)
            for name, value in packed.auxiliary.items():
                torch.testing.assert_close(out[name], value)


def test_a_forward_leaves_nothing_behind(make_model, batch):
    """Neither in the model nor in the next loss, also after tokens were generated."""
    model = make_model("gpt2_moe-shared").train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    first = answer(model, batch)
    model.generate(torch.tensor([[5, 20]]), max_new_tokens=10, do_sample=True)
    again = answer(model, batch)
    assert torch.equal(first.states, again.states)
    assert all(torch.equal(first.auxiliary[n], again.auxiliary[n]) for n in ("balance", "z"))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


# --- the model


def test_later_tokens_and_other_subjects_move_no_choice(make_model, batch):
    start, stop = int(batch.cu_seqlens[2]), int(batch.cu_seqlens[3])
    other = batch.input_ids.flip(0)
    other[start : stop - 20] = batch.input_ids[start : stop - 20]
    before, after = (
        chosen(make_model("gpt2_moe"), replace(batch, input_ids=ids))
        for ids in (batch.input_ids, other)
    )
    assert torch.equal(before[:, start : stop - 20], after[:, start : stop - 20])
    assert not torch.equal(before, after)


def test_tokens_fed_one_by_one_go_where_they_went_together(make_model, records, spans):
    model, batch = make_model("gpt2_moe-shared"), pack(records, spans[2])
    with torch.no_grad():
        together = token_logits(model, hidden_states(model, batch))
        cache, found = None, []
        for token in batch.input_ids:
            out = model(input_ids=token[None, None], past_key_values=cache, use_cache=True)
            cache = out.past_key_values
            found.append(out.logits[0, 0, :90])
    assert (torch.stack(found) - together).abs().max() < 1e-5


@pytest.mark.parametrize(
    ("fields", "layers"),
    [
        ({"size": "small-4"}, [1, 3, 5]),
        ({"size": "small-8", "every": 1, "layers": 3}, [0, 1, 2]),
        ({"size": "small-2", "every": 4}, [3]),
        ({"size": "small-monolith"}, []),
    ],
)
def test_every_nth_layer_has_experts(fields, layers):
    config = Gpt2MoeModelConfig(**fields)
    with torch.device("meta"):
        model = build(config, 90).base_model
    found = [n for n, block in enumerate(model.h) if isinstance(block.mlp, Mixture)]
    assert found == layers == model.config.expert_layers
    assert not any("bias" in name for name, _ in model.named_parameters())


def test_presets_have_the_experts_of_their_name():
    for size in SIZES:
        found = architecture(Gpt2MoeModelConfig(size=size), 90)
        wanted = {"tiny": 4, "monolith": 1}.get(size.rpartition("-")[2])
        assert found.experts == (wanted or int(size.rpartition("-")[2]))
        assert found.experts_per_token == {1: 1, 2: 1}.get(found.experts, 2)


def test_a_monolith_is_gpt2_without_biases(batch):
    torch.manual_seed(0)
    config = Gpt2MoeModelConfig(size="small-monolith", layers=2, hidden=32, heads=2)
    ours = build(config, 90).base_model.eval()
    theirs = GPT2Model(
        GPT2Config(
            **{"n_embd": 32, "n_layer": 2, "n_head": 2, "n_inner": 1024, "vocab_size": 128},
            activation_function="gelu_pytorch_tanh",
        )
    ).eval()
    weights = ours.state_dict()
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            if name.endswith("bias"):
                parameter.zero_()
            else:
                weight = weights[name]
                parameter.copy_(weight.T if name.startswith("h.") and weight.ndim > 1 else weight)
    ids = batch.input_ids[None, :50]
    with torch.no_grad():
        a, b = ours(ids), theirs(ids)
    assert (a.last_hidden_state - b.last_hidden_state).abs().max() < 1e-5
    assert a.balance is None
    assert a.expert_shares is None


def test_new_states_of_wide_models_keep_their_size_too():
    """GPT-2's own initialisation lets them grow with the width; experts may not make it worse."""
    torch.manual_seed(0)
    model = build(Gpt2MoeModelConfig(size="base-4", every=6, shared=True), 90).base_model.eval()
    sizes = sizes_over_depth(model, torch.randint(7, 90, (1, 40)))
    assert len(sizes) == 13
    assert max(sizes) < 4 * min(sizes)


@pytest.mark.parametrize("method", METHODS)
def test_experts_are_drawn_as_other_matrices_are(method):
    torch.manual_seed(0)
    model = build(Gpt2MoeModelConfig(size="tiny", initialization=method), 90).base_model
    experts = model.h[1].mlp.experts
    for expert in range(4):
        assert drawn_by(method, experts.up[expert].T)
        assert drawn_by(method, experts.down[expert].T)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"size": "small-4", "top_k": 5}, "top_k = 5, but there are 4 experts"),
        ({"size": "small-4", "every": 7}, "every = 7, but there are 6 layers"),
        ({"size": "small-4", "balance": -1}, "gpt2_moe.balance = -1"),
    ],
)
def test_what_no_mixture_can_be_is_refused(fields, message):
    with pytest.raises(ConfigError, match=message):
        validate(ModelConfig, {"kind": "gpt2_moe", **fields}, where="config")
