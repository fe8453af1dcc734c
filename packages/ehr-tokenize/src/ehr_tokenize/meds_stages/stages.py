"""Four stages over the pure functions of this package.

`ehr_fit_bins` and `ehr_fit_vocabulary` (map over shards, reduce) put what they fit into one
row of `codes.parquet`; `ehr_tokenize` (map) turns each shard into tokens; `ehr_seal` orders the
subjects and writes `tokens/1`. All read the settings of `TokenizeConfig` from the pipeline's key
`ehr_tokenize`, so that they cannot differ from stage to stage.
"""

import itertools
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
from MEDS_transforms.mapreduce import mapreduce_stage
from MEDS_transforms.stages import Stage
from omegaconf import DictConfig, OmegaConf

from ehr_tokenize.build.shards import to_table
from ehr_tokenize.codes.maps import resolve
from ehr_tokenize.config import TokenizeConfig
from ehr_tokenize.fit.fallback import fall_back, siblings
from ehr_tokenize.fit.passes import Observed, count_words, counts, finish, learn, observe
from ehr_tokenize.fit.selection import Count
from ehr_tokenize.meds.events import Events, events_of, gather_index
from ehr_tokenize.meds_stages.record import check_record
from ehr_tokenize.meds_stages.seal import SEALED, is_sealed, seal_shards, with_families
from ehr_tokenize.scheme.binding import bind
from ehr_tokenize.scheme.bins import Histogram
from ehr_tokenize.scheme.intake import Intake, extra_columns
from ehr_tokenize.scheme.weave import sequences
from ehr_tokenize.scheme.words import Fitted, Word
from ehr_tokenize.tokenizer.tokenizer import Tokenizer, fitted_from_dict, fitted_to_dict
from ehr_tracking.arrow.meds import COLUMNS, CodeInfo
from ehr_tracking.arrow.splits import Splits, read_splits
from ehr_tracking.config import validate
from ehr_tracking.errors import UserError

_KEY = "ehr_tokenize"
_STATE = "ehr_tokenize//fitted"
"""The row of `codes.parquet` whose columns hold what was fitted, as JSON."""
_FITTED, _COUNTS = "ehr/fitted", "ehr/counts"
_WORD = {"text": pl.String, "kind": pl.String, "key": pl.String, "number": pl.Int64}
_TOTAL = {"events": pl.Int64, "subjects": pl.Int64, "seconds": pl.Int64}
ShardMap = Callable[[pl.LazyFrame], pl.LazyFrame]


def read_config(cfg: DictConfig) -> TokenizeConfig:
    """The settings under `ehr_tokenize` of a pipeline.

    Raises:
        ConfigError: Naming each wrong key.
    """
    tree = OmegaConf.to_container(cfg.get(_KEY) or OmegaConf.create({}), resolve=True)
    named = {str(k): v for k, v in tree.items()} if isinstance(tree, dict) else {}
    config = validate(TokenizeConfig, named, where=_KEY)
    return replace(config, maps=resolve(config.maps))


def begin(cfg: DictConfig) -> TokenizeConfig:
    """The settings, once `output_dir` is known to have been begun with them.

    Raises:
        UserError: If it was begun with other settings or other input files.
    """
    config = read_config(cfg)
    stages = OmegaConf.to_container(cfg.stages) if cfg.get("stages") else None
    check_record(Path(cfg.output_dir), config, stages, Path(cfg.input_dir))
    return config


def to_events(df: pl.LazyFrame, config: TokenizeConfig) -> tuple[Events, list[str]]:
    """A shard as events, and the codes that they index.

    Raises:
        UserError: If rows are out of order or a subject's rows are not contiguous.
    """
    extra, there = extra_columns(config), df.collect_schema().names()
    wanted = dict.fromkeys([*COLUMNS, *extra.columns])
    read = df.select(n for n in wanted if n in there).collect()
    return events_of(read.to_arrow(), Path("shard"), extra)


def of_train(events: Events, splits: Splits) -> Events:
    """The subjects of the train split, wherever their files lie."""
    train = np.flatnonzero(splits.of(events.subject_id) == 0)
    length = np.diff(events.offsets)[train]
    at = gather_index(events.offsets[train], length)
    offsets = np.concatenate([[0], np.cumsum(length)])
    ids = None if events.visit_id is None else events.visit_id[at]
    column = events.time[at], events.code[at], events.value[at], ids
    return Events(events.subject_id[train], offsets, *column)


