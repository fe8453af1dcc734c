import pytest
import torch
from transformers import GPT2Config, LlamaConfig
from transformers.activations import ACT2FN

from ehr_models.config import ModelConfig
from ehr_models.describe import count_parameters
from ehr_models.kinds import KINDS
from ehr_models.kinds.behrt import BehrtModelConfig
from ehr_models.kinds.behrt.model import BehrtConfig, BehrtModel
from ehr_models.kinds.bert import BertModelConfig
from ehr_models.kinds.gpt2 import Gpt2ModelConfig
from ehr_models.kinds.llama import LlamaModelConfig
from ehr_models.kinds.mamba2 import Mamba2ModelConfig
from ehr_models.kinds.mistral import MistralModelConfig
from ehr_models.kinds.modernbert import ModernBertModelConfig
from ehr_models.kinds.qwen3 import Qwen3ModelConfig
from ehr_models.registry import architecture, build
from ehr_tracking.config import ConfigError, validate
from ehr_tracking.contracts import BOS_ID, EOS_ID


@pytest.mark.parametrize(
    ("config", "vocab_size", "published"),
    [
        (Gpt2ModelConfig(size="base"), 50257, 124_439_808 + 47 * 768),
        (Gpt2ModelConfig(size="xlarge"), 50257, 1_557_611_200 + 47 * 1600),
        (BertModelConfig(size="base"), 30522, 109_514_298 + 6 * 769),
        (BertModelConfig(size="large"), 30522, 335_174_458 + 6 * 1025),
        (LlamaModelConfig(size="1b"), 128_256, 1_235_814_400),
        (ModernBertModelConfig(size="base"), 50368, 149_655_232),
        (ModernBertModelConfig(size="large"), 50368, 395_881_664),
        (Qwen3ModelConfig(size="0.6b"), 151_936, 596_049_920),
        (Qwen3ModelConfig(size="1.7b"), 151_936, 1_720_574_976),
        (MistralModelConfig(size="7b"), 32_000, 7_241_732_096 - 32_000 * 4096),
    ],
)
def test_published_sizes_have_their_published_counts(config, vocab_size, published):
    """But for the rows that pad the embedding to a multiple of 64, and where embeddings are tied."""
    assert count_parameters(config, vocab_size)["total"] == published


@pytest.mark.parametrize(
    ("preset", "millions"),
    [
        *(("gpt2-base", 116), ("gpt2-medium", 344), ("gpt2-large", 761), ("gpt2-huge", 1469)),
        *(("bert-base", 117), ("bert-xlarge", 773), ("bert-huge", 1439)),
        *(("llama-clues", 123), ("mamba2-tiny", 121), ("hyena-large", 125)),
    ],
)
def test_sizes_of_hf_ehr_have_its_counts(preset, millions):
    """At its vocabulary, to half a percent; of Mamba-2 that of its Mamba, which is another architecture."""
    kind, size = preset.split("-")
    config = KINDS[kind].config(size=size, max_positions=1024)
    assert count_parameters(config, 39_818)["total"] == pytest.approx(millions * 1e6, rel=0.005)


def test_behrt_small_by_hand():
    """At 1000 tokens: 1024 rows of 64, 513 visits, 2 segments, 1 static, two Time2Vec of 64, and so on."""
    table, width, inner = 64, 128, 384
    time2vec = 64 + 64 + 64 * table
    embeddings = (1024 + 513 + 2 + 1) * table + 2 * time2vec + 2 * table + (table + 1) * width
    layer = 4 * width * (width + 1) + 2 * (width + 1) * inner + (inner + 1) * width + 4 * width
    head = width * table + table + 2 * table + 1024
    assert count_parameters(BehrtModelConfig(size="small"), 1000) == {
        "embeddings": embeddings,
        "layers": 2 * layer + 2 * width,
        "head": head,
        "total": embeddings + 2 * layer + 2 * width + head,
    }


@pytest.mark.parametrize(
    ("size", "table", "width", "layers", "heads", "places", "millions"),
    [
        ("small", 64, 128, 2, 4, 50, "0.51"),
        ("medium", 128, 256, 4, 8, 100, "3.40"),
        ("large", 256, 512, 6, 8, 200, "19.49"),
    ],
)
def test_behrt_presets_in_the_plain_composition_have_the_counts_known_of_it(
    size, table, width, layers, heads, places, millions
):
    """Of an encoder with learned tables (ages in 22 bins, 512 visits, places), GELU four times as
    wide, and biases: 0.51M, 3.40M and 19.5M at vocabulary 1000."""
    config = architecture(BehrtModelConfig(size=size, mlp="gelu", intermediate=4 * width), 1000)
    assert (config.embedding_size, config.hidden_size) == (table, width)
    assert (config.num_hidden_layers, config.num_attention_heads) == (layers, heads)
    config.update({"age": "months", "time": "none", "static": False, "segment": False})
    config.update({"max_age_months": 21, "max_visits": 511, "vocab_size": 1000, "bias": True})
    with torch.device("meta"):
        model = BehrtModel(config)
    block = 12 * width**2 + 13 * width
    tables = (1000 + 22 + 512) * table + 2 * table + (table + 1) * width
    assert model.num_parameters() == tables + layers * block + 2 * width
    assert f"{(model.num_parameters() + places * table) / 1e6:.2f}" == millions


