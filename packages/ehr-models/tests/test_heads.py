import pytest
import torch

from ehr_models.heads.config import PooledConfig
from ehr_models.heads.pooled import build_classifier, pool
from ehr_tracking.config import ConfigError, load_config
from ehr_tracking.contracts import BOS_ID, CLS_ID
from ehr_tracking.errors import UserError


@pytest.mark.parametrize("how", ["last", "mean", "max", "sum", "cls"])
def test_pooling_by_hand(how):
    hidden = torch.tensor([[1.0, -1], [3, -5], [2, 9], [7, 7]], requires_grad=True)
    ids = torch.tensor([CLS_ID, 10, 11, CLS_ID])
    expected = {
        "last": [[2.0, 9], [7, 7]],
        "mean": [[2.0, 1], [7, 7]],
        "max": [[3.0, 9], [7, 7]],
        "sum": [[6.0, 3], [7, 7]],
        "cls": [[1.0, -1], [7, 7]],
    }
    out = pool(hidden, torch.tensor([0, 3, 4], dtype=torch.int32), how, input_ids=ids)
    assert out.tolist() == expected[how]
    out.sum().backward()
    assert hidden.grad.sum().item() == pytest.approx(8 if how == "sum" else 4)


def test_pooling_by_cls_needs_one(make_model, batch):
    hidden = torch.zeros(len(batch.input_ids), 4)
    with pytest.raises(UserError, match="needs sequences that begin with"):
        pool(hidden, batch.cu_seqlens, "cls")
    ids = batch.input_ids.clone()
    ids[batch.cu_seqlens[3]] = BOS_ID
    with pytest.raises(UserError, match="needs sequences that begin with"):
        pool(hidden, batch.cu_seqlens, "cls", input_ids=ids)


def test_unknown_pooling_is_refused():
    with pytest.raises(UserError, match="unknown pooling 'median'"):
        pool(torch.zeros(1, 1), torch.tensor([0, 1]), "median")
    with pytest.raises(ConfigError, match="pooling = 'median': Input should be 'last', 'mean'"):
        load_config(PooledConfig, None, ["pooling=median"])


def test_labels_that_are_floats_mean_binary_cross_entropy(make_model):
    classifier = build_classifier(
        make_model("gpt2"), 1, PooledConfig(pooling="last"), problem="binary"
    )
    labels = torch.tensor([1.0, 0.0])
    out = classifier(torch.tensor([[5, 20], [5, 30]]), labels=labels)
    p = out.logits[:, 0].sigmoid()
    expected = -(p[0].log() + (1 - p[1]).log()) / 2
    assert out.loss.item() == pytest.approx(expected.item(), rel=1e-5)
