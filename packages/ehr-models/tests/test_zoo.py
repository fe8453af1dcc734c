"""What holds for every kind in the table, and for one that is added to it (`kinds/mixer`)."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from itertools import cycle

import pytest
import torch
from safetensors.torch import load_file, save_file

from ehr_models.checkpoint import load_checkpoint, require_same_vocabulary, save_checkpoint
from ehr_models.config import any_of
from ehr_models.data.batch import pack
from ehr_models.data.tokens import STATIC, open_tokens
from ehr_models.describe import count_parameters
from ehr_models.heads import token
from ehr_models.heads.config import PooledConfig
from ehr_models.heads.pooled import build_classifier, class_logits, classify, with_both
from ehr_models.heads.token import hidden_states, token_logits
from ehr_models.kinds import KINDS
from ehr_models.layers.embeddings import ORIGIN_US
from ehr_models.registry import TOKEN_CLASSES, architecture, build, look_up, without_pooled
from ehr_tracking.config import validate
from ehr_tracking.manifest import source, verify

from .conftest import CODES, EVERY_HEAD, VOCAB, sizes_over_depth

HEADS = ["token", "pooled", "both"]


def kind_of(model):
    return KINDS[model.config.model_type]


def logits_of(model, batch):
    with torch.no_grad():
        return token_logits(model, hidden_states(model, batch))


def head_of(model, head):
    """The model with that head, its new weights the same each time."""
    torch.manual_seed(5)
    classifier = build_classifier(model, 3, PooledConfig(pooling="max"), problem="multiclass")
    return {"token": model, "pooled": classifier, "both": with_both(model, classifier)}[head]


def answers(model, batch):
    """Of tokens and of subjects, as its heads give."""
    states = hidden_states(model, batch)
    head = kind_of(model).token_head[0]
    found = [token_logits(model, states)] if hasattr(model, head) else []
    return [*found, class_logits(model, states, batch)] if hasattr(model, "classifier") else found


def third(batch):
    """Where the longest span of `records` begins and ends."""
    return int(batch.cu_seqlens[2]), int(batch.cu_seqlens[3])


# --- subjects apart, and the future


def test_packed_equals_separate(model, records, spans, batch):
    together = logits_of(model, batch)
    alone = torch.cat([logits_of(model, pack(records, s)) for s in spans])
    assert together.isfinite().all()
    assert together.std() > 0.1  # the bound below would be empty for logits near zero
    assert (together - alone).abs().max() < 1e-5


def test_other_subjects_leave_no_trace(model, batch):
    """Not one bit of a span changes with the tokens of its neighbours."""
    start, stop = third(batch)
    other = batch.input_ids.flip(0)
    other[start:stop] = batch.input_ids[start:stop]
    assert (other != batch.input_ids).any()
    with torch.no_grad():
        a = hidden_states(model, batch)
        b = hidden_states(model, replace(batch, input_ids=other))
    assert torch.equal(a[start:stop], b[start:stop])
    assert not torch.equal(a, b)


def test_later_tokens_leave_a_trace_just_where_the_kind_sees_all(model, batch):
    start, stop = third(batch)
    cut = stop - 3
    other = batch.input_ids.clone()
    other[cut:stop] = 7 + (other[cut:stop] % 50 + 11) % 80
    with torch.no_grad():
        a = hidden_states(model, batch)
        b = hidden_states(model, replace(batch, input_ids=other))
    assert torch.equal(a[stop:], b[stop:])
    assert not torch.equal(a[cut:stop], b[cut:stop])
    if kind_of(model).sees == "past":
        assert torch.equal(a[:cut], b[:cut])
    else:
        assert (a[start:cut] - b[start:cut]).abs().max() > 1e-5


def test_a_padded_batch_gives_the_same_states(model, batch, padded):
    with torch.no_grad():
        packed = hidden_states(model, batch)
        for how in (
            ("sdpa", "eager", "ehr_packed") if kind_of(model).isolates == "spans" else (None,)
        ):
            if how:
                model.set_attn_implementation(how)
            inputs = padded(model, batch)
            states = model.base_model(**inputs).last_hidden_state
            assert (states[inputs["attention_mask"].bool()] - packed).abs().max() < 1e-5


def test_gradients_equal_those_of_a_padded_batch(model, batch, padded):
    weight = torch.randn(len(batch.input_ids), model.config.hidden_size)
    (hidden_states(model, batch) * weight).sum().backward()
    packed = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    if kind_of(model).isolates == "spans":
        model.set_attn_implementation("sdpa")
    inputs = padded(model, batch)
    states = model.base_model(**inputs).last_hidden_state
    (states[inputs["attention_mask"].bool()] * weight).sum().backward()
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            scale = parameter.grad.abs().max()
            assert (parameter.grad - packed[name]).abs().max() <= 1e-5 * (1 + scale), name


def test_an_implementation_that_knows_no_spans_fails(by_spans, make_model, batch):
    """Rather than let subjects see each other."""
    model = make_model(by_spans)
    for how in ("sdpa", "eager"):
        model.set_attn_implementation(how)
        with pytest.raises(RuntimeError):
            hidden_states(model, batch)


def test_any_kind_may_be_isolated_by_padding(kind_name, make_model, batch, monkeypatch):
    """The way for those that can do no better."""
    model = make_model(kind_name)
    states = logits_of(model, batch)
    monkeypatch.setitem(KINDS, kind_name, replace(KINDS[kind_name], isolates="padded"))
    assert (logits_of(model, batch) - states).abs().max() < 1e-5


# --- training


@pytest.mark.parametrize("head", HEADS)
def test_every_weight_learns(kind_name, make_model, batch, head):
    model = head_of(make_model(kind_name), head)
    sum(answer.square().sum() for answer in answers(model, batch)).backward()
    unused = {n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()}
    assert unused == set()


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


WITHOUT_DROPOUT = {
    **dict.fromkeys(("llama", "qwen3", "mistral"), ("attention_dropout",)),
    **{"hyena": ("dropout",), "mamba2": (), "mixer": ()},
}
"""Kinds that have less of it than others."""


def test_evaluation_knows_no_dropout(kind_name, make_model, batch, tokens_dir, tmp_path):
    """Of a model that was saved while it was trained; twice the same bits, which training never gives."""
    rates = dict.fromkeys(WITHOUT_DROPOUT.get(kind_name, ("dropout", "attention_dropout")), 0.3)
    model = make_model(kind_name, **rates).train()
    with torch.no_grad():
        torch.manual_seed(0)
        learning = [hidden_states(model, batch) for _ in range(2)]
        loaded = load_checkpoint(save(tmp_path / "c", model, tokens_dir)).model
        first, again = (hidden_states(loaded, batch) for _ in range(2))
    assert torch.equal(*learning) == (not rates)
    assert torch.equal(first, again)
    assert torch.equal(first, hidden_states(make_model(kind_name), batch))


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


@pytest.mark.parametrize("name", ["gpt2", "behrt"])
def test_tokens_computed_for_nothing_change_no_state(name, make_model, records, spans, monkeypatch):
    """In bf16 on a CPU a batch is lengthened: here by as many tokens as it has, and more."""
    model, batch = make_model(name), pack(records, spans[0])
    exact = hidden_states(model, batch)
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        plain = hidden_states(model, batch)
        monkeypatch.setattr(token, "rounded", lambda batch: 2 * len(batch.input_ids) + 7)
        longer = hidden_states(model, batch)
    assert longer.shape == plain.shape
    apart, rounding = (longer - plain).abs().mean(), (plain - exact).abs().mean()
    assert apart <= rounding


def test_few_sizes_are_computed_and_little_more_than_there_is(batch):
    ids = torch.zeros(1, dtype=torch.int64)
    with torch.autocast("cpu", torch.bfloat16):
        sizes = {n: token.rounded(replace(batch, input_ids=ids.expand(n))) for n in range(1, 9000)}
    assert all(n <= size <= n * (1 + 1 / 32) for n, size in sizes.items())
    assert len(set(sizes.values())) < 300
    assert token.rounded(replace(batch, input_ids=ids.expand(2821))) == 2821


# --- the table


def test_inputs_of_the_record_are_what_the_model_hears(kind_name, make_model, batch, inputs_of):
    """Each moves the states, and nothing else in the batch does."""
    model = make_model(kind_name)
    heard = set(KINDS[kind_name].inputs.values())
    with torch.no_grad():
        before = hidden_states(model, batch)
        for field in ("input_ids", "position_ids", "age", "time", "visit", "segment"):
            value = getattr(batch, field)
            other = value.roll(7) if field != "time" else value + 86_400_000_000 * 30
            moved = not torch.equal(before, hidden_states(model, replace(batch, **{field: other})))
            assert moved == (field in heard), field


def test_minutes_and_static_tokens_are_told_apart_where_time_is_heard(
    kind_name, make_model, records, spans
):
    """A minute later is another state; and so is a static token than one at 2020-01-01, at birth."""
    model, batch = make_model(kind_name), pack(records, spans[2])
    static = batch.time == STATIC
    assert 0 < static.sum() < len(static)
    later = torch.where(static, batch.time, batch.time + 60_000_000)
    dated = torch.where(static, ORIGIN_US, batch.time)
    age = torch.where(static, 0.0, batch.age)
    with torch.no_grad():
        at_birth = hidden_states(model, replace(batch, age=age, time=dated))
        known = hidden_states(model, replace(batch, age=age))
        a_minute = hidden_states(model, replace(batch, age=age, time=later)) - known
    heard = "time" in KINDS[kind_name].inputs.values()
    assert ((known - at_birth).abs().max() > 1e-3) == heard
    assert bool(a_minute.any()) == heard


def test_counts_are_those_of_the_built_model(kind_name, make_model):
    model = make_model(kind_name)
    config = make_model.configs[kind_name]
    counts = count_parameters(config, 90)
    assert counts["total"] == sum(p.numel() for p in model.parameters())
    assert counts["embeddings"] + counts["layers"] + counts["head"] == counts["total"]
    assert counts["embeddings"] >= model.get_input_embeddings().weight.numel()


def test_every_preset_fits_its_config(kind_name):
    kind = KINDS[kind_name]
    for size, numbers in kind.sizes.items():
        config = validate(any_of(KINDS.values()), {"kind": kind_name, "size": size}, where="test")
        assert type(config) is kind.config
        found = architecture(config, 130)
        assert found.hidden_size == numbers.hidden
        assert (found.vocab_size, found.true_vocab_size, found.pad_token_id) == (192, 130, 0)


def test_adapters_have_somewhere_to_go(kind_name, make_model):
    names = {n.rpartition(".")[2] for n, _ in make_model(kind_name).base_model.named_modules()}
    assert set(KINDS[kind_name].adapters) <= names


def test_the_seed_decides_the_weights(kind_name, make_model):
    states = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        states.append(build(make_model.configs[kind_name], 90).state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert any(not torch.equal(states[0][name], states[2][name]) for name in states[0])


GROWS = {"mamba2": 30}
"""By more than others in the first block: its authors begin codes at .02, and what blocks add at about .5."""


def test_new_states_keep_their_size_over_depth(kind_name, records, spans, inputs_of):
    torch.manual_seed(0)
    config = KINDS[kind_name].config(size=next(iter(KINDS[kind_name].sizes)))
    model = build(config, VOCAB)
    if KINDS[kind_name].lookups is not None:
        look_up(model, config, CODES)
    inputs = inputs_of(model, pack(records, spans[2]))
    sizes = sizes_over_depth(model.base_model.eval(), **{n: v[None] for n, v in inputs.items()})
    assert max(sizes[1:]) < 4 * min(sizes[1:])
    assert sizes[1] < GROWS.get(kind_name, 4) * sizes[0]


# --- heads


def test_token_logits_are_those_of_the_whole_model(model, records, spans, inputs_of):
    """Of one subject through transformers' own forward, at the rows asked for."""
    batch = pack(records, spans[2])
    rows = torch.tensor([3, 0, 41])
    with torch.no_grad():
        whole = model(**{n: v[None] for n, v in inputs_of(model, batch).items()}).logits[0]
        ours = token_logits(model, hidden_states(model, batch)[rows])
    assert whole.shape == (60, 128)
    assert ours.shape == (3, 90)
    assert (whole[rows, :90] - ours).abs().max() < 1e-5


