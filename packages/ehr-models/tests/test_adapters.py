"""What holds for every kind of model with every kind of adapter."""

import json
import re
import shutil
from dataclasses import replace

import peft
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file

from ehr_models.adapters.config import AdapterConfig
from ehr_models.adapters.inject import adapt, merge, trained
from ehr_models.checkpoint import load_adapter, load_checkpoint, save_checkpoint
from ehr_models.cli import main
from ehr_models.cost import measure
from ehr_models.data.batch import pack
from ehr_models.heads.config import PooledConfig
from ehr_models.heads.pooled import build_classifier, classify
from ehr_models.heads.token import hidden_states, token_logits
from ehr_models.kinds.behrt import BehrtModelConfig
from ehr_models.registry import build
from ehr_tracking.config import ConfigError
from ehr_tracking.contracts import ContractError
from ehr_tracking.manifest import load_manifest, sha256, source, verify

KINDS_OF_ADAPTERS = ("lora", "rslora", "dora", "pissa", "qlora")
every_adapter = pytest.mark.parametrize("adapter", KINDS_OF_ADAPTERS)


def classifier_of(model, **head):
    torch.manual_seed(3)
    return build_classifier(model, 3, PooledConfig(**head), problem="multiclass")


def learn(model, batch, steps=3):
    """A few steps of Adam; the gradients of the last are left."""
    model.train()
    optimizer = torch.optim.Adam(trained(model).values(), lr=1e-2)
    for _ in range(steps):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(classify(model, batch), torch.arange(7) % 3).backward()
        optimizer.step()
    return model.eval()


def answers(model, batch):
    with torch.no_grad():
        return classify(model, batch)


def save(directory, model, tokens, base=None):
    directory.mkdir(parents=True)
    save_checkpoint(
        directory,
        model,
        tokens,
        metrics={"loss": 1.25},
        producer="test 0",
        config={},
        seed=7,
        inputs={"tokens": source(tokens)},
        base=base,
    )
    return directory


@pytest.fixture
def tune(make_model, batch, tokens_dir, tmp_path):
    """A base checkpoint and a classifier that was trained on it with an adapter, saved beside it."""

    def make(kind_name, adapter="lora", head=None, **options):
        base = make_model(kind_name)
        save(tmp_path / "base", base, tokens_dir)
        model = classifier_of(base, **(head or {}))
        torch.manual_seed(4)
        adapt(model, AdapterConfig(kind=adapter, rank=4, **options))
        learn(model, batch)
        save(tmp_path / "tuned", model, tokens_dir, tmp_path / "base")
        return base, model, tmp_path / "tuned"

    return make


@every_adapter
def test_only_adapter_and_head_learn_and_the_answer_moves(kind_name, make_model, batch, adapter):
    """The trap of an adapter that is wrapped around what nobody calls."""
    model = classifier_of(make_model(kind_name))
    before = answers(model, batch)
    torch.manual_seed(4)
    adapt(model, AdapterConfig(kind=adapter, rank=4))
    at_first = answers(model, batch)
    assert (at_first - before).abs().max() < (1e-5 if adapter != "qlora" else 0.5)
    states = hidden_states_of(model, batch)
    frozen = {n: p.clone() for n, p in model.named_parameters() if not p.requires_grad}
    learn(model, batch)
    for name, parameter in model.named_parameters():
        if "lora_" in name or name.startswith("classifier."):
            assert parameter.grad.abs().max() > 0, name
        else:
            assert parameter.grad is None, name
            assert torch.equal(parameter, frozen[name]), name
    # of the states: the head alone would move the answer
    assert (hidden_states_of(model, batch) - states).abs().max() > 1e-3


def hidden_states_of(model, batch):
    with torch.no_grad():
        return hidden_states(model, batch)


@every_adapter
def test_subjects_stay_apart(kind_name, make_model, records, spans, batch, adapter):
    model = classifier_of(make_model(kind_name))
    adapt(model, AdapterConfig(kind=adapter, rank=4))
    together = answers(learn(model, batch), batch)
    alone = torch.cat([answers(model, pack(records, s)) for s in spans])
    assert (together - alone).abs().max() < 1e-5


