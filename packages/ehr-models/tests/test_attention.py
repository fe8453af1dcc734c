import pytest
import torch
from torch import nn

from ehr_models.heads.token import hidden_states
from ehr_models.layers import attention


def reference(query, key, value, lengths, *, causal, scale):
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
            heads.append(scores.softmax(-1) @ v)
        outs.append(torch.stack(heads, 1))
    return torch.cat(outs)[None]


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("kv_heads", [4, 2, 1])
def test_against_the_textbook_form_span_by_span(causal, kv_heads):
    torch.manual_seed(0)
    lengths = [1, 5, 30, 5]
    query = torch.randn(1, 4, 41, 8, requires_grad=True)
    key, value = (torch.randn(1, kv_heads, 41, 8, requires_grad=True) for _ in range(2))
    module = nn.Identity()
    module.is_causal = causal
    cu_seqlens = torch.tensor([0, 1, 6, 36, 41], dtype=torch.int32)
    out, weights = attention.packed_attention(
        module, query, key, value, None, scaling=0.3, cu_seq_lens_q=cu_seqlens, max_length_q=30
    )
    expected = reference(query, key, value, lengths, causal=causal, scale=0.3)
    assert weights is None
    torch.testing.assert_close(out.double(), expected, atol=1e-6, rtol=0)
    weight = torch.randn_like(expected)
    got = torch.autograd.grad((out * weight).sum(), (query, key, value))
    wanted = torch.autograd.grad((expected * weight).sum(), (query, key, value))
    for a, b in zip(got, wanted, strict=True):
        torch.testing.assert_close(a, b.to(a.dtype), atol=1e-5, rtol=0)


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
