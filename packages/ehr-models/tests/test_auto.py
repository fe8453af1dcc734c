"""Models of transformers from a local directory: the body kept, our vocabulary, none of their code."""

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import save_file
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    DistilBertConfig,
    DistilBertForMaskedLM,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    RobertaConfig,
    RobertaForMaskedLM,
)

from ehr_models.checkpoint import load_checkpoint
from ehr_models.cli import main
from ehr_models.data.batch import pack
from ehr_models.heads.config import PooledConfig
from ehr_models.heads.pooled import build_classifier, class_logits, with_both
from ehr_models.heads.token import hidden_states, token_logits
from ehr_models.kinds import kind_for, kind_of
from ehr_models.kinds.auto import AutoModelConfig
from ehr_models.registry import build
from ehr_tracking.config import ConfigError, validate
from ehr_tracking.contracts import ContractError

from .conftest import VOCAB
from .test_zoo import save

SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
SMALL |= {"intermediate_size": 48, "vocab_size": 300, "max_position_embeddings": 128}
MODELS = {
    "neox": (GPTNeoXForCausalLM, GPTNeoXConfig(**SMALL, bos_token_id=1, eos_token_id=2)),
    "roberta": (RobertaForMaskedLM, RobertaConfig(**SMALL)),
    "llama": (LlamaForCausalLM, LlamaConfig(**SMALL)),
}


@pytest.fixture(scope="module")
def directories(tmp_path_factory):
    """Of each a directory, and what was saved there."""
    root, saved = tmp_path_factory.mktemp("auto"), {}
    for name, (cls, config) in MODELS.items():
        torch.manual_seed(3)
        model = cls(config)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=0.05)
        model.save_pretrained(root / name)
        saved[name] = (root / name, model.state_dict())
    return saved


def taken(directory, rows=VOCAB, **given):
    torch.manual_seed(0)
    return build(AutoModelConfig(path=str(directory), **given), rows)


@pytest.mark.parametrize("name", MODELS)
def test_the_body_is_kept_and_the_table_is_ours(directories, name, batch, spans, records):
    directory, saved = directories[name]
    model = taken(directory)
    state = model.state_dict()
    renewed = {n for n, v in state.items() if v.shape != saved[n].shape}
    kept = [n for n in state if n not in renewed and not n.endswith("bias")]
    assert all(torch.equal(state[n], saved[n]) for n in kept)
    assert len(kept) >= 12
    table = model.get_input_embeddings().weight
    assert table.shape == (128, 32)
    before = next(saved[n] for n in renewed if saved[n].shape == (300, 32))
    assert table.std().item() == pytest.approx(before.std().item(), rel=0.1)
    config = model.config
    assert (config.true_vocab_size, config.vocab_size, config.pad_token_id) == (90, 128, 0)
    assert kind_of(config) == kind_of(taken(directory).config)
    kind = kind_of(config)
    assert (kind.name, kind.isolates) == (
        ("llama", "spans") if name == "llama" else ("auto", "padded")
    )
    assert kind.sees == kind_for(AutoModelConfig(path=str(directory))).sees
    with torch.no_grad():
        together = token_logits(model, hidden_states(model, batch))
        alone = [token_logits(model, hidden_states(model, pack(records, s))) for s in spans]
    assert together.shape == (131, 90)
    assert (together - torch.cat(alone)).abs().max() < 1e-5


@pytest.mark.parametrize("name", ["neox", "roberta"])
def test_it_is_a_model_of_the_zoo(directories, name, batch, tokens_dir, tmp_path):
    """Checkpoints to the last bit with every head, and each weight learns."""
    model = taken(directories[name][0])
    classifier = build_classifier(model, 3, PooledConfig(), problem="multiclass").eval()
    both = with_both(model, classifier)
    states = hidden_states(both, batch)
    (token_logits(both, states).sum() + class_logits(both, states, batch).square().sum()).backward()
    assert {n for n, p in both.named_parameters() if p.grad is None} == set()
    for head, one in (("token", model), ("pooled", classifier), ("both", both)):
        loaded = load_checkpoint(save(tmp_path / head, one, tokens_dir), head=head)
        assert loaded.kind == kind_of(model.config)
        with torch.no_grad():
            assert torch.equal(hidden_states(loaded.model, batch), states)
    for name in ("token", "both"):
        loaded = load_checkpoint(tmp_path / name).model
        assert torch.equal(token_logits(loaded, states), token_logits(model, states))


def write(directory, config, weights=None):
    directory.mkdir(exist_ok=True)
    (directory / "config.json").write_text(json.dumps(config))
    if weights is not None:
        save_file(weights, directory / "model.safetensors", {"format": "pt"})
    return directory


