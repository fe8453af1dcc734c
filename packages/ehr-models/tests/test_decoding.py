"""Rows that go on from shared prefixes, beside the plain forward over each whole sequence."""

import pytest
import torch

from ehr_models.data.batch import Batch
from ehr_models.decoding.decoder import Decoder
from ehr_models.decoding.parts import attend
from ehr_models.heads.token import hidden_states, token_logits
from ehr_models.kinds import KINDS
from ehr_tracking.config import ConfigError
from ehr_tracking.contracts import SPECIALS

from .conftest import VARIANTS, VOCAB

CAUSAL = [k.name for k in KINDS.values() if k.incremental]
VARIED = CAUSAL + [name for name, config in VARIANTS.items() if config.kind in CAUSAL]
COPIES = [2, 1, 3, 0, 1, 2, 4]
"""Rows of each of the seven subjects of `batch`, whose 1 to 60 tokens lie in one batch."""
FIELDS = ("input_ids", "age", "time", "visit", "segment")


def split(batch):
    """Each span as columns by name."""
    lengths = batch.cu_seqlens.diff().tolist()
    columns = {name: getattr(batch, name).split(lengths) for name in FIELDS}
    return [{name: columns[name][i] for name in FIELDS} for i in range(len(lengths))]


def pack(sequences):
    """The reverse."""
    lengths = torch.tensor([len(s["input_ids"]) for s in sequences])
    ends = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
    flat = {name: torch.cat([s[name] for s in sequences]) for name in FIELDS}
    span = torch.repeat_interleave(torch.arange(len(lengths)), lengths)
    index = torch.arange(int(ends[-1]))
    return Batch(
        **flat,
        position_ids=index - ends[span],
        index=index,
        span=span,
        cu_seqlens=ends.to(torch.int32),
        max_length=int(lengths.max()),
    )


@torch.no_grad()
def whole(model, sequences):
    """[R, D] the last state of each, by the plain forward over all of it."""
    batch = pack(sequences)
    return hidden_states(model, batch)[batch.cu_seqlens[1:] - 1]


def drawn(sequences, generator):
    """A next token for each: columns by name, minutes to months after the last."""
    gaps = torch.randint(60, 10**7, (len(sequences),), generator=generator)
    last = {name: torch.stack([s[name][-1] for s in sequences]) for name in FIELDS}
    shape = (len(sequences),)
    return last | {
        "input_ids": torch.randint(len(SPECIALS), VOCAB, shape, generator=generator),
        "time": last["time"].clamp(min=10**15) + gaps * 1_000_000,
        "age": last["age"] + gaps / 86_400,
    }


class Both:
    """A decoder, and beside it the sequences that its rows stand for."""

    def __init__(self, model, *, seed=0, precision="fp32"):
        self.model, self.decoder, self.rows = model, Decoder(model, precision=precision), []
        self.generator = torch.Generator().manual_seed(seed)

    def prefill(self, spans, copies):
        states = self.decoder.prefill(pack(spans), torch.tensor(copies))
        self.rows += [dict(s) for s, n in zip(spans, copies, strict=True) for _ in range(n)]
        return states

    def step(self, steps=1):
        for _ in range(steps):
            new = drawn(self.rows, self.generator)
            states = self.decoder.step(new["input_ids"], {n: new[n] for n in FIELDS[1:]})
            self.rows = [
                {n: torch.cat([s[n], new[n][i : i + 1]]) for n in FIELDS}
                for i, s in enumerate(self.rows)
            ]
        return states

    def keep(self, rows):
        self.decoder.keep(torch.tensor(rows, dtype=torch.int64))
        self.rows = [self.rows[i] for i in rows]


def near(states, expected, tolerance=1e-5):
    assert states.shape == expected.shape
    assert (states.float() - expected).abs().max() < tolerance * expected.abs().mean().clamp(min=1)