@every_adapter
def test_an_adapter_comes_back_to_the_last_bit_and_merged_answers_the_same(
    kind_name, tune, batch, adapter
):
    base, model, directory = tune(kind_name, adapter)
    expected = answers(model, batch)
    assert verify(directory) == []
    again = load_adapter(directory).model
    assert torch.equal(answers(again, batch), expected)
    assert trained(again).keys() == trained(model).keys()
    whole = load_checkpoint(directory, head="pooled")
    assert (answers(whole.model, batch) - expected).abs().max() < 1e-5
    assert whole.source == source(directory)
    assert {type(m) for m in whole.model.modules()} == {
        type(m) for m in classifier_of(base).modules()
    }


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # peft asks for it
@pytest.mark.parametrize("adapter", ["lora", "dora", "pissa"])
def test_peft_reads_it_and_merges_it_to_the_same_weights(kind_name, tune, batch, adapter):
    base, model, directory = tune(kind_name, adapter, targets="all")
    theirs = peft.PeftModel.from_pretrained(classifier_of(base), str(directory)).eval()
    assert (answers(theirs.base_model.model, batch) - answers(model, batch)).abs().max() < 1e-6
    merged, ours = theirs.merge_and_unload().state_dict(), load_checkpoint(directory).model
    assert merged.keys() == ours.state_dict().keys()
    for name, weight in ours.state_dict().items():
        assert (weight - merged[name]).abs().max() < 1e-6, name


def test_merged_weights_are_those_of_the_papers(tune, make_model):
    """W + scale B A, and for DoRA m (W + scale B A) / |W + scale B A|, row by row."""
    for adapter, scale in (("lora", 2.0), ("rslora", 4.0), ("dora", 2.0)):
        model = classifier_of(make_model("llama"))
        adapt(model, AdapterConfig(kind=adapter, rank=4))
        with torch.no_grad():
            for parameter in trained(model).values():
                parameter.add_(torch.rand_like(parameter), alpha=0.1)
        layer = model.model.layers[1].self_attn.q_proj
        a, b = layer.lora_A.default.weight.double(), layer.lora_B.default.weight.double()
        expected = layer.base_layer.weight.double() + scale * b @ a
        if adapter == "dora":
            length = expected.norm(dim=1, keepdim=True)
            expected *= layer.lora_magnitude_vector.default.weight.double()[:, None] / length
        merge(model)
        assert (model.model.layers[1].self_attn.q_proj.weight - expected).abs().max() < 1e-6


def test_4_bits_take_an_eighth_and_stay_within_half_a_step(make_model, batch):
    """Between two neighbours of the 16 values of NF4, the widest gap is 0.304 of the largest weight
    of 64: nothing moves by more than half of it, and what 8 bits lose of that largest weight."""
    exact, model = classifier_of(make_model("llama")), classifier_of(make_model("llama"))
    adapt(model, AdapterConfig(kind="qlora", rank=4))
    packed = model.model.layers[0].mlp.up_proj.weight  # not a target, and in 4 bits as well
    before = exact.model.layers[0].mlp.up_proj.weight
    assert packed.dtype == torch.uint8
    assert packed.numel() * 8 == before.numel() * 4
    from bitsandbytes.functional import dequantize_4bit

    off = (dequantize_4bit(packed.data, packed.quant_state) - before).abs().view(-1, 64)
    largest = before.abs().view(-1, 64).amax(1)
    assert (off.amax(1) <= 0.16 * largest).all()
    assert 0.08 < off.mean() / before.abs().mean() < 0.1  # what docs/models.md states
    with pytest.raises(ConfigError, match="cannot be merged"):
        merge(model)


@pytest.mark.parametrize(
    ("hidden", "layers", "heads", "count"),
    [(128, 2, 4, 16_384), (256, 4, 8, 65_536), (512, 6, 8, 196_608)],
)
def test_lora_is_as_large_as_counted_by_hand(hidden, layers, heads, count):
    """Rank 8 on q, k, v and o: 4 layers x 8 x (width + width)."""
    with torch.device("meta"):
        model = build(BehrtModelConfig(hidden=hidden, layers=layers, heads=heads), 1000)
        adapt(model, AdapterConfig())
    assert sum(p.numel() for p in trained(model).values()) == count