def test_classifiers_agree_packed_padded_and_alone(
    kind_name, make_model, records, spans, batch, padded
):
    classifier = head_of(make_model(kind_name), "pooled")
    with torch.no_grad():
        together = classify(classifier, batch)
        alone = torch.cat([classify(classifier, pack(records, s)) for s in spans])
        labels = torch.zeros(len(spans), dtype=torch.long)
        sides = [
            classifier(**padded(classifier, batch, s), labels=labels) for s in ("left", "right")
        ]
    assert together.shape == (len(spans), 3)
    assert (together - alone).abs().max() < 1e-5
    mean = -together.log_softmax(-1)[:, 0].mean().item()
    for out in sides:
        assert (out.logits - together).abs().max() < 1e-5
        assert out.loss.item() == pytest.approx(mean, rel=1e-4)


def test_a_model_with_both_heads_answers_as_one_with_either(kind_name, make_model, batch, padded):
    model = make_model(kind_name)
    both = head_of(model, "both")
    tokens, classes = answers(both, batch)
    assert torch.equal(tokens, answers(model, batch)[0])
    assert torch.equal(classes, answers(head_of(model, "pooled"), batch)[0])
    inputs = padded(both, batch)
    real = inputs["attention_mask"].bool()
    labels = torch.where(real, inputs["input_ids"], -100)
    with torch.no_grad():
        out = both(**inputs, labels=labels, pooled_labels=torch.tensor([0, 1, 2, 0, 1, 2, 0]))
    assert (out.logits[real][:, :90] - tokens).abs().max() < 1e-5
    assert (out.pooled_logits - classes).abs().max() < 1e-5
    likely = tokens.log_softmax(-1)[torch.arange(len(tokens)), batch.input_ids]
    chosen = classes.log_softmax(-1)[range(7), [0, 1, 2, 0, 1, 2, 0]]
    assert out.loss.item() == pytest.approx(-(likely.mean() + chosen.mean()).item(), rel=1e-4)


