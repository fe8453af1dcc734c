from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from torch import nn

from ehr_models.data.batch import Batch
from ehr_models.heads.token import hidden_states
from ehr_models.kinds import KINDS
from ehr_models.layers import attention
from ehr_models.registry import build


def reference(query, key, value, lengths, *, causal, scale, window=None):
    """Softmax attention span by span and head by head, in float64."""
    outs, start = [], 0
    for n in lengths:
        part = slice(start, start + n)
        start += n
        heads = []
        for h in range(query.shape[1]):
            g = h * key.shape[1] // query.shape[1]
            q, k, v = (t[0, i, part].double() for t, i in ((query, h), (key, g), (value, g)))
            scores = q @ k.T * scale
            if causal:
                scores += torch.full_like(scores, -torch.inf).triu(1)
            if window is not None:
                place = torch.arange(n)
                apart = (place - place[:, None]).abs()
                scores = scores.masked_fill(apart >= window, -torch.inf)
            heads.append(scores.softmax(-1) @ v)
        outs.append(torch.stack(heads, 1))
    return torch.cat(outs)[None]


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(("kv_heads", "window"), [(4, None), (2, 5), (1, None), (4, 4), (4, 30)])
def test_against_the_textbook_form_span_by_span(causal, kv_heads, window, monkeypatch):
    monkeypatch.setattr(attention, "LOCAL_BLOCK", 4)
    torch.manual_seed(0)
    lengths = [1, 5, 5, 30]  # two of one length side by side
    query = torch.randn(1, 4, 41, 8, requires_grad=True)
    key, value = (torch.randn(1, kv_heads, 41, 8, requires_grad=True) for _ in range(2))
    module = nn.Identity()
    module.is_causal = causal
    cu_seqlens = torch.tensor([0, 1, 6, 11, 41], dtype=torch.int32)
    out, weights = attention.packed_attention(
        module, query, key, value, None, scaling=0.3, cu_seq_lens_q=cu_seqlens, max_length_q=30,
        sliding_window=window,
    )  # fmt: skip
    expected = reference(query, key, value, lengths, causal=causal, scale=0.3, window=window)
    assert weights is None
    torch.testing.assert_close(out.double(), expected, atol=1e-6, rtol=0)
    weight = torch.randn_like(expected)
    got = torch.autograd.grad((out * weight).sum(), (query, key, value))
    wanted = torch.autograd.grad((expected * weight).sum(), (query, key, value))
    for a, b in zip(got, wanted, strict=True):
        torch.testing.assert_close(a, b.to(a.dtype), atol=1e-5, rtol=0)


@pytest.mark.parametrize(("name", "ahead"), [("modernbert", 8), ("mistral", 0)])
def test_a_token_is_seen_as_far_as_the_window_of_each_layer(make_model, name, ahead):
    """Two local layers of a window of 8 on either side, or of 9 tokens: 16 places, ahead none in the causal one."""
    model = make_model(name)
    if name == "modernbert":
        for layer in model.base_model.layers:
            layer.attention_type = "sliding_attention"
            layer.attn.sliding_window = model.config.sliding_window + 1
    ids = torch.randint(7, 90, (60,), generator=torch.Generator().manual_seed(0))
    batch = one_span(ids)
    with torch.no_grad():
        first = hidden_states(model, batch)
        moved = (hidden_states(model, replace(batch, input_ids=changed(ids, 30))) != first).any(-1)
    assert moved.nonzero()[:, 0].tolist() == list(range(30 - 2 * ahead, 30 + 16 + 1))


def one_span(ids):
    """A batch of one record; only what models with attention hear is of use."""
    place = torch.arange(len(ids))
    none = torch.zeros_like(ids)
    return Batch(
        input_ids=ids, position_ids=place, age=none.float(), time=none, visit=none, segment=none,
        index=place, span=none, cu_seqlens=torch.tensor([0, len(ids)], dtype=torch.int32),
        max_length=len(ids),
    )  # fmt: skip


def changed(ids, place):
    other = ids.clone()
    other[place] = 7 + (other[place] - 6) % 80
    return other


@pytest.mark.parametrize("name", ["modernbert", "mistral", "qwen3"])
def test_a_long_record_gives_the_states_of_transformers_own_class(name):
    """With copied weights, at the window that the kind has of itself: more than one block of it."""
    kind = KINDS[name]
    torch.manual_seed(0)
    model = build(kind.config(size="tiny", layers=2, hidden=32, max_positions=600), 90).eval()
    config = deepcopy(model.config)
    theirs = type(model.base_model)._from_config(config, attn_implementation="eager").eval()
    theirs.load_state_dict(model.base_model.state_dict())
    ids = torch.randint(7, 90, (600,), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        states = hidden_states(model, one_span(ids))
        expected = theirs(input_ids=ids[None]).last_hidden_state[0]
    assert (states - expected).abs().max() < 1e-5


def test_attention_dropout_is_applied_in_training_only(make_model, batch):
    model = make_model("gpt2", attention_dropout=0.5)
    plain = hidden_states(model, batch)
    assert torch.equal(plain, hidden_states(model, batch))
    model.train()
    torch.manual_seed(1)
    first = hidden_states(model, batch)
    assert not torch.equal(first, hidden_states(model, batch))
    assert not torch.equal(first, plain)


@pytest.mark.parametrize("name", ["gpt2", "gpt2_moe", "llama"])
def test_positions_alone_isolate_too(make_model, batch, name):
    """transformers' own way of packing causal models holds under our implementation."""
    model = make_model(name)
    with torch.no_grad():
        out = model.base_model(
            input_ids=batch.input_ids[None], position_ids=batch.position_ids[None], use_cache=False
        )
        packed = hidden_states(model, batch)
    assert (out.last_hidden_state[0] - packed).abs().max() < 1e-5


def test_generation_with_a_cache_equals_plain_attention(make_model):
    prompt = torch.tensor([[5, 20, 30, 40], [0, 0, 5, 50]])
    inputs = {"input_ids": prompt, "attention_mask": (prompt != 0).long()}
    texts = []
    for how in (attention.NAME, "sdpa"):
        model = make_model("gpt2")
        model.set_attn_implementation(how)
        texts.append(model.generate(**inputs, max_new_tokens=8, do_sample=False))
    assert torch.equal(*texts)
    assert texts[0].shape == (2, 12)