@pytest.fixture
def blender(make_model, tmp_path):
    """The mixer of docs/extend.md as if it were another's: code beside weights, unknown to transformers."""
    model = make_model("mixer")
    text = (Path(__file__).parent / "kinds" / "mixer" / "model.py").read_text()
    code = text.replace("Mixer", "Blender").replace("mixer", "blender")
    config = json.loads(model.config.to_json_string())
    config |= {"model_type": "blender", "architectures": ["BlenderForCausalLM"]}
    del config["true_vocab_size"]
    config["auto_map"] = {
        "AutoConfig": "blending.BlenderConfig",
        "AutoModel": "blending.BlenderModel",
        "AutoModelForCausalLM": "blending.BlenderForCausalLM",
    }
    weights = {n.replace("mixer", "blender"): v for n, v in model.state_dict().items()}
    directory = write(tmp_path / "blender", config, weights)
    (directory / "blending.py").write_text(
        f"import os; os.makedirs(exist_ok=True, name={str(tmp_path / 'ran')!r})\n{code}"
    )
    return directory


def test_code_of_a_directory_runs_only_when_it_is_named(
    blender, batch, tokens_dir, tmp_path, monkeypatch
):
    with pytest.raises(ConfigError, match=r"not run unless you ask .* model.trust_code=true"):
        taken(blender)
    assert not (tmp_path / "ran").exists()
    model = taken(blender, trust_code=True)
    assert (tmp_path / "ran").exists()
    directory = save(tmp_path / "c", model, tokens_dir)
    with pytest.raises(ContractError, match=r"not run unless you name it.*EHR_TRUST_CODE=blender"):
        load_checkpoint(directory)
    monkeypatch.setenv("EHR_TRUST_CODE", "blender")
    with torch.no_grad():
        loaded = load_checkpoint(directory, head="token").model
        assert torch.equal(hidden_states(loaded, batch), hidden_states(model, batch))


LLAMA = {"model_type": "llama", "architectures": ["LlamaForCausalLM"]}


def none(root, _):
    return root / "missing"


def empty(root, _):
    return root


def without_weights(root, _):
    return write(root / "d", LLAMA)


def pickled(root, _):
    (root / "pytorch_model.bin").write_bytes(b"")
    return write(root, LLAMA)


def a_classifier(root, _):
    BertForSequenceClassification(BertConfig(**SMALL)).save_pretrained(root)
    return root


def of_two_parts(root, _):
    return write(root, {"model_type": "t5", "architectures": ["T5LM"], "is_encoder_decoder": True})


def of_another_vocabulary(root, directories):
    config = json.loads((directories["neox"][0] / "config.json").read_text())
    source = directories["neox"][1]
    return write(root, config | {"vocab_size": 301}, {n: v.clone() for n, v in source.items()})


def lacking(root, directories):
    config = json.loads((directories["neox"][0] / "config.json").read_text())
    weights = {n: v.clone() for n, v in directories["neox"][1].items() if "layers.1.mlp" not in n}
    return write(root, config, weights)


def with_a_winding_head(root, _):
    small = {"dim": 32, "n_layers": 1, "n_heads": 2, "hidden_dim": 48, "vocab_size": 300}
    DistilBertForMaskedLM(DistilBertConfig(**small)).save_pretrained(root)
    return root


def unheard_of(root, _):
    return write(root, {"model_type": "wombat", "architectures": ["WombatForCausalLM"]})


def our_own(root, _):
    return write(root, LLAMA | {"true_vocab_size": 90})


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (none, "is no local directory"),
        (empty, "has no config.json"),
        (without_weights, r"has no weights \(model.safetensors\)"),
        (pickled, "holds pytorch_model.bin and no safetensors"),
        (a_classifier, "BertForSequenceClassification is neither causal nor masked"),
        (of_two_parts, "T5LM is neither causal nor masked"),
        (of_another_vocabulary, r"is \[300, 32\], but by config.json it is \[301, 32\]"),
        (lacking, "the weights lack gpt_neox.layers.1.mlp"),
        (with_a_winding_head, "its head is not read here"),
        (unheard_of, "transformers has no model_type 'wombat'"),
        (our_own, "go on from it with --init"),
    ],
)
def test_what_cannot_be_taken_gets_one_line(directories, tmp_path, made, message):
    with pytest.raises(ConfigError, match=message) as caught:
        taken(made(tmp_path, directories))
    assert "\n" not in str(caught.value)


def test_a_size_of_it_is_refused():
    tree = {"kind": "auto", "path": "there", "layers": 4}
    with pytest.raises(ConfigError, match=r"layers is what config\.json of there says"):
        validate(AutoModelConfig, tree, where="config")


def test_describe_says_what_lies_there_and_how_subjects_are_kept_apart(directories):
    run = CliRunner().invoke(
        main, ["describe", "auto", "-s", f"path={directories['neox'][0]}", "--vocab-size", "90"]
    )
    assert run.exit_code == 0, run.output
    assert "subjects apart: padded, each subject is a row of its own" in run.output
    total = sum(p.numel() for p in taken(directories["neox"][0]).parameters())
    assert run.output.splitlines()[-1].split() == ["total", f"{total:,}"]
