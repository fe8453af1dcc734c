"""One vector for each narrative, read from a language model of transformers that lies in a directory.

n texts, L tokens of the longest of a batch, D width, K layers.
"""
# transformers leaves some methods untyped
# mypy: allow-untyped-calls

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import torch
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_MASKED_LM_MAPPING,
    AutoConfig,
    AutoModel,
    AutoTokenizer,
)

from ehr_eval.features.config import FeaturesConfig
from ehr_eval.features.passes import Passes
from ehr_eval.features.pool import combined, pool_rows, poolings
from ehr_eval.features.reader import on_device, reading_threads
from ehr_eval.frames import KEY, PRODUCER
from ehr_models.adapters.files import CONFIG as ADAPTED
from ehr_models.checkpoint import load_checkpoint
from ehr_models.data.windows import Windows, fill
from ehr_models.precision import autocast, resolve_precision
from ehr_tracking.config import ConfigError
from ehr_tracking.contracts import NARRATIVES, ContractError
from ehr_tracking.errors import UserError
from ehr_tracking.manifest import check_file, read_manifest

_FARTHEST = 1 << 20
"""Tokenizers without a limit say a number beyond this."""


class TextReader:
    """A model in evaluation mode with its tokenizer, and how it is read."""

    def __init__(self, directory: Path, config: FeaturesConfig, *, device: str = "cpu") -> None:
        """Load both from a directory; no code of it is run, and nothing is fetched.

        Args:
            directory: `config.json`, weights as safetensors or an `adapter/1`, and the tokenizer's files.
            config: How to read it.
            device: As torch names it.

        Raises:
            ContractError: If it holds no such model, or no tokenizer.
            ConfigError: If the context is longer than the model takes, it has no such layer, or the device is
                absent.
        """
        here: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
        try:
            about = AutoConfig.from_pretrained(directory, **here)
            self.tokenizer = AutoTokenizer.from_pretrained(directory, **here)
            if (directory / ADAPTED).is_file():
                model: Any = load_checkpoint(directory).model.base_model
            else:
                model = AutoModel.from_pretrained(directory, use_safetensors=True, **here)
        except (OSError, ValueError, KeyError) as e:
            raise ContractError(
                f"{directory} holds no language model with its tokenizer that transformers reads: "
                f"{' '.join(str(e).split())[:200]}"
            ) from None
        if about.is_encoder_decoder:
            raise UserError(f"{directory} is an encoder with a decoder; take one that is either")
        names = about.architectures or []
        causal = any("CausalLM" in name or "LMHead" in name for name in names) or (
            type(about) in MODEL_FOR_CAUSAL_LM_MAPPING
            and type(about) not in MODEL_FOR_MASKED_LM_MAPPING
        )
        self.config, self.pooling = config, poolings(config.pooling, causal=causal)
        self.context = _context(about, self.tokenizer, config.context)
        layers = int(about.num_hidden_layers) + 1
        for layer in config.layers:
            if not -layers <= layer < layers:
                raise ConfigError(
                    f"layer {layer}: {directory} has layers 0 (embeddings) to {layers - 1}"
                )
        self.model, self.device = on_device(model, device)
        self.precision = resolve_precision(config.precision, self.device)
        wide = len(config.layers) if config.combine == "concat" else 1
        self.width = int(about.hidden_size) * wide * len(self.pooling)
        self.tokenizer.truncation_side = "left"  # what is newest stands at the end
        if self.tokenizer.pad_token is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token or self.tokenizer.unk_token

    def read(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """[n, width]; zeros where there is no text.

        Texts of like lengths share a batch, padded on the right; with `exact` each goes alone.
        """
        found = np.zeros((len(texts), self.width), np.float32)
        there = np.array([i for i, text in enumerate(texts) if text.strip()], np.int64)
        if not len(there):
            return found
        ids = self.tokenizer([texts[i] for i in there], truncation=True, max_length=self.context)[
            "input_ids"
        ]
        length = np.array([len(each) for each in ids], np.int64)
        order = np.argsort(length, kind="stable")
        bounds = (
            fill(length[order], 0)
            if self.config.exact
            else _fit(length[order], self.config.batch_tokens)
        )
        groups = [order[a:b] for a, b in pairwise(bounds)]
        with reading_threads(self.device) as threads:
            done = threads.map(lambda group: self._pass([ids[i] for i in group]), groups)
            for group, vectors in zip(groups, done, strict=True):
                found[there[group]] = vectors
        return found

    @torch.inference_mode()
    def _pass(self, ids: Sequence[Sequence[int]]) -> npt.NDArray[np.float32]:
        length = np.array([len(each) for each in ids], np.int64)
        padded = torch.full((len(ids), int(length.max())), self.tokenizer.pad_token_id or 0)
        real = torch.arange(padded.shape[1])[None] < torch.from_numpy(length)[:, None]
        padded[real] = torch.tensor([token for each in ids for token in each])
        padded, real = padded.to(self.device), real.to(self.device)
        with autocast(self.precision, self.device):
            out = self.model(
                input_ids=padded, attention_mask=real.long(), output_hidden_states=True
            )
            layers = [out.hidden_states[layer] for layer in self.config.layers]
            states = combined(torch.cat(layers, -1)[real], len(layers), self.config.combine)
            rows = np.arange(len(ids))
            told = pool_rows(states, None, _whole(length, rows), self.pooling)
        return np.asarray(told.float().cpu().numpy())


def _whole(length: npt.NDArray[np.int64], rows: npt.NDArray[np.int64]) -> Passes:
    """Each text as a pass of its own that is seen to its end."""
    ends = np.cumsum(length)
    begin = ends - length
    return Passes(Windows(rows, begin, np.zeros_like(begin), begin, ends), rows, rows, length)


def _fit(length: npt.NDArray[np.int64], budget: int) -> list[int]:
    """Cut texts, shortest first, into batches of at most `budget` tokens with their padding.

    Examples:
        >>> _fit(np.array([1, 2, 3, 9]), budget=9)
        [0, 3, 4]
    """
    bounds = [0]
    for i, longest in enumerate(length.tolist()):
        if i > bounds[-1] and (i + 1 - bounds[-1]) * longest > budget:
            bounds.append(i)
    return [*bounds, len(length)]


def _context(about: Any, tokenizer: Any, asked: int | None) -> int:  # noqa: ANN401 -- of any architecture
    """Most tokens of a text.

    Raises:
        ConfigError: If more are asked for than the model takes.
    """
    limits = [getattr(about, "max_position_embeddings", None), tokenizer.model_max_length]
    limit = min([n for n in limits if isinstance(n, int) and 0 < n < _FARTHEST], default=None)
    if asked is not None and limit is not None and asked > limit:
        raise ConfigError(f"context = {asked}: the model takes at most {limit} tokens")
    found = asked or limit
    if found is None:
        raise ConfigError("the model names no longest text: set context")
    return found


def read_narratives(directory: Path) -> pl.DataFrame:
    """subject_id, prediction_time, split and text of all tasks, each (subject, time) once; sorted.

    Raises:
        ContractError: If it is unfinished or changed, or two tasks tell a row differently.
    """
    manifest = read_manifest(directory, NARRATIVES, reader=PRODUCER)
    columns = [*KEY, "split", "text"]
    paths = [check_file(directory, manifest, n) for n in manifest.files if n.endswith(".parquet")]
    if not paths:
        raise ContractError(f"{directory} holds no narratives")
    rows = pl.concat([pl.read_parquet(path, columns=columns) for path in paths]).unique().sort(KEY)
    if rows["prediction_time"].null_count():
        raise ContractError(
            f"{directory} tells whole records, which have no prediction times; make it with --labels"
        )
    twice = rows.filter(pl.struct(KEY).is_duplicated())
    if twice.height:
        raise ContractError(
            f"{directory} tells subject {twice['subject_id'][0]} at {twice['prediction_time'][0]} in two "
            "ways; make it anew"
        )
    return rows
