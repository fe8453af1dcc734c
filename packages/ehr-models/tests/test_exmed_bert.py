import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForMaskedLM

from ehr_models.data.batch import pack
from ehr_models.data.tokens import open_tokens
from ehr_models.heads.config import PooledConfig
from ehr_models.heads.pooled import build_classifier
from ehr_models.heads.token import hidden_states
from ehr_models.kinds.exmed_bert import ExMedBertModelConfig
from ehr_models.kinds.exmed_bert.model import ExMedBertConfig, ExMedBertForMaskedLM
from ehr_models.registry import architecture, build, look_up
from ehr_tracking.config import ConfigError, validate
from ehr_tracking.contracts import MASK_ID

FEMALE, MALE, NEW_YORK = 7, 8, 9  # see CODES of conftest
DRUG, DIAGNOSIS, LAB = 12, 13, 14


def summed(model, ids, age, visit, spans=None):
    """What is added up for each token, before the norm."""
    embed = model.base_model.embeddings
    embed.norm = torch.nn.Identity()
    return embed(torch.tensor([ids]), torch.tensor([age]), torch.tensor([visit]), spans)[0]


def test_the_sum_by_hand(make_model):
    model = make_model("exmed_bert-paper")
    embed = model.base_model.embeddings
    ids, visit = [FEMALE, NEW_YORK, DRUG, DIAGNOSIS, LAB], [0, 0, 1, 2, 600]
    age = [0.0, 0.0, 365.25 * 40.04, 365.25 * 40.16, 365.25 * 130]
    with torch.no_grad():
        total = summed(model, ids, age, visit)
        for i, (code, entity, tenth, ordinal) in enumerate(
            zip(ids, [0, 0, 1, 2, 0], [0, 0, 400, 401, 1109], [0, 0, 1, 2, 511], strict=True)
        ):
            rows = embed.code.weight[code] + embed.entity.weight[entity] + embed.age.weight[tenth]
            rows = rows + embed.sex.weight[1] + embed.region.weight[1]
            torch.testing.assert_close(total[i], rows + embed.position.weight[ordinal])


def test_each_subject_has_its_own_sex_and_region(make_model):
    """Packed: three subjects, the second of which tells neither."""
    model = make_model("exmed_bert-paper")
    embed = model.base_model.embeddings
    with torch.no_grad():
        for name in ("code", "entity", "age", "position"):
            getattr(embed, name).weight.zero_()
        ids, spans = [FEMALE, NEW_YORK, LAB, LAB, DRUG, LAB, MALE], torch.tensor([0, 3, 5, 7])
        total = summed(model, ids, [0.0] * 7, [0] * 7, spans.int())
        sex, region = embed.sex.weight, embed.region.weight
    expected = [*[sex[1] + region[1]] * 3, *[sex[0] + region[0]] * 2, *[sex[2] + region[0]] * 2]
    torch.testing.assert_close(total, torch.stack(expected))


def test_a_hidden_sex_is_unknown_to_the_whole_record(make_model, records, spans):
    """So masked modelling cannot read the answer off the other tokens; nor what a code was."""
    model, batch = make_model("exmed_bert"), pack(records, spans[1])
    embed = model.base_model.embeddings
    assert embed.sex_of[MASK_ID] == embed.region_of[MASK_ID] == embed.entity_of[MASK_ID] == 0
    batch.input_ids[:] = torch.where(batch.input_ids < 12, LAB, batch.input_ids)
    batch.input_ids[2] = MASK_ID
    with torch.no_grad():
        hidden = hidden_states(model, batch)
        embed.sex_of.zero_()
        assert torch.equal(hidden, hidden_states(model, batch))


@pytest.mark.parametrize("how", ["token", "pooled"])
def test_the_checkpoint_holds_what_codes_mean(make_model, how, tmp_path):
    """Through initialisation, a new head, saving and loading; and alone with transformers."""
    model = make_model("exmed_bert")
    told = {n: b.clone() for n, b in model.base_model.named_buffers()}
    assert set(told) == {f"embeddings.{n}_of" for n in ("entity", "sex", "region")}
    assert told["embeddings.entity_of"].unique().tolist() == [0, 1, 2]
    if how == "pooled":
        model = build_classifier(model, 1, PooledConfig(), problem="binary")
    else:
        model.save_pretrained(tmp_path)
        assert set(load_file(tmp_path / "model.safetensors")) >= {f"exmed_bert.{n}" for n in told}
        model = AutoModelForMaskedLM.from_pretrained(tmp_path)
        assert model.head.decoder.weight is model.exmed_bert.embeddings.code.weight
    for name, buffer in model.base_model.named_buffers():
        assert torch.equal(buffer, told[name])