@pytest.mark.parametrize("name", VARIED)
def test_states_are_those_of_the_whole_sequence(make_model, batch, name):
    """Through rows that diverge, end, change places, and join late; and past the first buffers."""
    model = make_model(name)
    both, spans = Both(model), split(batch)
    near(both.prefill(spans, COPIES), whole(model, both.rows))
    near(both.step(), whole(model, both.rows))
    near(both.step(2), whole(model, both.rows))
    both.keep([12, 3, 0, 5, 4, 9, 10])
    near(both.step(), whole(model, both.rows))
    near(both.prefill(spans[3:1:-1], [2, 3]), whole(model, both.rows[7:]))
    near(both.step(), whole(model, both.rows))
    both.keep([11, 2, 1, 8, 4])
    near(both.step(70), whole(model, both.rows))
    both.keep([2, 0])
    both.prefill(spans[:1], [20])
    near(both.step(2), whole(model, both.rows))
    assert both.decoder.rows == 22
    assert both.decoder.positions.tolist() == [len(s["input_ids"]) for s in both.rows]


def test_rows_may_go_before_their_first_step(make_model, batch):
    """Also those that lie beyond the buffers, which are as large as an earlier step needed."""
    both, spans = Both(make_model("llama")), split(batch)
    both.prefill(spans[1:2], [3])
    both.step(2)
    both.prefill(spans[:3], [2, 30, 2])
    both.keep([36, 1, 20, 0])
    near(both.step(2), whole(both.model, both.rows))


@pytest.mark.parametrize("name", CAUSAL)
def test_bf16_rounds_as_autocast_does(make_model, batch, name):
    model = make_model(name)
    both = Both(model, precision="bf16")
    both.prefill(split(batch), COPIES)
    states = both.step(3)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = whole(model, both.rows)
        logits = token_logits(model, rounded).float()
    exact = whole(model, both.rows)
    size, off = exact.abs().mean(), (rounded.float() - exact).abs().mean()
    assert 0 < (states - exact).abs().mean() < 2 * off < 0.1 * size
    assert (both.decoder.logits(rounded) - logits).abs().max() == 0


@pytest.mark.parametrize("name", CAUSAL)
def test_other_groups_leave_no_trace(make_model, batch, name):
    """Not a bit: another subject's record, and what its rows go on with, are changed throughout."""
    model, spans = make_model(name), split(batch)
    first, other = Both(model), Both(model)
    changed = [
        s if i != 2 else s | {"input_ids": s["input_ids"].flip(0)} for i, s in enumerate(spans)
    ]
    mine = [i for i in range(sum(COPIES)) if i not in (3, 4, 5)]
    states = [first.prefill(spans, COPIES), first.step(2)]
    others = [other.prefill(changed, COPIES)]
    other.generator.manual_seed(0)
    others.append(other.step(2))
    for a, b in zip(states, others, strict=True):
        assert torch.equal(a[mine], b[mine])
    assert not torch.equal(states[0][3:6], others[0][3:6])


def futures(model, spans, copies, *, room, cached=True):
    """Tokens drawn for each (subject, sample), with uniform numbers of their own, to an end of their own.

    Args:
        model: Whose next tokens they are.
        spans: Records to go on from.
        copies: Samples of each.
        room: Rows at a time, where there is a cache.
        cached: Whether to decode, or to read the whole sequence anew for each token.
    """
    uniforms = torch.rand(len(spans), max(copies), 30, generator=torch.Generator().manual_seed(3))
    waiting = list(range(len(spans)))
    decoder, rows, done = Decoder(model, precision="fp32"), [], {}
    states = torch.zeros(0, model.config.hidden_size)
    while waiting or rows:
        while waiting and len(rows) < room:
            i = waiting.pop(0)
            rows += [(i, sample, []) for sample in range(copies[i])]
            begun = decoder.prefill(pack(spans[i : i + 1]), torch.tensor(copies[i : i + 1]))
            states = torch.cat([states, begun])
        if not cached:
            sequences = [
                {n: torch.cat([spans[i][n], *(t[n] for t in new)]) for n in FIELDS}
                for i, _, new in rows
            ]
            states = whole(model, sequences)
        chances = decoder.logits(states).softmax(-1).cumsum(-1)
        at = torch.tensor([uniforms[i, s, len(new)] for i, s, new in rows])
        tokens = torch.searchsorted(chances, (at * chances[:, -1])[:, None])[:, 0]
        for row, token in zip(rows, tokens, strict=True):
            last = row[2][-1] if row[2] else {n: spans[row[0]][n][-1:] for n in FIELDS}
            gap = int(token) * 60_000_000
            row[2].append(last | {"input_ids": token[None], "time": last["time"].clamp(0) + gap})
        on = [k for k, (_, _, new) in enumerate(rows) if tokens[k] > 15 and len(new) < 30]
        done |= {(i, s): [int(t["input_ids"]) for t in new] for i, s, new in rows}
        if len(on) < len(rows):
            decoder.keep(torch.tensor(on, dtype=torch.int64))
            rows = [rows[k] for k in on]
        if rows:
            new = {n: torch.cat([r[2][-1][n] for r in rows]) for n in FIELDS}
            states = decoder.step(new["input_ids"], new)
        else:
            states = states[:0]
    return done


