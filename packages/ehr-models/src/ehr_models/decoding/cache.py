"""Keys and values of shared prefixes, each kept once, and of what rows added to them.

It is the `past_key_values` of transformers' decoders, so the architectures stay as they are: `update`
keeps what a layer made, and the attention of `layers.attention` comes back to `attend`.

S prefixes, R rows, T tokens in a prefill, H heads, G key/value heads (H = G but for grouped queries),
D width of a head, P tokens of a prefix, L places of the buffers.
"""
# torch and transformers leave some functions untyped
# mypy: allow-untyped-calls

from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from transformers import Cache

from ehr_models.decoding.lay import Lay
from ehr_models.decoding.parts import attend, join

ROWS, PLACES = 16, 64
"""Buffers hold a multiple of so many."""


class View(NamedTuple):
    """What a window leaves to see in a step."""

    own: Tensor | None
    """Mask [R, 1, 1, places] of what rows added, by slot"""
    parts: list[tuple[int, Tensor | None]]
    """Of each prefix where the part begins that is seen, and a mask [r, P - start] for its rows"""


class SharedCache(Cache):
    """The cache of one decoder.

    Args:
        layers: Of the model.
        device: Where it computes.
        dtype: Of keys and values.
    """

    def __init__(self, layers: int, device: torch.device, dtype: torch.dtype) -> None:
        super().__init__(layers=[])
        self.depth, self.device, self.dtype = layers, device, dtype
        self.prefixes: list[tuple[Tensor, Tensor]] = []
        """S of keys and values [layers, G, P, D]"""
        self.own: Tensor | None = None
        """[layers, 2, rows, G, L, D] of what rows added, by slot"""
        self._filling: list[int] = []
        self._groups: list[tuple[int, int]] = []
        self._together: Tensor | None = None
        self._apart: Tensor | None = None
        self._length = torch.zeros(0, dtype=torch.int64, device=device)
        self._place = self._length
        self._longest = 0
        self._mask: Tensor | None = None
        self._lengths: npt.NDArray[np.int64] = np.zeros(0, np.int64)
        self._order: npt.NDArray[np.int64] = np.zeros(0, np.int64)
        self._views: dict[int, View] = {}

    def fill(self, lengths: list[int]) -> None:
        """The next forward is over new prefixes of these lengths, laid end to end."""
        self._filling = lengths

    def lay(self, lay: Lay) -> None:
        """Follow where rows lie; called whenever that changed."""
        self._filling = []
        order = self._order = np.argsort(lay.group, kind="stable")
        bounds = np.searchsorted(lay.group[order], np.arange(len(lay.prefix) + 1)).tolist()
        self._groups = list(pairwise(bounds))
        moved = bool((np.diff(order) != 1).any())
        self._together = self.tensor(order) if moved else None
        self._apart = self.tensor(np.argsort(order)) if moved else None
        self._length = self.tensor(lay.length)

    def tensor(self, values: npt.NDArray[np.int64]) -> Tensor:
        """A copy on the device."""
        return torch.from_numpy(values).to(self.device, copy=True)

    def begin(self, length: npt.NDArray[np.int64]) -> None:
        """Each row is about to add a token.

        Args:
            length: [R] by slot, tokens of its own until now.
        """
        rows, self._longest = len(length), int(length.max()) + 1
        self._lengths, self._views = length.copy(), {}
        own = self._reserve(rows, self._longest)
        heads, places = own.shape[3:5]
        at = torch.arange(rows * heads, device=self.device) * places
        self._place = at + self._length.repeat_interleave(heads, output_size=rows * heads)
        self._mask = None
        if int(length.min()) + 1 < self._longest:
            beyond = torch.arange(self._longest, device=self.device) > self._length[:, None]
            mask = torch.zeros(beyond.shape, dtype=self.dtype, device=self.device)
            self._mask = mask.masked_fill_(beyond, -torch.inf)[:, None, None]

    def end(self) -> None:
        """Each row has added it."""
        self._length += 1

    def move(self, source: npt.NDArray[np.int64], target: npt.NDArray[np.int64]) -> None:
        """Copy what rows added from slots to slots; rows beyond the buffers have added nothing yet."""
        if self.own is None:
            return
        there = source < self.own.shape[2]
        if there.any():
            places = self.own[:, :, :, :, : self._longest]
            places[:, :, self.tensor(target[there])] = places[:, :, self.tensor(source[there])]

    def _reserve(self, rows: int, places: int) -> Tensor:
        """Room for so many rows of so many tokens: what is too small becomes half as large again."""
        old = self.own
        had = (0, 0) if old is None else (old.shape[2], old.shape[4])
        if old is not None and rows <= had[0] and places <= had[1]:
            return old
        layers, heads, _, width = self.prefixes[0][0].shape
        # more places come with as few rows as there are by then: many may have ended
        size = (
            _larger(rows, had[0] if places <= had[1] else 0, ROWS),
            _larger(places, had[1], PLACES),
        )
        # zeros, since what is masked counts nothing times its value, and that must be a number
        own = torch.zeros(
            layers, 2, size[0], heads, size[1], width, dtype=self.dtype, device=self.device
        )
        if old is not None:
            kept = min(rows, had[0])
            own[:, :, :kept, :, : had[1]] = old[:, :, :kept]
        self.own = own
        return own

    def update(
        self,
        key_states: Tensor,
        value_states: Tensor,
        layer_idx: int,
        *_: Any,  # noqa: ANN401 -- transformers' own arguments
        **__: Any,  # noqa: ANN401 -- transformers' own arguments
    ) -> tuple[Tensor, Tensor]:
        """Keep what a layer made: [1, G, T, D] of new prefixes, or [R, G, 1, D] of a step.

        Returns:
            The same, which attention within new prefixes goes by.
        """
        for part, states in enumerate((key_states, value_states)):
            if self._filling:
                self._fill(states, layer_idx, part)
            elif self.own is not None:
                flat = self.own[layer_idx, part].view(-1, states.shape[3])
                new = states.to(self.dtype).reshape(-1, states.shape[3])
                flat.index_copy_(0, self._place, new)
        return key_states, value_states

    def _fill(self, states: Tensor, layer: int, part: int) -> None:
        """Keep the keys or values [1, G, T, D] of new prefixes."""
        if layer == part == 0:
            self.prefixes += [self._prefix(states, n) for n in self._filling]
        new = self.prefixes[-len(self._filling) :]
        for prefix, piece in zip(new, states[0].split(self._filling, 1), strict=True):
            prefix[part][layer] = piece

    def _prefix(self, like: Tensor, length: int) -> tuple[Tensor, Tensor]:
        """Room for a prefix; fp32 keys lie by dimension, as the product with few queries is faster so."""
        shape = (self.depth, like.shape[1], length, like.shape[3])
        keys, values = (torch.empty(shape, dtype=self.dtype, device=self.device) for _ in range(2))
        return keys.view(
            *shape[:2], shape[3], length
        ).mT if self.dtype == torch.float32 else keys, values

    def attend(self, layer: int, query: Tensor, scale: float, window: int | None = None) -> Tensor:
        """What the next token of each row sees: its prefix, what it added, and itself.

        Args:
            layer: Its number.
            query: [R, H, 1, D]
            scale: Of the logits.
            window: It sees tokens at a distance below this alone.

        Returns:
            [R, 1, H, D]
        """
        if self.own is None:
            raise AssertionError("`begin` reserves it")
        rows, heads, _, width = query.shape
        keys, values = self.own[layer, :, :rows, :, : self._longest]
        by_head = query.to(self.dtype).view(rows, keys.shape[1], -1, width)
        view = None if window is None else self._view(window)
        added = attend(by_head, keys, values, scale, view.own if view else self._mask)
        seen = join(added, self._shared(layer, by_head, scale, view))
        return seen.to(self.dtype).view(rows, 1, heads, width)

    def _view(self, window: int) -> "View":
        """What a window leaves to see in this step; the same for every layer that has it."""
        if window not in self._views:
            spans = zip(self._groups, self.prefixes, strict=True)
            sizes = [(a, b, keys.shape[2]) for (a, b), (keys, _) in spans]
            first = {a: self._lengths[self._order[a:b]] + size - window + 1 for a, b, size in sizes}
            own = self._mask
            if self._longest > window:
                place = torch.arange(self._longest, device=self.device)
                behind = place <= self._length[:, None] - window
                own = torch.zeros(behind.shape, dtype=self.dtype, device=self.device)[:, None, None]
                own = own if self._mask is None else own + self._mask
                own = own.masked_fill(behind[:, None, None], -torch.inf)
            parts = [self._part(first[a], size) for a, _, size in sizes]
            self._views[window] = View(own, parts)
        return self._views[window]

    def _part(self, first: npt.NDArray[np.int64], size: int) -> tuple[int, Tensor | None]:
        """Where the part of a prefix begins that a row of its group sees, and what each sees of it.

        Args:
            first: [r] the first place that each row sees; beyond the last where it sees none.
            size: P
        """
        start = min(max(int(first.min()), 0), size - 1)
        if int(first.max()) <= start:
            return start, None
        hidden = torch.arange(start, size, device=self.device) < self.tensor(first)[:, None]
        mask = torch.zeros(hidden.shape, dtype=self.dtype, device=self.device)
        # no -inf: of a row that sees none, the weight is to be nothing, and no undefined number
        return start, mask.masked_fill_(hidden, torch.finfo(self.dtype).min)

    def _shared(
        self, layer: int, query: Tensor, scale: float, view: "View | None"
    ) -> tuple[Tensor, Tensor]:
        """The prefixes' part: each is attended once, for all of its rows.

        Args:
            layer: Its number.
            query: [R, G, H / G, D] by slot.
            scale: Of the logits.
            view: What of the prefixes is seen, where that is not all.

        Returns:
            The same shape, and [R, G, H / G].
        """
        rows, heads, each, width = query.shape
        if self._together is not None:
            query = query.index_select(0, self._together)
        query = query.transpose(0, 1).reshape(1, heads, rows * each, width)
        seen = view.parts if view else [(0, None)] * len(self._groups)
        parts = [
            attend(
                query[:, :, a * each : b * each],
                keys[layer, None, :, start:],
                values[layer, None, :, start:],
                scale,
                None if mask is None else mask.repeat_interleave(each, 0)[None, None],
            )
            for (a, b), (keys, values), (start, mask) in zip(
                self._groups, self.prefixes, seen, strict=True
            )
        ]
        outs, totals = (
            torch.cat(x, 2).view(heads, rows, each, -1) for x in zip(*parts, strict=True)
        )
        if self._apart is not None:
            outs, totals = (x.index_select(1, self._apart) for x in (outs, totals))
        return outs.transpose(0, 1), totals.transpose(0, 1).squeeze(-1)


def _larger(needed: int, had: int, multiple: int) -> int:
    """What there is if it will do; else half as much again, or more, as a multiple.

    Examples:
        >>> [_larger(5, 8, 4), _larger(9, 8, 4), _larger(30, 8, 4)]
        [8, 12, 32]
    """
    return had if needed <= had else -(-max(needed, had * 3 // 2) // multiple) * multiple
