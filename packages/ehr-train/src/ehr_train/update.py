"""What a gradient does to the weights: scale and norm, the guard, the optimizers, the average."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ehr_train.config import OptimConfig
from ehr_train.guard import Guard
from ehr_train.optim import make_optimizers
from ehr_train.scale.wrap import whole

ASIDE = "aside"
"""What optimizers hold of a parameter beside their own: its average while it learns, and while the
average is in its place, itself. So it is gathered, sharded and saved as theirs is."""


class Update:
    """The optimizers of a model, and what belongs to their step."""

    def __init__(
        self, model: nn.Module, config: OptimConfig, device: torch.device, *, scaled: bool = False
    ) -> None:
        """Make the optimizers of the model, which lies on the device.

        Args:
            model: Its trainable parameters are updated.
            config: Says how.
            device: Of the model.
            scaled: Whether gradients come from a loss that was multiplied by `guard.scale`.
        """
        self.model = model
        self.config = config
        self.optimizers = make_optimizers(model, config)
        self.guard = Guard(device, scaled=scaled)

    @property
    def scale(self) -> Tensor:
        """What the loss has to be multiplied by; a float32 scalar."""
        return self.guard.counts[3].float()

    def take(self, loss: Tensor, lr: float) -> tuple[Tensor, Tensor]:
        """Change weights by their gradients, or leave all as it is where something is not finite.

        Args:
            loss: Of the step, unscaled; a scalar.
            lr: Learning rate.

        Returns:
            The norm of the gradient before clipping, and 1 where nothing was changed, else 0; scalars.
        """
        if self.guard.scaled:
            self._unscale()
        norm = whole(nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip))
        found = self.guard.judge(loss, norm)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = lr
            optimizer.found_inf = found  # type: ignore[attr-defined]
            optimizer.step()
            del optimizer.found_inf  # type: ignore[attr-defined]
        if self.config.ema is not None:
            self._follow((1 - self.config.ema) * (1 - found))
        return norm, found

    def clear(self) -> None:
        """Forget the gradients."""
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """While it lasts the model holds the average of its weights, where one is kept."""
        self.swap()
        try:
            yield
        finally:
            self.swap()

    @torch.no_grad()
    def begin_average(self) -> None:
        """Set the weights aside of which optimizers hold something already."""
        for p, held in self._held():
            held[ASIDE] = p.detach().clone()

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange weights and what is set aside of them; nothing where nothing is."""
        for p, held in self._held():
            if ASIDE in held:
                weight = p.detach().clone()
                p.copy_(held[ASIDE])
                held[ASIDE].copy_(weight)

    @torch.no_grad()
    def _follow(self, share: Tensor) -> None:
        """Move the average by a share of what is missing; it begins with the weights of a first step."""
        for p, held in self._held():
            if ASIDE in held:
                held[ASIDE].lerp_(p, share)
            else:
                held[ASIDE] = p.detach().clone()

    def _held(self) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
        for optimizer in self.optimizers:
            yield from optimizer.state.items()

    def _unscale(self) -> None:
        inverse = 1 / self.scale
        for p in self.model.parameters():
            if p.grad is not None:
                p.grad.mul_(inverse)
