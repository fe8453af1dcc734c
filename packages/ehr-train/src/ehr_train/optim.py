"""Optimizers, and learning rates as functions of the step."""

import math
from collections.abc import Callable, Iterable
from typing import cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from ehr_models.stacks import blocks
from ehr_tracking.config import ConfigError
from ehr_train.config import OptimConfig


def learning_rate(step: int, steps: int, config: OptimConfig) -> float:
    """The learning rate of one step.

    `cosine`, `linear` and `constant` follow transformers' schedules of these names; `wsd` holds
    the rate after the warmup and falls linearly over the last `decay` of all steps.

    Args:
        step: From 0 to `steps` - 1.
        steps: Of the whole run.
        config: Names the schedule.

    Examples:
        >>> linear = OptimConfig(lr=1.0, schedule="linear", warmup=2, steps=6)
        >>> [learning_rate(s, 6, linear) for s in range(6)]
        [0.5, 1.0, 1.0, 0.75, 0.5, 0.25]
        >>> wsd = OptimConfig(lr=1.0, schedule="wsd", warmup=0, decay=0.5)
        >>> [learning_rate(s, 4, wsd) for s in range(4)]
        [1.0, 1.0, 1.0, 0.5]
    """
    warmup = warmup_steps(steps, config)
    if step < warmup:  # from 1 / warmup: a first step at rate 0 would be wasted
        return config.lr * (step + 1) / warmup
    if config.schedule == "wsd":
        length = max(1, round(config.decay * steps))
        done = max(0.0, (step - (steps - length)) / length)
    else:
        done = (step - warmup) / max(1, steps - warmup)
    left = {
        "constant": 1.0,
        "linear": 1.0 - done,
        "wsd": 1.0 - done,
        "cosine": 0.5 * (1.0 + math.cos(math.pi * done)),
    }[config.schedule]
    return config.lr * (config.floor + (1.0 - config.floor) * left)


def warmup_steps(steps: int, config: OptimConfig) -> int:
    """Steps of rising rate.

    Examples:
        >>> [warmup_steps(50, OptimConfig(warmup=w)) for w in (0, 0.1, 7)]
        [0, 5, 7]
    """
    return round(config.warmup * steps) if config.warmup < 1 else int(config.warmup)


def make_optimizers(model: nn.Module, config: OptimConfig) -> list[Optimizer]:
    """Of the kind that the config names; together they hold every trainable parameter once.

    Each heeds `found_inf`, as torch's fused ones do: a tensor on the device that is 1 where the step is
    to change nothing, which nothing waits for.

    Raises:
        ConfigError: If the kind has nothing to train here.
    """
    return OPTIMIZERS[config.kind](model, config)


def _adamw(model: nn.Module, config: OptimConfig) -> list[Optimizer]:
    return [_adamw_over(model.parameters(), _tables(model), config)]


def _muon(model: nn.Module, config: OptimConfig) -> list[Optimizer]:
    layers = blocks(cast("PreTrainedModel", model.base_model))
    linear = (m for m in layers.modules() if isinstance(m, nn.Linear | Conv1D))
    matrices = [m.weight for m in linear if m.weight.requires_grad]
    if not matrices:
        raise ConfigError(
            "optim.kind = muon trains the matrices of layers, but trained or adapter leaves none; "
            "take optim.kind = adamw"
        )
    taken = {id(p) for p in matrices}
    rest = [p for p in model.parameters() if p.requires_grad and id(p) not in taken]
    muon = Muon(
        matrices,
        lr=config.lr,
        weight_decay=config.weight_decay,
        momentum=config.momentum,
        adjust_lr_fn="match_rms_adamw",  # so that one rate and one decay suit both
    )
    return [muon, _adamw_over(rest, _tables(model), config)] if rest else [muon]


OPTIMIZERS: dict[str, Callable[[nn.Module, OptimConfig], list[Optimizer]]] = {
    "adamw": _adamw,
    "muon": _muon,
}


class Muon(torch.optim.Muon):
    """Muon that heeds `found_inf`."""

    found_inf: Tensor | None = None

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step, of which nothing is left where `found_inf` is 1.

        It holds a copy of its matrices meanwhile: with the momentum as much as AdamW holds always.
        """
        if self.found_inf is None:
            return super().step(closure)  # type: ignore[no-any-return, no-untyped-call]
        found = self.found_inf.bool()
        moved = [p for group in self.param_groups for p in group["params"] if p.grad is not None]
        before = [p.clone() for p in moved]
        for p in moved:
            momentum = self.state[p].setdefault("momentum_buffer", torch.zeros_like(p))
            p.grad = torch.where(found, momentum, p.grad)  # towards which it moves not at all
        loss = super().step(closure)  # type: ignore[no-untyped-call]
        for p, old in zip(moved, before, strict=True):
            p.copy_(torch.where(found, old, p))
        return loss  # type: ignore[no-any-return]


def _tables(model: nn.Module) -> set[int]:
    """Parameters of embeddings, by identity."""
    embeddings = (module for module in model.modules() if isinstance(module, nn.Embedding))
    return {id(p) for module in embeddings for p in module.parameters(recurse=False)}


def _adamw_over(
    parameters: Iterable[nn.Parameter], tables: set[int], config: OptimConfig
) -> torch.optim.AdamW:
    """AdamW over those that are trainable, fused; matrices decay, nothing else does."""
    trained = [p for p in parameters if p.requires_grad]
    decayed = [p for p in trained if p.ndim >= 2 and id(p) not in tables]
    rest = [p for p in trained if p.ndim < 2 or id(p) in tables]
    groups = [
        {"params": decayed, "weight_decay": config.weight_decay},
        {"params": rest, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [g for g in groups if g["params"]],
        lr=config.lr,
        betas=config.betas,
        eps=config.eps,
        fused=True,
    )
