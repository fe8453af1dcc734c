"""One vector for each (subject, prediction time), read from a pretrained model.

n prediction times, T tokens in a batch, R rows read off it, D width.
"""

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl
import torch
from torch import Tensor
from tqdm import tqdm

from ehr_eval.features.config import FeaturesConfig
from ehr_eval.features.passes import Passes, batches, plan
from ehr_eval.features.pool import Pooling, pool_rows
from ehr_eval.frames import PRODUCER, labelled_rows, tell_tasks
from ehr_models.checkpoint import LoadedCheckpoint, load_checkpoint, require_same_vocabulary
from ehr_models.data.batch import Batch, pack
from ehr_models.data.cutoff import visible_tokens
from ehr_models.data.store import open_split
from ehr_models.data.tokens import Tokens, open_tokens
from ehr_models.heads.pooled import class_logits
from ehr_models.heads.token import hidden_states
from ehr_models.precision import autocast, resolve_precision
from ehr_tracking.arrow import labels as label_reader
from ehr_tracking.arrow.features import write_features
from ehr_tracking.arrow.label_files import label_source
from ehr_tracking.config import ConfigError, to_dict
from ehr_tracking.contracts import FEATURES
from ehr_tracking.files import PathLike
from ehr_tracking.manifest import new_artifact, refuse_existing, seal, source


def extract_features(
    checkpoint: PathLike,
    tokens: PathLike,
    labels: PathLike,
    out: PathLike,
    config: FeaturesConfig | None = None,
    *,
    device: str = "cpu",
    overwrite: bool = False,
) -> Path:
    """Write `features/1` for the union of all tasks' (subject, prediction time).

    A model sees the tokens known at the prediction time, that time included, and of those the
    newest that fit its context. A row at which nothing is known yet is all zeros; the manifest's
    config counts them as `rows_without_tokens`. Two runs on one machine give the same bits, on however
    many cores.

    Args:
        checkpoint: A run or checkpoint directory.
        tokens: `tokens/1` with the checkpoint's vocabulary.
        labels: Anyone's MEDS labels; the rows are the union over their tasks.
        out: Where the features shall be.
        config: Pooling, context, batches.
        device: As torch names it.
        overwrite: Replace features that are there.

    Returns:
        `out`.

    Raises:
        ContractError: If an input is not what it should be, or the vocabularies differ.
        ConfigError: If the context is longer than the model can take.
        UserError: If `out` exists.
    """
    checkpoint, tokens, labels, out = Path(checkpoint), Path(tokens), Path(labels), Path(out)
    config = config or FeaturesConfig()
    read = [checkpoint, tokens, labels]
    refuse_existing(out, FEATURES, overwrite=overwrite, inputs=read)
    token_set = open_tokens(tokens)
    loaded = load_checkpoint(checkpoint)
    require_same_vocabulary(loaded, token_set)
    reader = Reader(loaded, config, device=device)
    splits = {split: open_split(token_set, split) for split in token_set.splits}
    tables = label_reader.read_labels(labels, reader=PRODUCER, columns=config.labels)
    rows = labelled_rows(tables, subjects_of(splits), where=tokens)
    tell_tasks(labels, config.labels)
    width = loaded.model.config.hidden_size
    features, visible = read_rows(splits, rows, reader.read, width)
    blind = int((visible == 0).sum())
    resolved = {**to_dict(config), "pooling": reader.pooling, "context": reader.context}
    resolved["precision"] = reader.precision
    resolved["delay"] = token_set.manifest.config.get("delay") or {}
    with new_artifact(out, FEATURES, overwrite=overwrite, inputs=read) as partial:
        index = rows.select("subject_id", "prediction_time", "split").to_arrow()
        written = write_features(partial, features, index)
        seal(
            partial,
            FEATURES,
            producer=PRODUCER,
            config={**resolved, "rows_without_tokens": blind},
            seed=None,
            inputs={
                "checkpoint": loaded.source,
                "tokens": source(tokens),
                "labels": label_source(labels),
            },
            rows=written,
        )
    return out


class Reader:
    """A model in evaluation mode, and how it is read."""

    def __init__(
        self, checkpoint: LoadedCheckpoint, config: FeaturesConfig, *, device: str = "cpu"
    ) -> None:
        """Put the model on its device.

        Args:
            checkpoint: Its model, and the context of its training: positions beyond were never
                seen.
            config: How to read it.
            device: As torch names it.

        Raises:
            ConfigError: If the context is longer than the model can take, or the device is absent.
        """
        model = checkpoint.model
        causal = checkpoint.kind.sees == "past"
        self.context = context_of(checkpoint, config.context)
        try:
            self.device = torch.device(device)
            self.model = model.train(False).to(self.device)
        except (RuntimeError, AssertionError) as e:  # torch without CUDA asserts
            raise ConfigError(f"device {device!r}: {str(e).splitlines()[0]}") from None
        self.config = config
        self.precision = resolve_precision(config.precision, self.device)
        self.shared = causal and config.one_pass
        self.pooling: Pooling = (
            config.pooling if config.pooling != "auto" else "last" if causal else "mean"
        )

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
        passes = plan(tokens, subject, visible, context=self.context, shared=self.shared)

        def features(states: Tensor, batch: Passes, packed: Batch) -> Tensor:
            return pool_rows(states, packed.input_ids, batch, self.pooling)

        width = self.model.config.hidden_size
        return self.run(tokens, passes, features, (len(subject), width))

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

        return self.run(tokens, passes, outputs, (len(subject), self.model.config.num_labels))

    def run(
        self,
        tokens: Tokens,
        passes: Passes,
        head: Callable[[Tensor, Passes, Batch], Tensor],
        shape: tuple[int, int],
    ) -> npt.NDArray[np.float32]:
        """[n, C] what a head gives for the rows of each batch [R, C], from its states [T, D]."""
        found = np.zeros(shape, np.float32)

        @torch.inference_mode()
        def take(batch: Passes) -> int:
            packed = pack(tokens, batch.windows).to(self.device)
            with autocast(self.precision, self.device):
                told = head(hidden_states(self.model, packed), batch, packed)
            found[batch.rows] = told.float().cpu().numpy()
            return len(batch.rows)

        with (
            tqdm(total=len(found), unit="row", desc="reading", disable=None) as bar,
            _readers(self.device) as readers,
        ):
            for done in readers.map(take, batches(passes, self.config.batch_tokens)):
                bar.update(done)
        return found


@contextmanager
def _readers(device: torch.device) -> Iterator[ThreadPoolExecutor]:
    """A thread a core, each computing on that core alone; one for any other device."""
    cores = torch.get_num_threads()
    threads = cores if device.type == "cpu" else 1
    try:
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            yield pool
    finally:
        torch.set_num_threads(cores)  # what a thread sets is also what later threads begin with


def context_of(checkpoint: LoadedCheckpoint, asked: int | None) -> int:
    """Most tokens that a model is shown: as asked, else as in its training, which saw no positions beyond.

    Raises:
        ConfigError: If it is more than the model can take.
    """
    limit = int(checkpoint.model.config.max_position_embeddings)
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
