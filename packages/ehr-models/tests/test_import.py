"""Models of hf_ehr and EHR_FM, made here in their forms, answer alike once they are ours."""

import json
import os
import re

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from click.testing import CliRunner
from omegaconf import OmegaConf
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    BertForMaskedLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
)

from ehr_models.checkpoint import load_checkpoint
from ehr_models.cli import main
from ehr_models.exchange.take import take
from ehr_models.vocabulary import read_vocabulary
from ehr_tracking.contracts import BOS_ID, CLS_ID, EOS_ID, SPECIALS
from ehr_tracking.errors import UserError

CODES = ["Gender/F", "SNOMED/1", "LOINC/2", "SNOMED/3", "SNOMED/4"]
THEIRS = ["[BOS]", "[EOS]", "[UNK]", "[SEP]", "[PAD]", "[CLS]", "[MASK]", *CODES]
"""A vocabulary of hf_ehr, by id."""
KEPT = [4, 3, 0, 2]
"""Rows of it that are tokens of ours, in another order; one is left out."""
SMALL = {"n_positions": 32, "n_embd": 16, "n_layer": 2, "n_head": 2}
MODELS = {
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(vocab_size=len(THEIRS), **SMALL)),
    "llama": lambda: LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(THEIRS), hidden_size=16, intermediate_size=24, num_hidden_layers=2,
            num_attention_heads=2, max_position_embeddings=32,
        )
    ),
    "mamba": lambda: MambaForCausalLM(
        MambaConfig(vocab_size=len(THEIRS), hidden_size=16, num_hidden_layers=2, state_size=4)
    ),
    "bert": lambda: BertForMaskedLM(
        BertConfig(
            vocab_size=len(THEIRS), hidden_size=16, intermediate_size=24, num_hidden_layers=2,
            num_attention_heads=2, max_position_embeddings=32,
        )
    ),
}  # fmt: skip


