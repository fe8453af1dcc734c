"""AdamW and learning rates as functions of the step."""

import math

import torch
from torch import nn

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


def make_optimizer(model: nn.Module, config: OptimConfig) -> torch.optim.AdamW:
    """AdamW over the trainable parameters, fused; matrices decay, nothing else does."""
    embeddings = {
        id(p)
        for module in model.modules()
        if isinstance(module, nn.Embedding)
        for p in module.parameters(recurse=False)
    }
    trained = [p for p in model.parameters() if p.requires_grad]
    decayed = [p for p in trained if p.ndim >= 2 and id(p) not in embeddings]
    rest = [p for p in trained if p.ndim < 2 or id(p) in embeddings]
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