def map_values(cfg: DictConfig) -> ShardMap:
    """One row a code of the shard: its distinct values with their counts, events, and subjects."""
    config = read_config(cfg)
    splits = read_splits(Path(cfg.input_dir), seed=config.seed)

    def shard(df: pl.LazyFrame) -> pl.LazyFrame:
        events, raw = to_events(df, config)
        intake = Intake.of(raw, config)
        train = of_train(events, splits)
        seen, codes = observe(intake(train), config), intake.codes
        values = seen.histogram.values()
        where = dict(zip(*seen.histogram.by_code(), strict=True))
        at = [where.get(i, slice(0, 0)) for i in range(len(codes))]
        total = np.zeros(len(codes), np.int64)
        total[: len(seen.events)] = seen.events
        cuts = np.searchsorted(seen.carrier[0], np.arange(len(codes) + 1))
        return pl.LazyFrame(
            {
                "code": codes,
                "value": [values[s] for s in at],
                "count": [seen.histogram.count[s] for s in at],
                "events": total,
                "who": [seen.carrier[1, a:b] for a, b in itertools.pairwise(cuts)],
            },
            schema={
                "code": pl.String,
                "value": pl.List(pl.Float32),
                "count": pl.List(pl.Int64),
                "events": pl.Int64,
                "who": pl.List(pl.Int64),
            },
        )

    return shard


def reduce_values(*dfs: pl.LazyFrame, cfg: DictConfig, code_metadata: pl.DataFrame) -> pl.LazyFrame:
    """The codes there are, and the row of what was fitted."""
    frames = [df.collect() for df in dfs]
    codes = sorted(set().union(*(f["code"] for f in frames)))
    index = {code: i for i, code in enumerate(codes)}
    seen = Observed.merge([_observed(frame, index) for frame in frames])
    fitted = learn(seen, codes, read_infos(code_metadata), read_config(cfg))
    known = [c for c in code_metadata["code"].unique(maintain_order=True) if c and c != _STATE]
    state = json.dumps(fitted_to_dict(fitted))
    return pl.LazyFrame(
        {"code": [*known, _STATE], _FITTED: [None] * len(known) + [state]},
        schema={"code": pl.String, _FITTED: pl.String},
    )


def _observed(frame: pl.DataFrame, index: dict[str, int]) -> Observed:
    code = np.array([index[c] for c in frame["code"]], np.uint32)
    size, people = (frame[name].list.len().to_numpy() for name in ("value", "who"))
    long = frame.filter(pl.col("value").list.len() > 0).explode("value", "count")
    value, count = long["value"].to_numpy(), long["count"].to_numpy()
    who = frame.filter(pl.col("who").list.len() > 0).explode("who")["who"].to_numpy()
    events = np.zeros(len(index), np.int64)
    events[code] = frame["events"].to_numpy()
    return Observed(
        Histogram.weighted(np.repeat(code, size), value, count),
        np.stack([np.repeat(code, people).astype(np.int64), who.astype(np.int64)]),
        events,
    )


def map_words(cfg: DictConfig, code_metadata: pl.DataFrame) -> ShardMap:
    """One row a word of the shard: its events, subjects and seconds."""
    config, fitted = read_config(cfg), read_fitted(code_metadata, _FITTED)
    splits = read_splits(Path(cfg.input_dir), seed=config.seed)

    def shard(df: pl.LazyFrame) -> pl.LazyFrame:
        events, codes = to_events(df, config)
        binding, words = bind(Intake.of(codes, config), config, fitted, {})
        train = of_train(events, splits)
        found = counts([count_words(train, config, binding, siblings(words, config))], words)
        rows = [(*c.word, c.events, c.subjects, c.seconds, list(c.who)) for c in found]
        return pl.LazyFrame(
            rows, schema={**_WORD, **_TOTAL, "who": pl.List(pl.Int64)}, orient="row"
        )

    return shard


def reduce_words(*dfs: pl.LazyFrame, cfg: DictConfig, code_metadata: pl.DataFrame) -> pl.LazyFrame:
    """The codes there are, and the row of what was fitted with the counts of all words."""
    who = pl.col("who").explode().drop_nulls()
    total = pl.concat(dfs).group_by(*_WORD).agg(pl.col(*_TOTAL).sum(), who)
    rows = total.sort(*_WORD, nulls_last=False).collect().rows()
    found, fitted = fall_back(
        [Count(Word(*row[:4]), row[4], row[5], row[6], who=row[7]) for row in rows],
        read_fitted(code_metadata, _FITTED),
        read_config(cfg),
    )
    told = [
        (*c.word, c.events, c.subjects, c.seconds, c.common) for c in found
    ]  # who is nobody's business
    tree = json.dumps({"counts": told, **fitted_to_dict(fitted)})
    codes = code_metadata["code"].unique(maintain_order=True).to_list()
    state = [tree if c == _STATE else None for c in codes]
    return pl.LazyFrame(
        {"code": codes, _COUNTS: state}, schema={"code": pl.String, _COUNTS: pl.String}
    )