@pytest.mark.parametrize("name", CAUSAL)
def test_the_same_tokens_are_drawn_without_a_cache_and_in_any_company(make_model, batch, name):
    model, spans = make_model(name), split(batch)
    plain = futures(model, spans, COPIES, room=100, cached=False)
    assert len({len(tokens) for tokens in plain.values()}) > 3, "futures end at different steps"
    for room in (1, 4, 100):
        assert futures(model, spans, COPIES, room=room) == plain


def test_what_cannot_be_decoded_is_told_in_one_line(make_model, batch):
    with pytest.raises(ConfigError, match=r"behrt sees all tokens .* gpt2, gpt2_moe, llama"):
        Decoder(make_model("behrt"))
    with pytest.raises(ConfigError, match="mixer has no cache"):
        Decoder(make_model("mixer"))
    short = make_model("gpt2", max_positions=20)
    with pytest.raises(ConfigError, match=r"a prefix of 60 tokens, but this gpt2 reads 20"):
        Decoder(short).prefill(batch, torch.tensor(COPIES))
    both = Both(short)
    both.prefill([split(batch)[5], split(batch)[0]], [1, 1])
    both.step(11)
    with pytest.raises(ConfigError, match="beyond the 20 tokens"):
        both.step()
    both.keep([1])
    near(both.step(8), whole(short, both.rows))
    with pytest.raises(ValueError, match="no row"):
        Decoder(short).step(torch.zeros(0, dtype=torch.int64), {})


def test_the_model_that_is_given_stays_as_it_is(make_model, batch):
    model = make_model("gpt2", dropout=0.5).train()
    before = {n: p.clone() for n, p in model.named_parameters()}
    for precision in ("fp32", "bf16"):
        decoder = Decoder(model, precision=precision)
        first, again = (decoder.prefill(batch, torch.tensor(COPIES)) for _ in range(2))
        assert torch.equal(first, again)
    assert model.training
    assert all(p.requires_grad and torch.equal(p, before[n]) for n, p in model.named_parameters())
    shared = {p.data_ptr() for p in model.parameters()}
    assert {p.data_ptr() for p in Decoder(model, precision="fp32").model.parameters()} == shared


def test_prefixes_without_rows_are_given_back(make_model, batch):
    decoder = Decoder(make_model("gpt2"))
    decoder.prefill(batch, torch.tensor(COPIES))
    assert len(decoder._cache.prefixes) == 6, "one was not to go on"
    decoder.step(torch.full((13,), 20), {})
    decoder.keep(torch.tensor([12, 0]))
    assert len(decoder._cache.prefixes) == 2
    decoder.keep(torch.zeros(0, dtype=torch.int64))
    assert decoder.rows == 0
    assert not decoder._cache.prefixes


@pytest.mark.parametrize("masked", [False, True])
def test_a_part_of_attention_is_the_textbook_form(masked):
    torch.manual_seed(0)
    q, k, v = (torch.randn(3, 2, n, 8) for n in (4, 9, 9))
    mask = torch.zeros(3, 1, 1, 9)
    mask[1, ..., 5:] = -torch.inf if masked else 0
    logits = (q.double() @ k.double().mT) * 0.3 + mask
    out, total = attend(q, k, v, 0.3, mask if masked else None)
    torch.testing.assert_close(out.double(), logits.softmax(-1) @ v.double(), atol=1e-6, rtol=0)
    torch.testing.assert_close(total.double(), logits.logsumexp(-1), atol=1e-6, rtol=0)
