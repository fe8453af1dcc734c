import math

import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from ehr_models.describe import count_parameters
from ehr_models.kinds import KINDS
from ehr_models.kinds.behrt import BehrtModelConfig
from ehr_models.kinds.exmed_bert import ExMedBertModelConfig
from ehr_models.layers.embeddings import Time2Vec
from ehr_models.layers.initialization import METHODS
from ehr_models.registry import build

SMALL_BACK = ("gpt2", "gpt2_moe", "chrono")
"""Kinds whose own way has smaller projections back to the stream."""


def matrices(model):
    """Name -> [out, in] of every linear layer that no table is tied to, but those of times and ages."""
    tables = {id(p) for m in model.modules() if isinstance(m, nn.Embedding) for p in m.parameters()}
    found = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear | Conv1D) and id(module.weight) not in tables:
            found[name] = module.weight.T if isinstance(module, Conv1D) else module.weight
    own = ("time.projection", "when.time")
    return {n: w for n, w in found.items() if not n.endswith(own) and "age" not in n}


def drawn_by(method, weight):
    rows, columns = weight.shape
    if method == "orthogonal":
        product = weight @ weight.T if rows <= columns else weight.T @ weight
        return torch.allclose(product, torch.eye(len(product)), atol=1e-5)
    if method == "xavier":
        bound = math.sqrt(6 / (rows + columns))
        return 0.9 * bound < weight.abs().max() <= bound
    std = math.sqrt(2 / columns) if method == "kaiming" else 0.02
    return weight.std().item() == pytest.approx(std, rel=0.1)


@pytest.mark.parametrize("method", ["normal", *METHODS])
@pytest.mark.parametrize("kind", ["behrt", "exmed_bert", "gpt2", "gpt2_moe", "bert", "chrono"])
def test_what_a_new_model_looks_like(kind, method):
    plain = {"size": "small", "locality": 0.0} if kind == "behrt" else {"size": "tiny"}
    config = KINDS[kind].config(**plain, initialization=method)
    torch.manual_seed(0)
    model = build(config, 300)
    found = matrices(model)
    assert len(found) >= 7
    for name, weight in found.items():
        if method != "normal" or kind not in SMALL_BACK:
            assert drawn_by(method, weight), name
    for module in model.modules():
        if isinstance(module, nn.LayerNorm | nn.RMSNorm):
            assert (module.weight == 1).all()
        if isinstance(module, nn.Embedding) and len(module.weight) > 100:
            assert module.weight[1:].std().item() == pytest.approx(0.02, rel=0.1)
        if getattr(module, "bias", None) is not None:
            assert not module.bias.any()
    if "gpt2" not in kind:  # which has a decoder, and no padding, of its own
        assert not model.get_input_embeddings().weight[0].any()
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight


def test_time2vec_keeps_its_scale():
    built = []
    for method in ("normal", "orthogonal"):
        torch.manual_seed(0)
        built.append(build(BehrtModelConfig(size="tiny", initialization=method), 90))
    parts = [[m for m in b.modules() if isinstance(m, Time2Vec)] for b in built]
    assert len(parts[0]) == 2
    for a, b in zip(*parts, strict=True):
        assert torch.equal(a.projection.weight, b.projection.weight)


def test_counting_a_model_draws_nothing():
    state = torch.get_rng_state()
    assert count_parameters(ExMedBertModelConfig(size="tiny"), 100)["total"] > 0
    assert torch.equal(state, torch.get_rng_state())