def test_either_head_of_both_can_be_dropped(kind_name, make_model, batch):
    model = make_model(kind_name)
    both = head_of(model, "both")
    alone = without_pooled(both)
    assert type(alone) is type(model)
    assert alone.state_dict().keys() == model.state_dict().keys()
    assert torch.equal(answers(alone, batch)[0], answers(model, batch)[0])
    assert alone.can_generate() == model.can_generate()
    if alone.can_generate():
        assert alone.generation_config.suppress_tokens == list(range(90, 128))
    assert torch.equal(
        answers(head_of(both, "pooled"), batch)[0], answers(head_of(model, "pooled"), batch)[0]
    )


def test_a_classifier_copies_the_backbone(kind_name, make_model, batch):
    model = make_model(kind_name)
    classifier = head_of(model, "pooled")
    with torch.no_grad():
        before = hidden_states(model, batch)
        assert torch.equal(before, hidden_states(classifier, batch))
        for parameter in classifier.parameters():
            parameter.zero_()
        assert torch.equal(before, hidden_states(model, batch))


# --- checkpoints


def save(directory, model, tokens):
    directory.mkdir(parents=True, exist_ok=True)
    save_checkpoint(
        directory,
        model,
        tokens,
        metrics={"loss": 1.25},
        producer="test 0",
        config={},
        seed=7,
        inputs={"tokens": source(tokens)},
    )
    return directory