def drawn(model):
    """With every parameter away from where it began."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.3)
    return model.eval()


@pytest.fixture
def words(tmp_path):
    """As `ehr-tokenize dictionary` writes them."""
    directory = tmp_path / "words"
    directory.mkdir()
    rows = [
        {"id": i, "token": t, "kind": "special", "code": None, "origin": None}
        for i, t in enumerate(SPECIALS)
    ]
    rows += [
        {"id": len(SPECIALS) + i, "token": CODES[at], "kind": "code", "code": CODES[at], "origin": at}
        for i, at in enumerate(KEPT)
    ]  # fmt: skip
    schema = pa.schema([("id", pa.int32()), ("token", pa.string()), ("kind", pa.string()), ("code", pa.string()),
                        ("bin", pa.int32()), ("lower", pa.float32()), ("upper", pa.float32()), ("count", pa.int64()),
                        ("subjects", pa.int64()), ("description", pa.string()), ("parents", pa.list_(pa.string())),
                        ("origin", pa.int32())])  # fmt: skip
    pq.write_table(pa.Table.from_pylist(rows, schema), directory / "vocab.parquet")
    (directory / "tokenizer.json").write_text("{}")
    return directory


def hub(directory, model, weights="safetensors"):
    """A directory as hf_ehr uploads it, its weights in one of the forms that there are."""
    model.config.architectures = [type(model).__name__]
    model.config.save_pretrained(directory)
    entries = [{"code": c, "type": "code", "tokenization": {}, "stats": []} for c in CODES]
    (directory / "tokenizer_config.json").write_text(
        json.dumps({"metadata": {}, "tokens": entries})
    )
    if weights == "safetensors":
        model.save_pretrained(directory)
    elif weights == "bin":
        torch.save(model.state_dict(), directory / "pytorch_model.bin")
    else:
        state = {f"model.{name}": value for name, value in model.state_dict().items()}
        state["model.transformer.h.0.attn.bias"] = torch.ones(1, 1, 32, 32)  # of older versions
        settings = OmegaConf.create({"model": {"name": "gpt2"}, "devices": [0, 1]})
        torch.save(
            {"state_dict": state, "hyper_parameters": {"config": settings}}, directory / "last.ckpt"
        )
    return directory


@pytest.mark.parametrize(
    ("kind", "weights"),
    [
        ("gpt2", "safetensors"),
        ("gpt2", "bin"),
        ("gpt2", "ckpt"),
        ("llama", "safetensors"),
        ("mamba", "bin"),
        ("bert", "bin"),
    ],
)
def test_logits_of_hf_ehr_are_those_of_the_original(kind, weights, words, tmp_path):
    theirs = drawn(MODELS[kind]())
    done = take(hub(tmp_path / "hub", theirs, weights), tmp_path / "ours", vocabulary=words)
    assert (done.kind, done.tokens, done.left_out) == (kind, len(SPECIALS) + len(KEPT), 1)
    ours = load_checkpoint(tmp_path / "ours")
    of_ours = torch.tensor([[CLS_ID, BOS_ID, 8, 7, 10, 9, EOS_ID]])
    of_theirs = torch.tensor([[5, 0, 7 + KEPT[1], 7 + KEPT[0], 7 + KEPT[3], 7 + KEPT[2], 1]])
    rows = [*(THEIRS.index(special) for special in SPECIALS), *(7 + at for at in KEPT)]
    with torch.no_grad():
        expected = theirs(of_theirs).logits[..., rows]
        torch.testing.assert_close(
            type(theirs).from_pretrained(tmp_path / "ours")(of_ours).logits, expected
        )
        if kind != "bert":
            found = AutoModelForCausalLM.from_pretrained(tmp_path / "ours")(of_ours).logits
            assert torch.equal(found.argmax(-1), expected.argmax(-1))
    assert ours.kind.name == {"mamba": "auto"}.get(kind, kind)
    assert ours.vocab_size == len(SPECIALS) + len(KEPT)


class Mixed(nn.Module):
    """Experts as EHR_FM has them, one token at a time: softmax over the chosen logits."""

    def __init__(self, width, inner, experts, top_k):
        super().__init__()
        self.router = nn.Module()
        self.router.w_g = nn.Linear(width, experts, bias=False)
        self.experts = nn.Module()
        self.experts.c_fc = nn.Parameter(torch.empty(experts, width, inner))
        self.experts.c_proj = nn.Parameter(torch.empty(experts, inner, width))
        self.top_k = top_k

    def forward(self, x):
        out = torch.zeros_like(x)
        for at in range(x.shape[1]):
            logits, chosen = self.router.w_g(x[0, at]).topk(self.top_k)
            for weight, e in zip(logits.softmax(-1), chosen, strict=True):
                out[0, at] += weight * (
                    nn.functional.gelu(x[0, at] @ self.experts.c_fc[e]) @ self.experts.c_proj[e]
                )
        return out


TOKENS = ["MEDS_BIRTH", "Q1", "LAB//50912", "15m-45m", "=6mt", "MEDS_DEATH"]


def ehr_fm(path, experts, **changes):
    """A checkpoint in its form, and the same model out of parts of transformers."""
    config = GPT2Config(vocab_size=64, activation_function="gelu", **SMALL)
    theirs = GPT2LMHeadModel(config)
    if experts > 1:
        for block in theirs.transformer.h:
            block.mlp = Mixed(16, 64, experts, top_k=2)
    drawn(theirs)
    state = {}
    for name, value in theirs.state_dict().items():
        if name.endswith(".bias"):
            value.zero_()  # it has none
        elif re.search(r"\.(c_attn|c_proj|c_fc)\.weight$", name):
            state[name] = value.T.contiguous()  # transformers keeps them the other way round
        else:
            state[re.sub(r"\.mlp\.(router|experts)\.", r".\1.", name)] = value
    settings = {**SMALL, "activation_function": "gelu", "bias": False, "n_experts": experts, "top_k": 2,
                "use_aux_loss": True, "aux_loss_weight": 0.02, "stride": 2}  # fmt: skip
    held = {
        "model": state,
        "model_configs": OmegaConf.create(settings),
        "vocab_stoi": {token: i for i, token in enumerate(TOKENS)},
        "hydra_config_full": {"seed": 1},
        "iter_num": 7,
    }
    torch.save({**held, **changes}, path)
    return theirs


@pytest.mark.parametrize("experts", [1, 4])
def test_logits_of_ehr_fm_are_those_of_the_original(experts, tmp_path):
    theirs = ehr_fm(tmp_path / "best_model.pt", experts)
    take(tmp_path / "best_model.pt", tmp_path / "ours")
    ours = load_checkpoint(tmp_path / "ours")
    assert ours.kind.name == "gpt2_moe"
    ids = torch.tensor([[0, 2, 1, 3, 4, 2, 5]])
    with torch.no_grad():
        expected = theirs(ids).logits[..., : len(TOKENS)]
        alone = AutoModelForCausalLM.from_pretrained(tmp_path / "ours", trust_remote_code=True)
        found = alone(ids + len(SPECIALS)).logits[..., len(SPECIALS) :]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    words = read_vocabulary(tmp_path / "ours")[len(SPECIALS) :]
    assert [w.token for w in words] == TOKENS
    assert [w.kind for w in words] == ["code", "bin", "code", "time", "time", "code"]
    assert words[3].seconds == 1800


class Malicious:
    """Would leave a file behind if it were unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def refused(message, given, out, **options):
    with pytest.raises(UserError, match=message) as e:
        take(given, out, **options)
    assert "\n" not in str(e.value)
    assert not out.exists()


