import pytest
import torch

from ehr_models.data.batch import pack
from ehr_models.decoding.decoder import Decoder
from ehr_models.heads.config import PooledConfig
from ehr_models.heads.pooled import build_classifier, classify
from ehr_models.heads.token import hidden_states
from ehr_models.stacks import blocks

from .conftest import EVERY_HEAD

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


def test_the_fused_kernel_isolates_and_agrees(model, records, spans, batch):
    """In bf16: near the fp32 states, and each span as if it were alone."""
    exact = hidden_states(model, batch)
    model.cuda()
    with torch.no_grad(), torch.autocast("cuda", torch.bfloat16):
        together = hidden_states(model, batch.to("cuda")).float()
        alone = torch.cat(
            [hidden_states(model, pack(records, s).to("cuda")).float() for s in spans]
        )
    scale = exact.abs().mean()
    assert (together.cpu() - exact).abs().mean() < 0.05 * scale
    assert (together - alone).abs().mean() < 0.02 * scale


def test_fp32_on_a_gpu_equals_the_cpu(model, batch):
    exact = hidden_states(model, batch)
    got = hidden_states(model.cuda(), batch.to("cuda"))
    assert (got.cpu() - exact).abs().max() < 1e-3
    got.square().mean().backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize("name", ["gpt2", "gpt2_moe", "llama", "chrono"])
def test_decoding_on_a_gpu_equals_the_cpu(make_model, batch, name):
    copies = torch.tensor([2, 1, 3, 0, 1, 2, 4])
    kept, tokens = torch.tensor([12, 3, 5, 0]), torch.arange(20, 24)
    given = {"age": torch.full((13,), 9000.0), "time": torch.full((13,), 16 * 10**14)}
    found = []
    for device in ("cpu", "cuda"):
        decoder = Decoder(make_model(name), device=device, precision="fp32")
        states = [decoder.prefill(batch, copies), decoder.step(torch.arange(30, 43), given)]
        decoder.keep(kept)
        states.append(decoder.step(tokens, {n: v[:4] for n, v in given.items()}))
        states.append(decoder.prefill(batch, copies))
        found.append(torch.cat(states).cpu())
    assert (found[0] - found[1]).abs().max() < 1e-3


@pytest.mark.parametrize("head", EVERY_HEAD, ids=str)
def test_pooled_heads_on_a_gpu_equal_the_cpu(make_model, batch, head):
    model = build_classifier(make_model("behrt"), 3, PooledConfig(**head), problem="multiclass")
    exact = classify(model.eval(), batch)
    model.cuda()
    first, again = (classify(model, batch.to("cuda")) for _ in range(2))
    assert torch.equal(first, again)
    assert (first.cpu() - exact).abs().max() < 1e-3
    # cuDNN's recurrent layers have no gradient in evaluation
    classify(model.train(), batch.to("cuda")).square().sum().backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_compiled_blocks_agree(model, records, windows, batch):
    """Also on a batch of another size, and in their gradients."""
    model.cuda()

    def answers(batch):
        model.zero_grad()
        with torch.autocast("cuda", torch.bfloat16):
            states = hidden_states(model, batch.to("cuda")).float()
        states.square().mean().backward()
        grads = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
        return states.detach(), torch.cat(grads).float()

    short = pack(records, windows.take(slice(0, 3)))
    before = [answers(b) for b in (batch, short)]
    for block in blocks(model.base_model):
        block.compile(dynamic=True)
    for (states, grads), b in zip(before, (batch, short), strict=True):
        again, others = answers(b)
        assert (again - states).abs().mean() < 0.02 * states.abs().mean()
        assert (others - grads).norm() < 0.05 * grads.norm()