@pytest.mark.parametrize("head", HEADS)
def test_round_trip_to_the_last_bit(model, batch, tokens_dir, tmp_path, head):
    model = head_of(model, head).eval()
    directory = save(tmp_path / "c", model, tokens_dir)
    assert verify(directory) == []
    loaded = load_checkpoint(directory, head=head)
    assert type(loaded.model) is type(model)
    assert not loaded.model.training
    with torch.no_grad():
        for before, after in zip(answers(model, batch), answers(loaded.model, batch), strict=True):
            assert torch.equal(before, after)
    assert (loaded.kind, loaded.head) == (kind_of(model), head)
    assert loaded.vocab_size == 90
    assert loaded.source == source(directory)
    assert loaded.manifest.inputs["tokens"] == source(tokens_dir)
    require_same_vocabulary(loaded, open_tokens(tokens_dir))


def test_the_same_model_gives_the_same_bytes(kind_name, make_model, tokens_dir, tmp_path):
    a, b = (save(tmp_path / n, make_model(kind_name), tokens_dir) for n in "ab")
    assert (a / "manifest.json").read_bytes() == (b / "manifest.json").read_bytes()
    assert str(tmp_path) not in (a / "config.json").read_text()
    again = save(tmp_path / "again", load_checkpoint(a).model, tokens_dir)
    assert (a / "manifest.json").read_bytes() == (again / "manifest.json").read_bytes()