def test_targets_are_attention_or_all_or_named(make_model):
    def names(targets):
        model = make_model("behrt")
        adapt(model, AdapterConfig(rank=2, targets=targets))
        return {n.split(".")[-4] for n in trained(model)}

    assert names("attention") == {"q_proj", "k_proj", "v_proj", "o_proj"}
    assert names(("q_proj",)) == {"q_proj"}
    assert names("all") > names("attention")
    with pytest.raises(ConfigError, match=r"adapter\.targets: wq is no linear module .* q_proj"):
        names(("wq",))
    with pytest.raises(ConfigError, match=r"adapter\.rank = 65, but a target has rank 64 itself"):
        adapt(make_model("behrt"), AdapterConfig(rank=65))


def test_code_embeddings_are_trained_and_kept_where_asked(tune, batch):
    base, model, directory = tune("behrt", embeddings=True)
    table = "behrt.embeddings.code"
    assert f"{table}.weight" in trained(model)
    assert not torch.equal(model.behrt.embeddings.code.weight, base.behrt.embeddings.code.weight)
    assert json.loads((directory / "adapter_config.json").read_text())["modules_to_save"] == [
        "classifier",
        table,
    ]
    assert torch.equal(answers(load_adapter(directory).model, batch), answers(model, batch))


def test_a_model_that_goes_on_with_its_pretraining_keeps_its_own_head(
    make_model, batch, tokens_dir, tmp_path
):
    save(tmp_path / "base", make_model("behrt"), tokens_dir)
    model = make_model("behrt")
    adapt(model, AdapterConfig(rank=2))
    assert all("lora_" in name for name in trained(model))
    with torch.no_grad():
        for parameter in trained(model).values():
            parameter.add_(0.1)
    directory = save(tmp_path / "tuned", model, tokens_dir, tmp_path / "base")
    whole = load_checkpoint(directory, head="token").model

    def logits(one):
        return token_logits(one, hidden_states_of(one, batch))

    assert (logits(whole) - logits(model)).abs().max() < 1e-5
    assert (logits(whole) - logits(make_model("behrt"))).abs().max() > 1e-2


@pytest.mark.parametrize(
    "head", [{"pooling": "bigru"}, {"pooling": "attention"}, {"shape": "lstm"}, {"shape": "ffn"}]
)
def test_heads_of_every_shape_are_kept_whole(tune, batch, head):
    """The trap of an adapter without the head that was trained with it."""
    base, model, directory = tune("gpt2", head=head)
    at_first = dict(classifier_of(base, **head).named_parameters())
    again = dict(load_adapter(directory).model.named_parameters())
    beside = [n for n in trained(model) if "lora_" not in n]
    assert {n for n in at_first if not n.startswith("transformer.")} == set(beside)
    assert not any(torch.equal(again[name], at_first[name]) for name in beside)
    assert torch.equal(answers(load_adapter(directory).model, batch), answers(model, batch))


def test_the_directory_is_small_and_holds_the_trained_head(tune, tmp_path):
    _, model, directory = tune("behrt")
    held = load_file(directory / "adapter_model.safetensors")
    assert sum(t.numel() for t in held.values()) == sum(p.numel() for p in trained(model).values())
    assert torch.equal(held["base_model.model.classifier.weight"], model.classifier.weight)
    names = {path.name for path in directory.iterdir()}
    assert names == {
        *("adapter_config.json", "adapter_model.safetensors", "config.json", "metrics.json"),
        *("vocab.parquet", "tokenizer.json", "manifest.json"),
    }
    text = "".join((directory / n).read_text() for n in ("adapter_config.json", "config.json"))
    assert str(tmp_path) not in text
    assert json.loads((directory / "adapter_config.json").read_text())[
        "base_model_name_or_path"
    ] == ("../base")
    assert load_manifest(directory).inputs["base"] == source(tmp_path / "base")


