import pytest
import torch

from ehr_models.data.batch import pack
from ehr_models.data.tokens import BOS, CLS
from ehr_models.heads import build_classifier, classify, hidden_states, pool, token_logits
from ehr_tracking.config import ConfigError
from ehr_tracking.errors import UserError


def test_token_logits_are_those_of_the_whole_model(model, records, spans):
    """Of one subject through transformers' own forward, at the rows asked for."""
    batch = pack(records, spans[2])
    inputs = {"input_ids": batch.input_ids, "position_ids": batch.position_ids}
    if model.config.model_type == "behrt":
        inputs |= {n: getattr(batch, n) for n in ("age", "time", "visit", "segment")}
    elif model.config.model_type == "bert":
        inputs["token_type_ids"] = batch.segment
    rows = torch.tensor([3, 0, 41])
    with torch.no_grad():
        whole = model(**{n: v[None] for n, v in inputs.items()}).logits[0]
        ours = token_logits(model, hidden_states(model, batch)[rows])
    assert whole.shape == (60, 128)
    assert ours.shape == (3, 90)
    assert (whole[rows, :90] - ours).abs().max() < 1e-5


@pytest.mark.parametrize("how", ["last", "mean", "max", "cls"])
def test_pooling_by_hand(how):
    hidden = torch.tensor([[1.0, -1], [3, -5], [2, 9], [7, 7]], requires_grad=True)
    ids = torch.tensor([CLS, 10, 11, CLS])
    expected = {
        "last": [[2.0, 9], [7, 7]],
        "mean": [[2.0, 1], [7, 7]],
        "max": [[3.0, 9], [7, 7]],
        "cls": [[1.0, -1], [7, 7]],
    }
    out = pool(hidden, torch.tensor([0, 3, 4], dtype=torch.int32), how, input_ids=ids)
    assert out.tolist() == expected[how]
    out.sum().backward()
    assert hidden.grad.sum().item() == pytest.approx(4)


def test_pooling_by_cls_needs_one(make_model, batch):
    hidden = torch.zeros(len(batch.input_ids), 4)
    with pytest.raises(UserError, match="needs sequences that begin with"):
        pool(hidden, batch.cu_seqlens, "cls")
    ids = batch.input_ids.clone()
    ids[batch.cu_seqlens[3]] = BOS
    with pytest.raises(UserError, match="needs sequences that begin with"):
        pool(hidden, batch.cu_seqlens, "cls", input_ids=ids)


def test_unknown_pooling_is_refused(make_model):
    with pytest.raises(UserError, match="unknown pooling 'sum'"):
        pool(torch.zeros(1, 1), torch.tensor([0, 1]), "sum")
    with pytest.raises(ConfigError, match="pooling = 'sum': choose one of last"):
        build_classifier(make_model("bert"), 1, "sum")


@pytest.mark.parametrize("pooling", ["last", "mean", "max", "cls"])
def test_classifiers_agree_packed_padded_and_alone(model, records, spans, batch, pooling):
    torch.manual_seed(5)
    classifier = build_classifier(model, 3, pooling)
    with torch.no_grad():
        together = classify(classifier, batch)
        alone = torch.cat([classify(classifier, pack(records, s)) for s in spans])
        states = pool(
            hidden_states(model, batch), batch.cu_seqlens, pooling, input_ids=batch.input_ids
        )
        by_hand = states @ classifier.classifier.weight.T + classifier.classifier.bias
    assert together.shape == (len(spans), 3)
    assert (together - alone).abs().max() < 1e-5
    assert (together - by_hand).abs().max() < 1e-5


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("name", ["behrt", "bert", "gpt2", "llama"])
def test_a_padded_batch_is_classified_like_a_packed_one(make_model, batch, name, side):
    classifier = build_classifier(make_model(name), 2, "mean")
    lengths = batch.cu_seqlens.diff().tolist()
    inputs = {"input_ids": batch.input_ids, "position_ids": batch.position_ids}
    if name == "behrt":
        inputs |= {n: getattr(batch, n) for n in ("age", "time", "visit", "segment")}
    elif name == "bert":
        inputs["token_type_ids"] = batch.segment
    padded = {
        n: torch.nn.utils.rnn.pad_sequence(v.split(lengths), True, 0, padding_side=side)
        for n, v in (inputs | {"attention_mask": torch.ones_like(batch.input_ids)}).items()
    }
    with torch.no_grad():
        out = classifier(**padded, labels=torch.zeros(len(lengths), dtype=torch.long))
        packed = classify(classifier, batch)
    assert (out.logits - packed).abs().max() < 1e-5
    assert out.loss.item() == pytest.approx(-packed.log_softmax(-1)[:, 0].mean().item(), rel=1e-4)


def test_a_classifier_copies_the_backbone(make_model, batch):
    model = make_model("gpt2")
    classifier = build_classifier(model, 1, "last")
    with torch.no_grad():
        before = hidden_states(model, batch)
        assert torch.equal(before, hidden_states(classifier, batch))
        for parameter in classifier.parameters():
            parameter.zero_()
        assert torch.equal(before, hidden_states(model, batch))


def test_every_weight_of_a_classifier_learns(make_model, batch):
    for name in ("behrt", "bert", "gpt2", "llama"):
        classifier = build_classifier(make_model(name), 1, "mean")
        classify(classifier, batch).square().sum().backward()
        dead = [n for n, p in classifier.named_parameters() if p.grad is None or not p.grad.any()]
        assert dead == []


def test_labels_that_are_floats_mean_binary_cross_entropy(make_model):
    classifier = build_classifier(make_model("gpt2"), 1, "last")
    labels = torch.tensor([1.0, 0.0])
    out = classifier(torch.tensor([[5, 20], [5, 30]]), labels=labels)
    p = out.logits[:, 0].sigmoid()
    expected = -(p[0].log() + (1 - p[1]).log()) / 2
    assert out.loss.item() == pytest.approx(expected.item(), rel=1e-5)
