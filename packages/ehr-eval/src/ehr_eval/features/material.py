"""What features are read from: a model with tokens, or a language model with narratives.

n rows (one a subject and prediction time), d features.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from multiprocessing import parent_process
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import polars as pl
import torch

from ehr_eval.features.config import FeaturesConfig
from ehr_eval.features.reader import Reader, read_rows, subjects_of
from ehr_eval.features.texts import TextReader, read_narratives
from ehr_eval.frames import PRODUCER
from ehr_eval.workers import rank
from ehr_models.checkpoint import load_checkpoint, require_same_vocabulary
from ehr_models.data.cutoff import visible_tokens
from ehr_models.data.store import open_split
from ehr_models.data.tokens import open_tokens
from ehr_tracking.contracts import NARRATIVES, TOKENS
from ehr_tracking.manifest import Source, raw_source, read_manifest, source

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Setting:
    """What each process opens: a model and what it reads."""

    checkpoint: Path
    given: Path
    """`tokens/1`, or `narratives/1` where the model is one of language."""
    text: bool
    config: FeaturesConfig
    device: str


class Material(Protocol):
    """A model, and the rows that it can read."""

    about: Mapping[str, Any]
    """Of the settings, what model and rows decide."""
    inputs: Mapping[str, Source]
    width: int
    """d"""

    def rows(self) -> pl.DataFrame:
        """Who is there: a row a subject, or a row a narrative."""
        ...

    def blind(self, rows: pl.DataFrame) -> int:
        """How many rows see nothing."""
        ...

    def read(self, rows: pl.DataFrame) -> Floats:
        """[n, d]; zeros where nothing is seen."""
        ...


@lru_cache(maxsize=1)
def opened(setting: Setting) -> Material:
    """Once in each process; `cuda` is a GPU a worker.

    Raises:
        ContractError: If an input is not what it should be, or the vocabularies differ.
        ConfigError: If the context is longer than the model takes, it has no such layer, or the device is absent.
    """
    device = setting.device
    if parent_process() is not None:
        torch.set_num_threads(1)
        if device == "cuda" and torch.cuda.device_count() > 1:
            device = f"cuda:{rank() % torch.cuda.device_count()}"
    return _Narratives(setting, device) if setting.text else _Tokens(setting, device)


class _Tokens:
    """Subjects of token splits; rows have `split` and `subject_row`."""

    def __init__(self, setting: Setting, device: str) -> None:
        token_set = open_tokens(setting.given)
        loaded = load_checkpoint(setting.checkpoint)
        require_same_vocabulary(loaded, token_set)
        self.reader = Reader(loaded, setting.config, device=device, quiet=True)
        self.splits = {split: open_split(token_set, split) for split in token_set.splits}
        self.width = self.reader.width
        self.inputs: Mapping[str, Source] = {
            "checkpoint": loaded.source,
            "tokens": source(setting.given),
        }
        self.about: Mapping[str, Any] = {
            "pooling": "+".join(self.reader.pooling),
            "context": self.reader.context,
            "precision": self.reader.precision,
            "delay": read_manifest(setting.given, TOKENS, reader=PRODUCER).config.get("delay")
            or {},
        }

    def rows(self) -> pl.DataFrame:
        """subject_id, split, subject_row."""
        return subjects_of(self.splits)

    def blind(self, rows: pl.DataFrame) -> int:
        """By what the tokens say."""
        found = 0
        for split, tokens in self.splits.items():
            mine = rows.filter(split=split)
            time = mine["prediction_time"].dt.epoch("us").to_numpy()
            found += int((visible_tokens(tokens, mine["subject_row"].to_numpy(), time) == 0).sum())
        return found

    def read(self, rows: pl.DataFrame) -> Floats:
        """Split by split."""
        return read_rows(self.splits, rows, self.reader.read, self.width)[0]


class _Narratives:
    """Texts; rows have `split` and `text`."""

    def __init__(self, setting: Setting, device: str) -> None:
        manifest = read_manifest(setting.given, NARRATIVES, reader=PRODUCER)
        self.reader = TextReader(setting.checkpoint, setting.config, device=device)
        self.given, self.width = setting.given, self.reader.width
        self.inputs: Mapping[str, Source] = {
            "checkpoint": raw_source(setting.checkpoint, contract="huggingface"),
            "narratives": source(setting.given),
        }
        self.about: Mapping[str, Any] = {
            "pooling": "+".join(self.reader.pooling),
            "context": self.reader.context,
            "precision": self.reader.precision,
            "delay": manifest.config.get("delay") or {},
        }

    def rows(self) -> pl.DataFrame:
        """subject_id, prediction_time, split, text."""
        return read_narratives(self.given)

    def blind(self, rows: pl.DataFrame) -> int:
        """Empty texts."""
        return int((rows["text"].str.strip_chars() == "").sum())

    def read(self, rows: pl.DataFrame) -> Floats:
        """All at once."""
        return self.reader.read(rows["text"].to_list())