def test_another_or_a_changed_base_is_refused(tune, batch, make_model, tokens_dir, tmp_path):
    _, model, directory = tune("behrt")
    elsewhere = tmp_path / "elsewhere" / "checkpoints" / "step-00000001"
    elsewhere.parent.mkdir(parents=True)
    (tmp_path / "base").rename(elsewhere)
    fingerprint = sha256(elsewhere / "manifest.json")[:16]
    with pytest.raises(ContractError, match=f"adapts checkpoint {fingerprint}, .*base is none"):
        load_checkpoint(directory)
    found = load_checkpoint(directory, base=tmp_path / "elsewhere")  # the run that has it
    assert (answers(found.model, batch) - answers(model, batch)).abs().max() < 1e-5
    other = make_model("behrt")
    with torch.no_grad():
        other.behrt.norm.weight.mul_(2)
    save(tmp_path / "base", other, tokens_dir)
    with pytest.raises(ContractError, match="is another one; name it: ehr-models merge"):
        load_checkpoint(directory)
    weights = elsewhere / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"X")
    with pytest.raises(ContractError, match="was changed"):
        load_checkpoint(directory, base=elsewhere)


def test_the_same_adapter_gives_the_same_bytes(tune, tokens_dir, tmp_path):
    _, model, directory = tune("gpt2")
    again = save(tmp_path / "again", model, tokens_dir, tmp_path / "base")
    assert (again / "manifest.json").read_bytes() == (directory / "manifest.json").read_bytes()
    loaded = load_adapter(directory)
    third = save(tmp_path / "third", loaded.model, tokens_dir, tmp_path / "base")
    assert (third / "manifest.json").read_bytes() == (directory / "manifest.json").read_bytes()
    assert replace(loaded, model=None).head == "pooled"


@pytest.mark.parametrize("adapter", ["lora", "qlora"])
def test_merging_leaves_a_checkpoint_as_any_other(tune, batch, tokens_dir, tmp_path, adapter):
    """Its files and its configuration are those of the same model that was never adapted."""
    base, model, directory = tune("behrt", adapter)
    plain = save(tmp_path / "plain", classifier_of(base), tokens_dir)
    merged, result = tmp_path / "merged", CliRunner()
    done = result.invoke(main, ["merge", str(directory), "--out", str(merged)])
    assert (done.exit_code, done.output) == (0, f"wrote {merged}\n")
    assert verify(merged) == []
    assert load_manifest(merged).files.keys() == load_manifest(plain).files.keys()
    assert (merged / "config.json").read_bytes() == (plain / "config.json").read_bytes()
    assert load_manifest(merged).inputs == {"adapter": source(directory)}
    shutil.rmtree(tmp_path / "base")
    assert (answers(load_checkpoint(merged).model, batch) - answers(model, batch)).abs().max() < (
        1e-5
    )
    for path, message in ((plain, "there is no adapter to merge"), (directory, "base is none")):
        failed = result.invoke(main, ["merge", str(path), "--out", str(tmp_path / "no")])
        assert failed.exit_code == 2
        assert message in failed.output
        assert not (tmp_path / "no").exists()


def test_costs_are_counted_and_priced_as_stated(tune, tmp_path):
    base, model, directory = tune("behrt")
    run = tmp_path / "run"
    directory.rename(run)
    with (run / "timings.jsonl").open("w") as log:
        for seconds in (1, 1, 34):
            log.write(json.dumps({"seconds": seconds}) + "\n")
    cost = measure(run)
    beside = sum(p.numel() for n, p in model.named_parameters() if "lora_" in n)
    assert cost.adapter == beside == 2 * 4 * 4 * (64 + 64)
    assert cost.parameters == sum(p.numel() for p in model.parameters())
    assert cost.trained == beside + 3 * 64 + 3
    assert cost.bytes_full == 4 * sum(p.numel() for p in classifier_of(base).parameters())
    size = (tmp_path / "base" / "model.safetensors").stat().st_size
    assert size < cost.bytes_base < size + 100_000  # its code and vocabulary
    assert cost.trained * 4 < cost.bytes_here < cost.trained * 4 + 20_000
    assert (cost.steps, cost.seconds, cost.seconds_a_step) == (3, 36, 1)
    arguments = ["parameters", str(run), str(tmp_path / "base"), "--price", "0.40", "--tasks", "5"]
    printed = CliRunner().invoke(main, arguments).output
    for line in (
        rf"trained +{cost.trained:,} \({cost.trained / cost.parameters:.1%}\) +not known",
        rf"bytes of 5 tasks +{cost.bytes_base + 5 * cost.bytes_here:,} +{5 * cost.bytes_base:,}",
        r"hours of a task +0\.0100 +0\.0000",
        r"cost of 5 tasks at 0\.4 an hour +0\.0200 +no run",
    ):
        assert re.search(line, printed), (line, printed)
