"""A pretrained model, and what is read off its states.

n prediction times, T tokens in a batch, R rows read off it, D numbers a row.
"""

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import polars as pl
import torch
from torch import Tensor
from tqdm import tqdm
from transformers import PreTrainedModel

from ehr_eval.features.config import FeaturesConfig
from ehr_eval.features.passes import Passes, batches, plan
from ehr_eval.features.pool import combined, filled, pool_rows, poolings
from ehr_models.checkpoint import LoadedCheckpoint, OpenedCheckpoint
from ehr_models.data.batch import Batch, pack
from ehr_models.data.cutoff import visible_tokens
from ehr_models.data.tokens import Tokens
from ehr_models.heads.layers import Layers
from ehr_models.heads.pooled import class_logits
from ehr_models.heads.token import hidden_states
from ehr_models.precision import autocast, resolve_precision
from ehr_tracking.config import ConfigError


class Reader:
    """A model in evaluation mode, and how it is read."""

    def __init__(
        self,
        checkpoint: LoadedCheckpoint,
        config: FeaturesConfig,
        *,
        device: str = "cpu",
        quiet: bool = False,
    ) -> None:
        """Put the model on its device.

        Args:
            checkpoint: Its model, and the context of its training: positions beyond were never
                seen.
            config: How to read it.
            device: As torch names it.
            quiet: Show no bar.

        Raises:
            ConfigError: If the context is longer than the model can take, it has no such layer, or the
                device is absent.
        """
        self.quiet = quiet
        model = checkpoint.model
        causal = checkpoint.kind.sees == "past"
        self.context = context_of(checkpoint, config.context)
        self.model, self.device = on_device(model, device)
        self.config = config
        self.precision = resolve_precision(config.precision, self.device)
        # long convolutions by Fourier transforms round all of a pass together
        whole = config.exact and checkpoint.kind.isolates == "reset"
        self.shared = causal and config.one_pass and not whole
        self.pooling = poolings(config.pooling, causal=causal)
        self.layers = None if config.layers == (-1,) else Layers(model, config.layers)
        wide = len(config.layers) if config.combine == "concat" else 1
        self.width = int(model.config.hidden_size) * wide * len(self.pooling)

    def read(
        self, tokens: Tokens, subject: npt.NDArray[np.int64], visible: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.float32]:
        """Features of n rows of one split.

        On a CPU each core reads batches of its own: one batch on several cores would have them wait
        for each other in every operation.

        Args:
            tokens: The split.
            subject: [n] rows of `tokens`, equal ones side by side.
            visible: [n] visible tokens.

        Returns:
            [n, D]; zeros where nothing is visible.
        """
        passes = plan(
            tokens, subject, visible,
            context=self.context, shared=self.shared, exact=self.config.exact,
        )  # fmt: skip

        def features(states: Tensor, batch: Passes, packed: Batch) -> Tensor:
            states = combined(states, len(self.config.layers), self.config.combine)
            return pool_rows(states, packed.input_ids, batch, self.pooling)

        return self.run(tokens, passes, features, (len(subject), self.width), self.layers)

    def answer(
        self,
        tokens: Tokens,
        subject: npt.NDArray[np.int64],
        visible: npt.NDArray[np.int64],
        measurements: npt.NDArray[np.float32] | None = None,
    ) -> npt.NDArray[np.float32]:
        """What the model's own pooled head says of n rows of one split, each read by itself.

        Args:
            tokens: The split.
            subject: [n] rows of `tokens`, equal ones side by side.
            visible: [n] visible tokens.
            measurements: [n, M] as the head reads them.

        Returns:
            [n, C] outputs of the head; zeros where nothing is visible.

        Raises:
            UserError: If the head reads measurements, but there are none.
        """
        apart = (
            measurements is not None
        )  # rows that see the same may have been measured differently
        passes = plan(tokens, subject, visible, context=self.context, shared=False, apart=apart)

        def outputs(states: Tensor, batch: Passes, packed: Batch) -> Tensor:
            if measurements is not None:
                beside = torch.from_numpy(measurements[batch.rows]).to(states.device)
                packed = replace(packed, subject={"measurements": beside})
            of_window = class_logits(self.model, states, packed)
            return of_window[torch.from_numpy(batch.window).to(of_window.device)]

        return self.run(
            tokens, passes, outputs, (len(subject), int(self.model.config.num_labels or 0))
        )

    def run(
        self,
        tokens: Tokens,
        passes: Passes,
        head: Callable[[Tensor, Passes, Batch], Tensor],
        shape: tuple[int, int],
        layers: Layers | None = None,
    ) -> npt.NDArray[np.float32]:
        """[n, C] what a head gives for the rows of each batch [R, C], from its states [T, D]."""
        found = np.zeros(shape, np.float32)

        @torch.inference_mode()
        def take(batch: Passes) -> int:
            packed = filled(pack(tokens, batch.windows), batch).to(self.device)
            with autocast(self.precision, self.device):
                told = head(hidden_states(self.model, packed, layers), batch, packed)
            found[batch.rows] = told.float().cpu().numpy()
            return len(batch.rows)

        hidden = True if self.quiet else None
        with (
            tqdm(total=len(found), unit="row", desc="reading", disable=hidden) as bar,
            reading_threads(self.device) as threads,
        ):
            for done in threads.map(take, batches(passes, self.config.batch_tokens)):
                bar.update(done)
        return found