def test_no_code_of_a_directory_is_run_on_loading(kind_name, make_model, tokens_dir, tmp_path):
    """Not even where its files are sealed and name classes."""
    model = make_model(kind_name)
    for head in HEADS:
        one = head_of(model, head)
        directory = tmp_path / type(one).__name__
        directory.mkdir()
        save(directory, one, tokens_dir)
        for path in directory.glob("*.py"):
            path.write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n" + path.read_text())
        (directory / "manifest.json").unlink()
        seal_again(directory)
        load_checkpoint(directory)
    assert not (tmp_path / "ran").exists()


def seal_again(directory):
    from ehr_tracking.contracts import CHECKPOINT
    from ehr_tracking.manifest import seal

    seal(directory, CHECKPOINT, producer="test 0", config={})


ELSEWHERE = """
import json, sys
from pathlib import Path

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.startswith("ehr_"):
            raise ImportError(f"{name} is not installed here")

sys.meta_path.insert(0, Blocker())
import torch, transformers
from safetensors.torch import load_file, save_file

torch.set_num_threads(1)
root = Path(sys.argv[1])
for auto, names in json.loads(sys.argv[2]).items():
    for name in names:
        path = root / name
        model = getattr(transformers, auto).from_pretrained(path, trust_remote_code=True).eval()
        assert not type(model).__module__.startswith("ehr_")
        with torch.no_grad():
            out = model(**load_file(path.with_suffix(".inputs")))
        answer = out.last_hidden_state if auto == "AutoModel" else out.logits
        save_file({"answer": answer.contiguous()}, f"{path}.{auto}")
        if auto == "AutoModelForPreTraining":
            save_file({"answer": out.pooled_logits.contiguous()}, f"{path}.{auto}.pooled")
assert not [m for m in sys.modules if m.startswith("ehr_")]
"""


@pytest.mark.slow
def test_checkpoints_load_where_no_package_of_ours_is(
    every_name, make_model, batch, padded, tokens_dir, tmp_path
):
    """Through AutoModel with the code beside them, with the same answers; and with either head alone."""
    plan, expected = {}, {}
    for name, head in zip(every_name, cycle(EVERY_HEAD)):
        model = make_model(name)
        classifier = build_classifier(model, 3, PooledConfig(**head), problem="multiclass").eval()
        with torch.no_grad():
            states = hidden_states(model, batch)
            tokens, classes = token_logits(model, states), classify(classifier, batch)
        token_class = TOKEN_CLASSES[kind_of(model).pretraining].__name__
        of_tokens = {"AutoModel": states, token_class: tokens}
        of_subjects = {"AutoModelForSequenceClassification": classes}
        of_both = {"AutoModelForPreTraining": tokens, "AutoModelForPreTraining.pooled": classes}
        for label, one, wanted in (
            (name, model, of_tokens),
            (f"{name}-classifier", classifier, of_subjects),
            (f"{name}-both", with_both(model, classifier), of_both | of_tokens | of_subjects),
        ):
            save(tmp_path / label, one, tokens_dir)
            save_file(padded(model, batch), tmp_path / f"{label}.inputs")
            for answer, value in wanted.items():
                plan.setdefault(answer.removesuffix(".pooled"), {})[label] = None
                expected[f"{label}.{answer}"] = value

    subprocess.run(
        [sys.executable, "-c", ELSEWHERE, str(tmp_path), json.dumps(plan)],
        check=True,
        cwd=tmp_path,
        env={**os.environ, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1"},
    )

    real = padded(make_model("behrt"), batch)["attention_mask"].bool()
    for name, answer in expected.items():
        got = load_file(tmp_path / name)["answer"]
        got = got[real][:, : answer.shape[1]] if got.ndim == 3 else got
        assert (got - answer).abs().max() < 1e-5, name
