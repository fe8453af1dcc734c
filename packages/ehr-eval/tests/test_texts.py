"""Features of narratives, through a language model that a test makes."""

import numpy as np
import polars as pl
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoModel, AutoTokenizer, BertConfig, BertModel, PreTrainedTokenizerFast

from ehr_eval.features.config import FeaturesConfig
from ehr_eval.features.extract import extract_text_features
from ehr_eval.features.read import read_features
from ehr_tracking.config import ConfigError
from ehr_tracking.contracts import NARRATIVES, ContractError
from ehr_tracking.manifest import new_artifact, seal, verify

WORDS = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "age",
    "years",
    "fever",
    "cough",
    "aspirin",
    "insulin",
    "visit",
    "##s",
    ",",
    "7",
    "8",
]
TEXTS = ["age 7 years, fever", "age 8 years, cough, aspirin, visit, visit", "", "fever " * 60]


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    """A directory as `save_pretrained` writes it."""
    out = tmp_path_factory.mktemp("bert")
    words = Tokenizer(models.WordPiece({w: i for i, w in enumerate(WORDS)}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    words.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    PreTrainedTokenizerFast(tokenizer_object=words, **names).save_pretrained(out)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(WORDS), hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=32, max_position_embeddings=32,
    )  # fmt: skip
    BertModel(config).save_pretrained(out)
    return out


@pytest.fixture(scope="module")
def texts(tmp_path_factory, toys):
    """Two tasks that meet in a row."""
    out = tmp_path_factory.mktemp("texts") / "narratives"
    rows = [(7, toys.day(i), "train" if i < 2 else "held_out", t) for i, t in enumerate(TEXTS)]
    with new_artifact(out, NARRATIVES) as partial:
        for task, some in (("one", rows[:3]), ("two", rows[2:])):
            (partial / task).mkdir()
            schema = ["subject_id", "prediction_time", "split", "text"]
            table = pl.DataFrame(some, schema=schema, orient="row")
            table.with_columns(pl.col("prediction_time").cast(pl.Datetime("us"))).write_parquet(
                partial / task / "narratives.parquet"
            )
        seal(partial, NARRATIVES, producer="test 0", config={"delay": {"^DX": 3.0}}, seed=0)
    return out


@pytest.mark.parametrize("pooling", ["last", "mean", "cls"])
@pytest.mark.parametrize("layer", [-1, 1])
def test_each_text_is_read_as_the_model_reads_it_alone(bert, texts, pooling, layer, tmp_path):
    config = FeaturesConfig(pooling=pooling, layers=layer, precision="fp32")
    done = extract_text_features(bert, texts, tmp_path / "out", config)
    assert (done.rows, done.read, done.blind) == (4, 4, 1)
    found = read_features(done.path)
    assert found.index["split"].to_list() == ["train", "train", "held_out", "held_out"]
    assert found.manifest.config["delay"] == {"^DX": 3.0}
    assert verify(done.path) == []
    tokenizer, model = AutoTokenizer.from_pretrained(bert), AutoModel.from_pretrained(bert).eval()
    for row, text in enumerate(TEXTS):
        if not text:
            assert not found.matrix[row].any()
            continue
        ids = tokenizer(text)["input_ids"]
        ids = ids if len(ids) <= 32 else [ids[0], *ids[-31:]]  # the end, which is the newest
        with torch.inference_mode():
            states = model(torch.tensor([ids]), output_hidden_states=True).hidden_states[layer][0]
        expected = {"last": states[-1], "mean": states.mean(0), "cls": states[0]}[pooling]
        np.testing.assert_allclose(found.matrix[row], expected.numpy(), atol=1e-5)


def test_labels_choose_texts_and_a_store_keeps_them(bert, texts, toys, tmp_path):
    two = toys.labels(tmp_path / "two", {"a": [(7, toys.day(0), True), (7, toys.day(3), False)]})
    some = extract_text_features(bert, texts, tmp_path / "a", labels=two, store=tmp_path / "store")
    every = extract_text_features(bert, texts, tmp_path / "b", store=tmp_path / "store")
    assert (some.read, every.read) == (2, 2)
    a, b = (read_features(each.path).matrix for each in (some, every))
    np.testing.assert_array_equal(a, b[[0, 3]])
    more = toys.labels(tmp_path / "more", {"a": [(7, toys.day(0), True), (7, toys.day(9), False)]})
    with pytest.raises(
        ContractError, match="lacks 1 of 2 labels, the first subject 7 at 2020-01-10"
    ):
        extract_text_features(bert, texts, tmp_path / "c", labels=more)


def test_what_is_no_language_model_or_too_little_of_one_is_refused(bert, texts, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ContractError, match="holds no language model with its tokenizer") as e:
        extract_text_features(tmp_path / "empty", texts, tmp_path / "out")
    assert len(str(e.value).splitlines()) == 1
    for config, message in (
        (FeaturesConfig(context=64), "at most 32 tokens"),
        (FeaturesConfig(layers=5), "has layers 0"),
    ):
        with pytest.raises(ConfigError, match=message):
            extract_text_features(bert, texts, tmp_path / "out", config)
    assert not (tmp_path / "out").exists()