def on_device(model: PreTrainedModel, device: str) -> tuple[PreTrainedModel, torch.device]:
    """A model in evaluation mode where it shall compute.

    Raises:
        ConfigError: If the device is absent.
    """
    try:
        where = torch.device(device)
        return model.train(False).to(where), where
    except (RuntimeError, AssertionError) as e:  # torch without CUDA asserts
        raise ConfigError(f"device {device!r}: {str(e).splitlines()[0]}") from None


@contextmanager
def reading_threads(device: torch.device) -> Iterator[ThreadPoolExecutor]:
    """A thread a core, each computing on that core alone; one for any other device."""
    cores = torch.get_num_threads()
    threads = cores if device.type == "cpu" else 1
    try:
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            yield pool
    finally:
        torch.set_num_threads(cores)  # what a thread sets is also what later threads begin with


def context_of(checkpoint: OpenedCheckpoint, asked: int | None) -> int:
    """Most tokens that a model is shown: as asked, else as in its training, which saw no positions beyond.

    Raises:
        ConfigError: If it is more than the model can take.
    """
    limit = int(checkpoint.config.max_position_embeddings)
    if asked is not None and asked > limit:
        raise ConfigError(f"context = {asked}: the model takes at most {limit} tokens")
    data = checkpoint.manifest.config.get("data")
    trained = data.get("context") if isinstance(data, dict) else None
    return asked or min(limit, trained if isinstance(trained, int) and trained else limit)


def subjects_of(splits: Mapping[str, Tokens]) -> pl.DataFrame:
    """subject_id, split, subject_row of every subject."""
    return pl.concat(
        [
            pl.DataFrame(
                {
                    "subject_id": tokens.subject_id,
                    "split": [split] * len(tokens),
                    "subject_row": np.arange(len(tokens)),
                }
            )
            for split, tokens in splits.items()
        ]
    )


def read_rows(
    splits: Mapping[str, Tokens],
    rows: pl.DataFrame,
    read: Callable[..., npt.NDArray[np.float32]],
    width: int,
    measurements: npt.NDArray[np.float32] | None = None,
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """What is read of rows in several splits.

    Args:
        splits: Name -> tokens.
        rows: [n] prediction_time, split, subject_row; those of a subject side by side.
        read: `Reader.read` or `Reader.answer`.
        width: C, of what it gives.
        measurements: [n, M] that `Reader.answer` takes with them.

    Returns:
        [n, C], and [n] how many tokens each row sees.
    """
    found = np.zeros((rows.height, width), np.float32)
    visible = np.zeros(rows.height, np.int64)
    for split, tokens in splits.items():
        chosen = np.flatnonzero((rows["split"] == split).to_numpy())
        subject = rows["subject_row"].to_numpy()[chosen]
        time = rows["prediction_time"].dt.epoch("us").to_numpy()[chosen]
        visible[chosen] = visible_tokens(tokens, subject, time)
        beside = () if measurements is None else (measurements[chosen],)
        found[chosen] = read(tokens, subject, visible[chosen], *beside)
    return found, visible
