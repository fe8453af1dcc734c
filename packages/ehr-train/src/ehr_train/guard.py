"""Whether a step may change the model: by what is finite, decided and counted on the device.

All of it is a function of figures that are the same on every process, so all decide alike.
"""

from dataclasses import asdict, dataclass

import torch
from torch import Tensor

_FIRST, _MOST = 2.0**16, 2.0**32
"""Scales of an fp16 loss."""
_INTERVAL = 2000
"""Steps in a row without overflow after which the scale doubles."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Tally:
    """What a guard has counted, and the scale of the loss that it has come to."""

    skipped: int = 0
    """Steps whose loss or gradient was not finite."""
    in_a_row: int = 0
    """Of them the last ones, with none between that was taken."""
    overflows: int = 0
    """Steps passed over because the scaled gradient left the range of fp16."""
    scale: float = 1.0
    since: int = 0
    """Steps since the scale changed, or since an overflow."""


class Guard:
    """Judges steps; nothing waits for the device.

    Source of the scale: `torch.amp.GradScaler`, which doubles and halves alike, but decides for each
    optimizer by itself and waits for those that are not fused.
    """

    def __init__(self, device: torch.device, *, scaled: bool, interval: int = _INTERVAL) -> None:
        """Begin.

        Args:
            device: Where the figures are.
            scaled: Whether the loss is scaled, as fp16 needs it.
            interval: Steps in a row without overflow after which the scale doubles.
        """
        self.scaled = scaled
        self.interval = interval
        self.device = device
        self.counts = self._counted(Tally(scale=_FIRST if scaled else 1.0))
        """[5] float64, as in `Tally`."""

    def judge(self, loss: Tensor, norm: Tensor) -> Tensor:
        """1 where a step must change nothing, else 0; a float32 scalar.

        A gradient that is not finite although the loss is counts as an overflow while the scale can
        still fall; everything else that is not finite counts as skipped.

        Args:
            loss: Of the step, unscaled; a scalar.
            norm: Of its gradient, unscaled; a scalar.
        """
        skipped, in_a_row, overflows, scale, since = self.counts.unbind()
        finite = loss.isfinite() & norm.isfinite()
        overflow = loss.isfinite() & ~norm.isfinite() & (scale > 1)
        bad = ~finite & ~overflow
        since = torch.where(overflow, 0, since + finite)
        grows = (since >= self.interval) & self.scaled
        scale = torch.where(overflow, scale / 2, torch.where(grows, scale * 2, scale))
        self.counts = torch.stack(
            [
                skipped + bad,
                torch.where(bad, in_a_row + 1, torch.where(finite, 0, in_a_row)),
                overflows + overflow,
                scale.clamp(1, _MOST),
                torch.where(grows, 0, since),
            ]
        )
        return (~finite).float()

    def tally(self) -> Tally:
        """What there is; waits for the device."""
        skipped, in_a_row, overflows, scale, since = self.counts.tolist()
        return Tally(
            skipped=int(skipped),
            in_a_row=int(in_a_row),
            overflows=int(overflows),
            scale=scale,
            since=int(since),
        )

    def restore(self, tally: Tally) -> None:
        """Go on from there."""
        self.counts = self._counted(tally)

    def _counted(self, tally: Tally) -> Tensor:
        values = list(asdict(tally).values())
        return torch.tensor(values, dtype=torch.float64, device=self.device)