def map_tokens(cfg: DictConfig, code_metadata: pl.DataFrame) -> ShardMap:
    """The shard's subjects as token sequences, each with its events by family of codes."""
    config, infos = begin(cfg), read_infos(code_metadata)
    tokenizer = read_tokenizer(code_metadata, config)

    def shard(df: pl.LazyFrame) -> pl.LazyFrame:
        events, codes = to_events(df, config)
        binding = tokenizer.bind(codes, infos)
        made = sequences(events, tokenizer.config, binding)
        table = to_table(made, len(tokenizer))
        return pl.DataFrame(pl.from_arrow(with_families(table, made, binding.families))).lazy()

    return shard


def main_fit_bins(cfg: DictConfig) -> None:
    """Fit bins, roll-ups and subwords on train, into one row of `codes.parquet`."""
    _fit(cfg, _FITTED, map_values, reduce_values)


def main_fit_vocabulary(cfg: DictConfig) -> None:
    """Count the words of train, into one row of `codes.parquet`."""
    _fit(cfg, _COUNTS, map_words, reduce_words)


def _fit(
    cfg: DictConfig,
    column: str,
    map_fn: Callable[..., ShardMap],
    reduce_fn: Callable[..., pl.LazyFrame],
) -> None:
    begin(cfg)
    if cfg.worker == 0:
        # there after a kill just before the stage was noted as done; MEDS_transforms refuses it
        left = Path(cfg.stage_cfg.reducer_output_dir) / "codes.parquet"
        if left.is_file() and column in pl.read_parquet_schema(left):
            left.unlink()
    # MEDS_transforms takes a folder called train for the split; the maps look at the split itself
    cfg.stage_cfg.train_only = False
    mapreduce_stage(cfg, map_fn, reduce_fn)


def main_seal(cfg: DictConfig) -> None:
    """Order the subjects of all shards and seal them as one token data set in `tokens_dir`."""
    if cfg.worker != 0:  # a launcher starts all workers of a stage; one of them seals
        return
    config, mark = begin(cfg), Path(cfg.output_dir) / SEALED
    if not cfg.do_overwrite and is_sealed(Path(cfg.tokens_dir), mark):
        return
    metadata = pl.read_parquet(Path(cfg.stage_cfg.metadata_input_dir) / "codes.parquet")
    seal_shards(
        Path(cfg.stage_cfg.data_input_dir),
        Path(cfg.tokens_dir),
        meds=Path(cfg.input_dir),
        tokenizer=read_tokenizer(metadata, config),
        overwrite=bool(cfg.do_overwrite),
        mark=mark,
    )


def read_infos(code_metadata: pl.DataFrame) -> dict[str, CodeInfo]:
    """Descriptions and parents of the codes."""
    metadata = code_metadata.unique("code", keep="first", maintain_order=True)
    empty = [None] * len(metadata)
    columns = (
        metadata[name].to_list() if name in metadata.columns else empty
        for name in ("code", "description", "parent_codes")
    )
    return {c: CodeInfo(d, p) for c, d, p in zip(*columns, strict=True) if c is not None}


def read_fitted(code_metadata: pl.DataFrame, column: str) -> Fitted:
    """What `ehr_fit_bins` or `ehr_fit_vocabulary` left in the metadata."""
    return fitted_from_dict(json.loads(_state(code_metadata, column)))


def read_tokenizer(code_metadata: pl.DataFrame, config: TokenizeConfig) -> Tokenizer:
    """The tokenizer that both fitting stages left in the metadata."""
    rows = json.loads(_state(code_metadata, _COUNTS))["counts"]
    found = [Count(Word(*row[: len(_WORD)]), *row[len(_WORD) :]) for row in rows]
    infos = read_infos(code_metadata)
    return finish(found, read_fitted(code_metadata, _COUNTS), infos, config)


def _state(code_metadata: pl.DataFrame, column: str) -> str:
    if column not in code_metadata.columns:
        raise UserError("codes.parquet: nothing was fitted; run ehr_fit_bins, ehr_fit_vocabulary")
    return str(code_metadata.filter(pl.col("code") == _STATE)[column][0])


fit_bins = Stage.register(stage_name="ehr_fit_bins", main_fn=main_fit_bins, is_metadata=True)
fit_vocabulary = Stage.register(
    stage_name="ehr_fit_vocabulary", main_fn=main_fit_vocabulary, is_metadata=True
)
tokenize = Stage.register(stage_name="ehr_tokenize", map_fn=map_tokens)
seal = Stage.register(stage_name="ehr_seal", main_fn=main_seal, is_metadata=True)
