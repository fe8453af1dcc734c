import pytest
import torch
from torch.nn.functional import cross_entropy

from ehr_models.heads import entropy
from ehr_models.heads.entropy import summed_cross_entropy


@pytest.mark.parametrize(("dtype", "near"), [(torch.float32, 1e-6), (torch.bfloat16, 1e-2)])
def test_loss_and_gradient_are_those_of_torch_in_float64(dtype, near, monkeypatch):
    """Some rows at a time, the last few of them alone, and padding columns that would win if they counted."""
    monkeypatch.setattr(entropy, "AT_ONCE", 3 * 13)
    generator = torch.Generator().manual_seed(0)
    logits = 4 * torch.randn(7, 13, generator=generator)
    logits[:, 11:] = 50
    logits, answers = logits.to(dtype).requires_grad_(), torch.tensor([0, 10, 3, 3, 7, 1, 9])
    exact = logits.detach().double()[:, :11].requires_grad_()
    found = summed_cross_entropy(logits, answers, 11)
    wanted = cross_entropy(exact, answers, reduction="sum")
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(wanted.item(), rel=1e-6)
    # by a number that bf16 does not have
    (1.0038 * found).backward()
    (1.0038 * wanted).backward()
    torch.testing.assert_close(logits.grad[:, :11].double(), exact.grad, atol=near, rtol=near)
    assert not logits.grad[:, 11:].any()
    assert logits.grad.double().norm() / exact.grad.norm() == pytest.approx(1, abs=1e-3)


def test_a_sure_mistake_stays_a_number_and_no_number_stays_none():
    logits = torch.tensor([[300.0, 0.0]], requires_grad=True)
    loss = summed_cross_entropy(logits, torch.tensor([1]), 2)
    loss.backward()
    assert 80 < loss.item() < 300
    assert logits.grad.tolist() == [[1.0, -1.0]]
    assert summed_cross_entropy(torch.tensor([[torch.nan, 0.0]]), torch.tensor([1]), 2).isnan()
    assert summed_cross_entropy(torch.empty(0, 4), torch.empty(0, dtype=torch.int64), 4) == 0
