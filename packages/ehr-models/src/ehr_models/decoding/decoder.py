"""Decoding many rows from few prefixes, one token at a time.

S prefixes, R rows, T tokens, D width, V vocabulary.
"""
# torch and transformers leave some functions untyped
# mypy: allow-untyped-calls

from collections.abc import Mapping
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from ehr_models.data.batch import Batch
from ehr_models.data.windows import fill
from ehr_models.decoding.cache import SharedCache
from ehr_models.decoding.lay import Lay
from ehr_models.decoding.lean import lean
from ehr_models.heads.token import token_logits
from ehr_models.kinds import KINDS, kind_of
from ehr_models.kinds.record import Kind
from ehr_models.layers.attention import no_mask
from ehr_models.precision import autocast, resolve_precision
from ehr_tracking.config import ConfigError

PREFILL_TOKENS = 4096
"""Of prefixes that are read in one forward, at most, where they are several."""


class Decoder:
    """Decodes R rows from S shared prefixes; any kind that is `incremental`.

    A prefix is computed and kept once, and attended to once for all of its rows, which add their own
    tokens to it. Rows may have added different numbers of tokens: `prefill` may be called while others
    run, and `keep` lets rows go. Buffers stay and grow in chunks. All is done on the device, and a step
    waits for nothing from there.

    Weights are shared with the model that is given, but for bf16, in which a copy of its matrices is
    kept (what autocast would make of them in every step). The model itself is left as it is.

    Args:
        model: From `registry.build` or `load_checkpoint`, of a causal kind.
        device: Where to decode; where the model lies if not given.
        precision: As in training: fp32, bf16, or what suits the device.

    Raises:
        ConfigError: If its kind cannot decode so.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        device: torch.device | str | None = None,
        precision: Literal["auto", "fp32", "bf16"] = "auto",
    ) -> None:
        self.kind = kind_of(model.config)
        check_decodes(self.kind)
        self.device = torch.device(device) if device is not None else model.device
        self.precision = resolve_precision(precision, self.device)
        dtype = torch.bfloat16 if self.precision == "bf16" else torch.float32
        self.model = lean(model, self.device, dtype)
        """In evaluation mode on the device, to be called by `logits` or within `context`."""
        self.max_positions = int(model.config.max_position_embeddings)
        """Tokens of a prefix and its row together, at most."""
        self._cache = SharedCache(model.config.num_hidden_layers, self.device, dtype)
        self._lay = Lay()
        self._follow()

    @property
    def rows(self) -> int:
        """R, how many there are."""
        return len(self._lay)

    @property
    def positions(self) -> np.ndarray:
        """[R] int64, where the next token of each row will stand, below `max_positions`; on the host."""
        return self._lay.position[self._lay.slot]

    def context(self) -> torch.autocast:
        """In which `model` computes; beside it, `torch.inference_mode` is meant to hold."""
        return autocast(self.precision, self.device)

    @torch.inference_mode()
    def prefill(self, batch: Batch, copies: Tensor) -> Tensor:
        """Begin rows behind those that there are.

        Args:
            batch: S spans; each is read once.
            copies: [S] int64, rows that go on from each; from 0, which leaves it out.

        Returns:
            [sum(copies), D] the state of the last token of each new row, by span, then copy.

        Raises:
            ConfigError: If a span is longer than the model reads.
        """
        batch, count = batch.to(self.device), copies.tolist()
        bounds = batch.cu_seqlens.tolist()
        lengths = np.diff(bounds)
        if lengths.max() > self.max_positions:
            raise ConfigError(
                f"a prefix of {lengths.max()} tokens, but this {self.kind.name} reads "
                f"{self.max_positions}: give it shorter ones"
            )
        states = [
            self._read(batch, bounds[a : b + 1]) for a, b in pairwise(fill(lengths, PREFILL_TOKENS))
        ]
        new = self._cache.prefixes[self._lay.spans :]
        self._cache.prefixes[self._lay.spans :] = [p for p, n in zip(new, count, strict=True) if n]
        self._lay.append(lengths.tolist(), count)
        self._follow()
        return torch.cat(states).repeat_interleave(
            copies.to(self.device), 0, output_size=sum(count)
        )

    def _read(self, batch: Batch, bounds: list[int]) -> Tensor:
        """Compute and keep some of the prefixes of a batch; the states [s, D] of their last tokens.

        Args:
            batch: All of them.
            bounds: [s + 1] where these begin, and the last ends.
        """
        lengths = np.diff(bounds).tolist()
        self._cache.fill(lengths)
        inputs = {
            name: getattr(batch, field)[None, bounds[0] : bounds[-1]]
            for name, field in self.kind.inputs.items()
        }
        ends = self._cache.tensor(np.asarray(bounds, np.int64) - bounds[0])
        spans = {"cu_seq_lens_q": ends.to(torch.int32), "max_length_q": max(lengths)}
        return self._forward(inputs, **spans)[0, ends[1:] - 1]

    @torch.inference_mode()
    def step(self, input_ids: Tensor, inputs: Mapping[str, Tensor]) -> Tensor:
        """Each row goes on by one token.

        Args:
            input_ids: [R] int64
            inputs: What the kind hears besides, by field of `Batch`: `age` [R] float32 days, `time` [R]
                int64 microseconds; more does no harm. Positions are counted here.

        Returns:
            [R, D] states of these tokens.

        Raises:
            ConfigError: If a row is already as long as the model reads.
        """
        lay = self._lay
        position = lay.position
        if position.max(initial=0) >= self.max_positions:
            raise ConfigError(
                f"a row would grow beyond the {self.max_positions} tokens that this {self.kind.name} "
                "reads: begin with shorter prefixes, or let rows end before (`Decoder.positions`)"
            )
        if not len(lay):
            raise ValueError("there is no row to go on with")
        given = {**inputs, "input_ids": input_ids}
        self._cache.begin(lay.length)
        rows = {
            name: (self._position if field == "position_ids" else self._by_slot(given[field]))[
                :, None
            ]
            for name, field in self.kind.inputs.items()
        }
        states = self._forward(rows, decoding=self._cache)[:, 0]
        self._cache.end()
        self._position += 1
        lay.length += 1
        return states if self._slot is None else states.index_select(0, self._slot)

    def _by_slot(self, values: Tensor) -> Tensor:
        values = values.to(self.device)
        return values if self._order is None else values.index_select(0, self._order)

    def _forward(self, inputs: dict[str, Tensor], **options: Any) -> Tensor:  # noqa: ANN401 -- for the attention
        """The architecture's own forward, with our cache in it; a tensor in, a tensor out.

        Of a step, every shape and address but the longest row is that of the step before: it is what a
        CUDA graph would hold.
        """
        with self.context():
            out = self.model.base_model(
                **inputs,
                **options,
                attention_mask=no_mask(self.device),
                past_key_values=self._cache,
                use_cache=True,
            )
        states: Tensor = out.last_hidden_state
        return states

    @torch.inference_mode()
    def keep(self, rows: Tensor) -> None:
        """Only these rows go on, in this order; prefixes without rows are forgotten.

        It waits for the device, and copies what as many rows added as have ended. Best called once
        some have.

        Args:
            rows: [n] int64 of 0..R-1, none twice.
        """
        moves = self._lay.keep(rows.cpu().numpy().astype(np.int64))
        self._cache.move(moves.source, moves.target)
        self._cache.prefixes = [self._cache.prefixes[i] for i in moves.prefixes]
        self._follow()

    @torch.inference_mode()
    def logits(self, states: Tensor) -> Tensor:
        """Logits of the next token, [M, V] float32 over the true vocabulary, from states [M, D]."""
        with self.context():
            return token_logits(self.model, states).float()

    def _follow(self) -> None:
        """Bring to the device where rows lie now."""
        lay, cache = self._lay, self._cache
        cache.lay(lay)
        moved = bool((lay.slot != np.arange(len(lay))).any())
        self._slot = cache.tensor(lay.slot) if moved else None
        self._order = cache.tensor(np.argsort(lay.slot)) if moved else None
        self._position = cache.tensor(lay.position)


def check_decodes(kind: Kind) -> None:
    """Raise unless a kind can go on token by token.

    Raises:
        ConfigError: Saying which kinds can.
    """
    if _decodes(kind):
        return
    able = ", ".join(k.name for k in KINDS.values() if _decodes(k))
    why = "sees all tokens of a record at once" if kind.sees == "all" else "has no cache to share"
    raise ConfigError(f"model kind {kind.name} {why}, so it cannot generate: choose one of {able}")


def _decodes(kind: Kind) -> bool:
    return kind.sees == "past" and kind.incremental and kind.isolates == "spans"
