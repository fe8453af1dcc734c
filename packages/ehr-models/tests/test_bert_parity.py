"""Our encoders, set as BERT is, are BERT: with its weights, the numbers of transformers' own class."""

import pytest
import torch
from transformers import BertConfig, BertForMaskedLM

from ehr_models.kinds.behrt.model import BehrtConfig, BehrtForMaskedLM
from ehr_models.kinds.exmed_bert.model import ExMedBertConfig, ExMedBertForMaskedLM

SIZES = {
    "vocab_size": 90,
    **{"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4},
    **{"intermediate_size": 48, "layer_norm_eps": 1e-12},
}
NAMES = {
    "embeddings.code.weight": "bert.embeddings.word_embeddings.weight",
    "embeddings.position.weight": "bert.embeddings.position_embeddings.weight",
    "embeddings.segment.weight": "bert.embeddings.token_type_embeddings.weight",
    "embeddings.norm": "bert.embeddings.LayerNorm",
    "layers.": "bert.encoder.layer.",
    "attention.q_proj": "attention.self.query",
    "attention.k_proj": "attention.self.key",
    "attention.v_proj": "attention.self.value",
    "attention.o_proj": "attention.output.dense",
    "attention_norm": "attention.output.LayerNorm",
    "mlp.up": "intermediate.dense",
    "mlp.down": "output.dense",
    "mlp_norm": "output.LayerNorm",
    "head.transform": "cls.predictions.transform.dense",
    "head.norm": "cls.predictions.transform.LayerNorm",
    "head.decoder": "cls.predictions.decoder",
}
PLAIN = {"position": "learned", "max_visits": 63, "mlp": "gelu", "norm": "post", "bias": True}


def behrt():
    plain = {"age": "none", "time": "none", "visit": False, "segment": True, **PLAIN}
    return BehrtForMaskedLM(BehrtConfig(**SIZES, **plain))


def exmed_bert():
    model = ExMedBertForMaskedLM(ExMedBertConfig(**SIZES, **PLAIN))
    with torch.no_grad():  # what BERT does not have
        for name in ("entity", "age", "sex", "region"):
            getattr(model.base_model.embeddings, name).weight.zero_()
    return model


def theirs_of(name):
    for ours, theirs in NAMES.items():
        name = name.replace(ours, theirs)
    return name


@pytest.mark.parametrize("make", [behrt, exmed_bert])
def test_with_the_weights_of_bert_it_is_bert(make):
    torch.manual_seed(0)
    bert = BertForMaskedLM(BertConfig(**SIZES, max_position_embeddings=64)).eval()
    with torch.no_grad():
        for parameter in bert.parameters():  # norms and biases too
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    model = make().eval()
    state, prefix = bert.state_dict(), f"{model.base_model_prefix}."
    for name, parameter in model.named_parameters():
        theirs = theirs_of(name.removeprefix(prefix))
        if theirs in state:
            parameter.data.copy_(state.pop(theirs))
    state = {n for n in state if not n.endswith(("decoder.weight", "predictions.bias"))}
    assert state <= {"bert.embeddings.token_type_embeddings.weight"}  # which ExMed-BERT has not

    ids = torch.randint(0, 90, (3, 40))
    mask = (torch.arange(40) < torch.tensor([[40], [17], [3]])).long()
    segment = torch.randint(0, 2, ids.shape) if make is behrt else torch.zeros_like(ids)
    place = torch.arange(40).expand_as(ids)
    given = {"age": torch.zeros(ids.shape), "visit": place}
    given |= {"segment": segment} if make is behrt else {}
    if make is exmed_bert:
        with torch.no_grad():
            bert.bert.embeddings.token_type_embeddings.weight.zero_()
    with torch.no_grad():
        theirs = bert(ids, mask, token_type_ids=segment, output_hidden_states=True)
        states = model.base_model(ids, attention_mask=mask, **given).last_hidden_state
        logits = model(ids, attention_mask=mask, **given).logits
    real = mask.bool()
    assert theirs.hidden_states[-1][real].std() > 0.5
    assert (states - theirs.hidden_states[-1])[real].abs().max() < 1e-5
    assert (logits - theirs.logits)[real].abs().max() < 1e-5