def test_original_behrt_is_reachable():
    config = architecture(BehrtModelConfig(size="original"), 90)
    assert isinstance(config, BehrtConfig)
    sizes = (config.hidden_size, config.num_hidden_layers, config.num_attention_heads)
    assert (*sizes, config.intermediate_size) == (288, 6, 12, 512)
    assert (config.age, config.time, config.position) == ("months", "none", "sinusoid")
    assert (config.norm, config.mlp, config.pooling) == ("post", "gelu", "cls")
    assert (config.dropout, config.attention_dropout) == (0.1, 0.1)
    changed = architecture(BehrtModelConfig(size="original", position="learned", dropout=0.0), 90)
    assert (changed.position, changed.dropout, changed.norm) == ("learned", 0.0, "post")


def test_overrides_win_over_the_size():
    config = architecture(LlamaModelConfig(size="base", hidden=64, heads=4, max_positions=77), 90)
    assert isinstance(config, LlamaConfig)
    assert (config.hidden_size, config.num_hidden_layers) == (64, 12)
    assert (config.num_key_value_heads, config.max_position_embeddings) == (4, 77)


def test_special_tokens_of_decoders_are_ours():
    for kind in KINDS.values():
        if kind.sees == "all" or kind.name in ("mixer", "auto"):
            continue
        config = architecture(kind.config(size="tiny"), 130)
        assert (config.bos_token_id, config.eos_token_id) == (BOS_ID, EOS_ID)


def test_padding_rows_are_never_generated(make_model):
    model = make_model("gpt2")
    with torch.no_grad():  # make them the likeliest tokens there are
        model.lm_head.weight[90:] = 100 * model.lm_head.weight[90:].sign()
    out = model.generate(torch.tensor([[5, 20]]), max_new_tokens=20, do_sample=True, num_beams=1)
    assert out.max() < 90


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (BehrtModelConfig(heads=3), "hidden = 128 must be an even multiple of heads = 3"),
        (LlamaModelConfig(size="tiny", dropout=0.1), "llama has no dropout"),
        (LlamaModelConfig(size="tiny", kv_heads=3), "heads = 4 must be a multiple"),
        (Mamba2ModelConfig(size="nano", attention_dropout=0.1), "mamba2 has no attention_dropout"),
        (Mamba2ModelConfig(size="nano", intermediate=200), "must be a multiple of hidden = 128"),
    ],
)
def test_what_does_not_fit_is_refused(config, message):
    with pytest.raises(ConfigError, match=message):
        build(config, 90)


def test_a_kind_is_pretrained_by_what_it_sees():
    found = {
        kind.name: kind.pretraining
        for kind in KINDS.values()
        if kind.sizes and kind.name != "mixer"
    }
    assert found == {
        **dict.fromkeys(("behrt", "bert", "exmed_bert", "modernbert"), "mlm"),
        **dict.fromkeys(("gpt2", "gpt2_moe", "llama", "chrono"), "clm"),
        **dict.fromkeys(("qwen3", "mistral", "mamba2", "hyena"), "clm"),
    }


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"kind": "mamba"}, "mamba"),
        ({"size": "small"}, "kind"),
        ({"kind": "behrt", "hiden": 3}, "unknown key behrt.hiden"),
        ({"kind": "behrt", "dropout": 1.0}, "behrt.dropout = 1.0"),
        ({"kind": "gpt2", "size": "vast"}, "gpt2.size = 'vast'"),
        ({"kind": "hyena", "heads": 4}, "a hyena has no attention"),
    ],
)
def test_a_wrong_key_is_named(tree, message):
    with pytest.raises(ConfigError, match=message):
        validate(ModelConfig, tree, where="config")


def test_the_fused_activation_of_gpt2_equals_that_of_transformers_default():
    config = architecture(Gpt2ModelConfig(size="tiny"), 90)
    ours, theirs = ACT2FN[config.activation_function], ACT2FN[GPT2Config().activation_function]
    x = torch.linspace(-8, 8, 4001)
    x, y = x.requires_grad_(), x.detach().clone().requires_grad_()
    torch.testing.assert_close(ours(x), theirs(y), rtol=0, atol=1e-6)
    ours(x).sum().backward()
    theirs(y).sum().backward()
    torch.testing.assert_close(x.grad, y.grad, rtol=0, atol=2e-6)
    assert type(ours) is not type(theirs)