def test_it_is_built_from_the_vocabulary_of_the_tokens(tokens_with_words):
    codes = ["ATC//C07", "X", "PHECODE//250.1", "PROCEDURE//ICD10PCS//0", "Gender/F", "STATE//NY"]
    tokens = open_tokens(tokens_with_words(codes))
    config = ExMedBertModelConfig(size="tiny")
    embed = build(config, tokens).base_model.embeddings
    assert embed.entity_of[: tokens.vocab_size].tolist() == [*[0] * 7, 1, 0, 2, 0, 0, 0]
    assert embed.sex_of.nonzero().tolist() == [[11]]
    assert embed.region_of.nonzero().tolist() == [[12]]
    own = ExMedBertModelConfig(size="tiny", entities={"procedure": ("^PROC",)}, sex=())
    embed = build(own, tokens).base_model.embeddings
    assert embed.entity_of.nonzero().tolist() == [[10]]
    assert len(embed.entity.weight) == 2
    assert not embed.sex_of.any()


def test_a_larger_vocabulary_keeps_what_is_known(make_model, tmp_path):
    model = make_model("exmed_bert")
    embed = model.base_model.embeddings
    known = embed.entity_of.clone()
    model.resize_token_embeddings(200)
    assert torch.equal(embed.entity_of[:128], known)
    assert embed.entity_of[128:].tolist() == [0] * 72
    inputs = {"age": torch.zeros(1, 2), "visit": torch.ones(1, 2, dtype=torch.long)}
    logits = model(torch.tensor([[DRUG, 199]]), **inputs).logits
    assert logits.shape == (1, 2, 200)
    model.save_pretrained(tmp_path)
    again = AutoModelForMaskedLM.from_pretrained(tmp_path)
    assert torch.equal(again(torch.tensor([[DRUG, 199]]), **inputs).logits, logits)


def test_more_regions_than_rows_are_refused():
    config = ExMedBertModelConfig(size="tiny", regions=3)
    model = build(config, 90)
    look_up(model, config, ["STATE//A", "STATE//B", "STATE//A"])
    assert model.base_model.embeddings.region_of[:3].tolist() == [1, 2, 1]
    with pytest.raises(ConfigError, match=r"tells of 3 regions \(STATE//A and so on\), but model"):
        look_up(model, config, ["STATE//A", "STATE//B", "STATE//C"])


def test_a_pattern_that_is_none_is_refused():
    with pytest.raises(ConfigError, match=r"sex.*'\(' is no regular expression"):
        validate(ExMedBertModelConfig, {"sex": ["("]}, where="test")


def test_an_input_that_is_missing_is_named(make_model):
    with pytest.raises(ValueError, match="pass age= and visit="):
        make_model("exmed_bert")(torch.tensor([[5, 9]]))


@pytest.mark.parametrize(
    ("size", "published"),
    [("tiny", 225e3), ("small", 500e3), ("medium", 1.40e6), ("large", 6.01e6), ("paper", 5.8e6)],
)
def test_in_the_published_composition_presets_have_their_published_counts(size, published):
    """225K, 500K, 1.40M, 6.01M and 5.8M at V = 2,486: a decoder of its own, ages with [PAD] and [UNK]."""
    config = architecture(ExMedBertModelConfig(size=size, position="learned"), 2486)
    config.update({"vocab_size": 2486, "tie_word_embeddings": False, "ages": 1112, "regions": 54})
    with torch.device("meta"):
        model = ExMedBertForMaskedLM(config)
    width, inner, layers = config.hidden_size, config.intermediate_size, config.num_hidden_layers
    layer = 4 * width**2 + 2 * width * inner + 9 * width + inner
    rows = 2 * 2486 + 3 + 1112 + 4 + 54 + 512
    by_hand = rows * width + 2 * width + layers * layer + width**2 + 3 * width + 2486
    assert model.num_parameters() == by_hand
    assert by_hand == pytest.approx(published, rel=4e-3)  # to the digits that are known


def test_the_paper_has_dropout_and_the_sizes_have_none():
    found = [architecture(ExMedBertModelConfig(size=s), 90) for s in ("paper", "large")]
    assert [(c.dropout, c.attention_dropout) for c in found] == [(0.1, 0.1), (0.0, 0.0)]
    assert (found[0].intermediate_size, found[1].intermediate_size) == (512, 576)
    assert isinstance(found[0], ExMedBertConfig)