@pytest.mark.parametrize("name", ["best_model.pt", "hub/pytorch_model.bin"])
def test_a_pickle_that_runs_something_is_refused_unrun(name, words, tmp_path):
    directory = hub(tmp_path / "hub", MODELS["gpt2"](), "bin")
    torch.save({"model": Malicious(tmp_path / "ran"), "x": torch.ones(1)}, tmp_path / name)
    given = tmp_path / name if name.endswith(".pt") else directory
    options = {} if name.endswith(".pt") else {"vocabulary": words}
    refused(
        r"refused, nothing of it was run: it names (posix|os)\.system",
        given,
        tmp_path / "o",
        **options,
    )
    assert not (tmp_path / "ran").exists()


def test_what_is_wrong_with_a_directory_of_hf_ehr_is_one_line(words, tmp_path):
    given, out = hub(tmp_path / "hub", MODELS["gpt2"]()), tmp_path / "out"
    refused("ehr-tokenize dictionary .*hub/tokenizer_config.json --out DIR", given, out)
    config = json.loads((given / "config.json").read_text())
    for change, message in (
        (
            {"model_type": "hyenadna", "auto_map": {"AutoConfig": "x.Y"}},
            "model_type 'hyenadna' is none of transformers; code that lies in a directory is not run",
        ),
        (
            {"model_type": "t5", "architectures": ["T5Model"]},
            "T5Model is neither causal nor masked",
        ),
        ({"n_embd": 32}, r"c_attn\.bias is \[48\], but by config.json it is \[96\]"),
        ({"n_layer": 3}, r"the weights lack transformer\.h\.2"),
    ):
        (given / "config.json").write_text(json.dumps({**config, **change}))
        refused(message, given, out, vocabulary=words)
    (given / "config.json").write_text(json.dumps(config))
    whole = (given / "tokenizer_config.json").read_text()
    tree = json.loads(whole)
    (given / "tokenizer_config.json").write_text(json.dumps({"tokens": tree["tokens"][1:]}))
    refused(
        "the embedding has 12 rows, but .* names 4 tokens and 7 are special",
        given,
        out,
        vocabulary=words,
    )
    tree["tokens"][0]["code"] = "OTHER"
    (given / "tokenizer_config.json").write_text(json.dumps(tree))
    refused("was not made of .*: token 'Gender/F' is not in it", given, out, vocabulary=words)
    (given / "tokenizer_config.json").write_text(whole)
    (given / "model.safetensors").write_bytes(b"torn")
    refused("cannot be read as safetensors", given, out, vocabulary=words)
    (given / "model.safetensors").unlink()
    refused(
        "has no weights: expected model.safetensors, pytorch_model.bin or one .ckpt",
        given,
        out,
        vocabulary=words,
    )
    refused("no such file or directory", tmp_path / "nowhere", out)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vocab_stoi": {"A": 0, "B": 2}}, "vocab_stoi is not text to 0, 1, 2"),
        ({"vocab_stoi": {f"C{i}": i for i in range(65)}}, "embedding has 64 rows, but vocab_stoi names 65"),
        ({"vocab_stoi": {"[PAD]": 0}}, r"vocab_stoi has \[PAD\]"),
        ({"model_configs": {"n_embd": 16}}, "model_configs has no n_positions"),
        ({"model_configs": {**SMALL, "activation_function": "gelu", "bias": True}}, "a model with biases"),
        ({"model_configs": {**SMALL, "activation_function": "gelu", "n_experts": 4, "top_k": 1}}, "top_k = 1"),
        ({"model_configs": {**SMALL, "activation_function": "gelu", "n_layer": 3}}, "they differ in transformer.h.2"),
        ({"model": None}, "is no checkpoint of EHR_FM: it has no model"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_checkpoint_of_ehr_fm_is_one_line(changes, message, tmp_path):
    ehr_fm(tmp_path / "m.pt", 1, **changes)
    refused(message, tmp_path / "m.pt", tmp_path / "out")


def test_the_command_says_what_was_taken_and_what_was_left(words, tmp_path):
    theirs = drawn(MODELS["gpt2"]())
    given = hub(tmp_path / "hub", theirs)
    options = ["--out", str(tmp_path / "ours"), "--vocabulary", str(words)]
    done = CliRunner().invoke(main, ["import", str(given), *options])
    assert done.exit_code == 0, done.output
    parameters = sum(p.numel() for p in theirs.parameters()) - SMALL["n_embd"]  # one row less
    assert f"gpt2 of hf_ehr, {parameters:,} parameters, 11 tokens" in done.output
    assert "1 rows of its vocabulary are no token of ours" in done.output
    again = CliRunner().invoke(main, ["import", str(given), *options])
    assert again.exit_code == 2
    assert "pass --overwrite" in again.stderr
