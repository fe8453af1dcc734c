"""From a checkpoint and what a user sets to an engine."""

import json
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ehr_eval.features.reader import context_of
from ehr_eval.generate.clock import Clock, HeadClock, TokenClock, time_tokens
from ehr_eval.generate.config import GenerateConfig, microseconds
from ehr_eval.generate.engine import Drawing, Engine
from ehr_eval.generate.prompts import dateless
from ehr_eval.generate.sampling import drawn_tokens
from ehr_eval.generate.spelling import TOKENIZER, Spelling
from ehr_eval.generate.stops import Stops
from ehr_models.checkpoint import LoadedCheckpoint
from ehr_models.data.tokens import Tokens
from ehr_models.decoding.decoder import Decoder, check_decodes
from ehr_models.forecasts.time import TimeHead
from ehr_models.heads.forecasts import forecast_head
from ehr_tracking.config import ConfigError
from ehr_tracking.errors import UserError


@dataclass(frozen=True, slots=True, eq=False)
class Built:
    """An engine, and what was decided for it."""

    engine: Engine
    prompt: int
    """Most tokens of a prompt."""
    dates: str
    """tokens or head"""


def build_engine(
    loaded: LoadedCheckpoint,
    splits: Mapping[str, Tokens],
    config: GenerateConfig,
    *,
    device: str = "cpu",
) -> Built:
    """Put together what draws futures.

    Args:
        loaded: A checkpoint.
        splits: Name -> tokens of its vocabulary; that of train tells what never has a date.
        config: What the user sets.
        device: As torch names it.

    Raises:
        ConfigError: If its kind cannot generate, nothing tells the time, the context is longer than the
            model takes, or the device is absent.
        UserError: If its vocabulary spells no events, or no token may be drawn.
    """
    check_decodes(loaded.kind)
    if loaded.head == "pooled":
        raise ConfigError(
            f"{loaded.directory} has a head over pooled states, none over tokens, so it cannot generate: "
            "give the model that it was fine-tuned from"
        )
    where = _device(device)
    spelling = Spelling.read(loaded.directory, device=where)
    if not spelling.codes:
        raise UserError(
            f"the tokens of {loaded.directory} spell descriptions, not codes, so no event can be told from "
            "them; generate with a model of another scheme"
        )
    never = dateless(splits, len(spelling.words))
    drawn = torch.from_numpy(drawn_tokens(spelling.words, config.suppress, never)).to(where)
    if not bool(drawn.any()):
        raise UserError(f"suppress = {list(config.suppress)}: no token is left to be drawn")
    context = context_of(loaded, config.context)
    decoder = Decoder(loaded.model, device=where, precision=config.precision)
    clock, dates = _clock(loaded, spelling, drawn, config, decoder)
    prompt = min(max(2, int(context * config.prompt)), context - 1)
    engine = Engine(
        decoder,
        spelling,
        clock,
        Stops(spelling, death=config.death, stop=config.stop, budget=config.budget),
        drawn,
        Drawing(
            samples=config.samples,
            horizon=microseconds(config.horizon),
            context=context,
            prompt=prompt,
            rows=config.rows,
            temperature=config.temperature,
            top_p=config.top_p,
            seed=config.seed,
        ),
        loose=dates == "tokens" and _between_visits(loaded.directory),
    )
    return Built(engine, prompt, dates)


def _clock(
    loaded: LoadedCheckpoint,
    spelling: Spelling,
    drawn: Tensor,
    config: GenerateConfig,
    decoder: Decoder,
) -> tuple[Clock, str]:
    tokens = time_tokens(spelling.words, drawn)
    if config.dates == "tokens" and not tokens:
        raise ConfigError(
            f"dates = tokens, but the vocabulary of {loaded.directory} has no time tokens"
        )
    if tokens and config.dates != "head":
        return TokenClock(spelling.words, drawn), "tokens"
    try:
        head = forecast_head(loaded.model, "time")
    except ConfigError as e:
        more = "" if tokens else ", and its vocabulary has no time tokens (scheme.time)"
        raise ConfigError(
            f"{loaded.directory}: nothing dates what it generates: {e}{more}"
        ) from None
    assert isinstance(head, TimeHead)
    embedding = decoder.model.get_input_embeddings()

    def embed(ids: Tensor) -> Tensor:
        found: Tensor = embedding(ids)
        return found.float()

    own = deepcopy(head).to(decoder.device, torch.float32)
    return HeadClock(own, embed, drawn, spelling.continuing), "head"


def _device(name: str) -> torch.device:
    try:
        torch.zeros(1, device=torch.device(name))
    except (RuntimeError, AssertionError) as e:  # torch without CUDA asserts
        raise ConfigError(f"device {name!r}: {str(e).splitlines()[0]}") from None
    return torch.device(name)


def _between_visits(directory: Path) -> bool:
    """Whether time tokens stand between visits only, as the tokenizer's config says."""
    tree = json.loads((directory / TOKENIZER).read_text(encoding="utf-8"))
    scheme = tree.get("config", {}).get("scheme", {})
    return isinstance(scheme, dict) and scheme.get("time") == "calendar"
