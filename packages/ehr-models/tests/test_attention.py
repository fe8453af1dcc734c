from dataclasses import replace

import pytest
import torch
from torch import nn

from ehr_models import attention
from ehr_models.data.batch import pack
from ehr_models.heads import hidden_states, token_logits


def pad(values, cu_seqlens, fill=0):
    """[T] to [S, L], on the right."""
    pieces = values.split(cu_seqlens.diff().tolist())
    return nn.utils.rnn.pad_sequence(pieces, batch_first=True, padding_value=fill)


def padded_inputs(model, batch):
    inputs = {"input_ids": batch.input_ids, "position_ids": batch.position_ids}
    if model.config.model_type == "behrt":
        inputs |= {n: getattr(batch, n) for n in ("age", "time", "visit", "segment")}
    elif model.config.model_type == "bert":
        inputs["token_type_ids"] = batch.segment
    inputs = {name: pad(value, batch.cu_seqlens) for name, value in inputs.items()}
    mask = pad(torch.ones_like(batch.input_ids), batch.cu_seqlens)
    return {**inputs, "attention_mask": mask}


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


def test_packed_equals_separate(model, records, spans, batch):
    with torch.no_grad():
        together = token_logits(model, hidden_states(model, batch))
        alone = torch.cat(
            [token_logits(model, hidden_states(model, pack(records, s))) for s in spans]
        )
    assert together.isfinite().all()
    assert together.std() > 0.1  # the bound below would be empty for logits near zero
    assert (together - alone).abs().max() < 1e-5


@pytest.mark.parametrize("how", ["sdpa", "eager", attention.NAME])
def test_a_padded_batch_gives_the_same_states(model, batch, how):
    with torch.no_grad():
        packed = hidden_states(model, batch)
        model.set_attn_implementation(how)
        inputs = padded_inputs(model, batch)
        padded = model.base_model(**inputs).last_hidden_state
    real = inputs["attention_mask"].bool()
    assert (padded[real] - packed).abs().max() < 1e-5


def test_gradients_equal_those_of_a_padded_batch(model, batch):
    weight = torch.randn(len(batch.input_ids), model.config.hidden_size)
    (hidden_states(model, batch) * weight).sum().backward()
    packed = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    model.set_attn_implementation("sdpa")
    inputs = padded_inputs(model, batch)
    padded = model.base_model(**inputs).last_hidden_state
    (padded[inputs["attention_mask"].bool()] * weight).sum().backward()
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            scale = parameter.grad.abs().max()
            assert (parameter.grad - packed[name]).abs().max() <= 1e-5 * (1 + scale), name


def test_other_subjects_leave_no_trace(model, batch):
    """Not one bit of a span changes with the tokens of its neighbours."""
    start, stop = int(batch.cu_seqlens[2]), int(batch.cu_seqlens[3])
    other = batch.input_ids.flip(0)
    other[start:stop] = batch.input_ids[start:stop]
    assert (other != batch.input_ids).any()
    with torch.no_grad():
        a = hidden_states(model, batch)
        b = hidden_states(model, replace(batch, input_ids=other))
    assert torch.equal(a[start:stop], b[start:stop])
    assert not torch.equal(a, b)


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_future_tokens_leave_no_trace_in_causal_models(make_model, batch, name):
    model = make_model(name)
    start, stop = int(batch.cu_seqlens[2]), int(batch.cu_seqlens[3])
    cut = (start + stop) // 2
    other = batch.input_ids.clone()
    other[cut:stop] = 7 + (other[cut:stop] % 50 + 11) % 80
    with torch.no_grad():
        a = hidden_states(model, batch)
        b = hidden_states(model, replace(batch, input_ids=other))
    assert torch.equal(a[:cut], b[:cut])
    assert torch.equal(a[stop:], b[stop:])
    assert not torch.equal(a[cut:stop], b[cut:stop])


@pytest.mark.parametrize("name", ["behrt", "bert"])
def test_encoders_do_see_both_ways(make_model, batch, name):
    model = make_model(name)
    start, stop = int(batch.cu_seqlens[2]), int(batch.cu_seqlens[3])
    other = batch.input_ids.clone()
    other[stop - 1] = 7 if other[stop - 1] != 7 else 8
    with torch.no_grad():
        a = hidden_states(model, batch)
        b = hidden_states(model, replace(batch, input_ids=other))
    assert (a[start] - b[start]).abs().max() > 1e-5


@pytest.mark.parametrize("training", [True, False])
def test_bf16_autocast_stays_near_fp32(model, batch, training):
    model.train(training)
    exact = hidden_states(model, batch)
    with torch.autocast("cpu", torch.bfloat16), torch.set_grad_enabled(training):
        rough = hidden_states(model, batch)
    assert rough.isfinite().all()
    if not model.config.to_dict().get("dropout"):
        assert (rough - exact).abs().mean() < 0.05 * exact.abs().mean()
    if training:
        rough.float().square().mean().backward()
        grads = [p.grad for p in model.parameters() if p.grad is not None]
        assert grads
        assert all(g.isfinite().all() for g in grads)


def test_gradient_checkpointing_changes_nothing(model, batch):
    def gradients():
        torch.manual_seed(0)
        model.zero_grad()
        hidden_states(model, batch).square().mean().backward()
        return [p.grad.clone() for p in model.parameters() if p.grad is not None]

    model.train()
    plain = gradients()
    model.activation_checkpointing_enable()
    for a, b in zip(plain, gradients(), strict=True):
        assert torch.equal(a, b)


def test_attention_dropout_is_applied_in_training_only(make_model, batch):
    model = make_model("gpt2", attention_dropout=0.5)
    plain = hidden_states(model, batch)
    assert torch.equal(plain, hidden_states(model, batch))
    model.train()
    torch.manual_seed(1)
    first = hidden_states(model, batch)
    assert not torch.equal(first, hidden_states(model, batch))
    assert not torch.equal(first, plain)


@pytest.mark.parametrize("how", ["sdpa", "eager"])
def test_an_implementation_that_knows_no_spans_fails(model, batch, how):
    """Rather than let subjects see each other."""
    model.set_attn_implementation(how)
    with pytest.raises(RuntimeError):
        hidden_states(model, batch)


@pytest.mark.parametrize("name", ["gpt2", "llama"])
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
