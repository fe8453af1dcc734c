"""Four stages over the pure functions of this package.

`ehr_fit_bins` and `ehr_fit_vocabulary` (map over train shards, reduce) put what they fit into
`codes.parquet`; `ehr_tokenize` (map) turns each shard into tokens; `ehr_seal` orders the subjects
and writes `tokens/1`. All read the settings of `TokenizeConfig` from the pipeline's key
`ehr_tokenize`, so that they cannot differ from stage to stage.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
from MEDS_transforms.stages import Stage
from omegaconf import DictConfig, OmegaConf

from ehr_tokenize.config import TokenizeConfig
from ehr_tokenize.events import Events
from ehr_tokenize.fit import bind_edges, choose_edges, counts
from ehr_tokenize.meds import from_table, row_problems, runs
from ehr_tokenize.meds_stages.seal import seal_shards
from ehr_tokenize.numeric import Histogram
from ehr_tokenize.sequences import sequences
from ehr_tokenize.tokenizer import Tokenizer
from ehr_tokenize.vocabulary import CodeInfo, Count, build, count_slots
from ehr_tokenize.writer import to_table
from ehr_tracking.config import validate
from ehr_tracking.errors import UserError

_KEY = "ehr_tokenize"
_EDGES, _BIN, _COUNT, _SUBJECTS = (f"ehr/{n}" for n in ("edges", "bin", "count", "subjects"))
Shard = Callable[[pl.LazyFrame], pl.LazyFrame]


def read_config(cfg: DictConfig) -> TokenizeConfig:
    """The settings under `ehr_tokenize` of a pipeline.

    Raises:
        ConfigError: Naming each wrong key.
    """
    tree = OmegaConf.to_container(cfg.get(_KEY) or OmegaConf.create({}), resolve=True)
    named = {str(k): v for k, v in tree.items()} if isinstance(tree, dict) else {}
    return validate(TokenizeConfig, named, where=_KEY)


def to_events(df: pl.LazyFrame) -> tuple[Events, list[str]]:
    """A shard as events, and the codes that they index.

    Raises:
        UserError: If rows are out of order or a subject's rows are not contiguous.
    """
    batch = from_table(df.collect().to_arrow(), Path("shard"))
    for problem in row_problems(batch, None):
        raise UserError(str(problem))
    start = runs(batch)
    subject = batch.subject_id[start]
    if len(np.unique(subject)) != len(subject):
        raise UserError("shard: the rows of a subject must be contiguous")
    offsets = np.append(start, len(batch.time))
    code = batch.code.astype(np.uint32)
    return Events(subject, offsets, batch.time, code, batch.value), batch.codes


def map_values(df: pl.LazyFrame) -> pl.LazyFrame:
    """One row a code of the shard: its distinct values, and how often each occurs."""
    events, codes = to_events(df)
    histogram = Histogram.of(events.code, events.value)
    values = histogram.values()
    where = dict(zip(*histogram.by_code(), strict=True))
    at = [where.get(i, slice(0, 0)) for i in range(len(codes))]
    return pl.LazyFrame(
        {
            "code": codes,
            "value": [values[s] for s in at],
            "count": [histogram.count[s] for s in at],
        },
        schema={"code": pl.String, "value": pl.List(pl.Float32), "count": pl.List(pl.Int64)},
    )


def reduce_values(*dfs: pl.LazyFrame, cfg: DictConfig) -> pl.LazyFrame:
    """One row a code of the train split: its bin edges."""
    frames = [df.collect() for df in dfs]
    codes = sorted(set().union(*(f["code"] for f in frames)))
    index = {code: i for i, code in enumerate(codes)}
    parts = []
    for frame in frames:
        size = frame["value"].list.len().to_numpy()
        code = np.array([index[c] for c in frame["code"]], np.uint32)
        long = frame.filter(pl.col("value").list.len() > 0).explode("value", "count")
        value, count = long["value"].to_numpy(), long["count"].to_numpy()
        parts.append(Histogram.weighted(np.repeat(code, size), value, count))
    chosen = choose_edges(Histogram.merge(parts), codes, read_config(cfg))
    edges = [chosen.get(code, np.zeros(0, np.float32)) for code in codes]
    return pl.LazyFrame(
        {"code": codes, _EDGES: edges}, schema={"code": pl.String, _EDGES: pl.List(pl.Float32)}
    )


def map_slots(code_metadata: pl.DataFrame) -> Callable[[pl.LazyFrame], pl.LazyFrame]:
    """One row a (code, bin) of the shard: its events and subjects."""
    edges = read_edges(code_metadata)

    def shard(df: pl.LazyFrame) -> pl.LazyFrame:
        events, codes = to_events(df)
        bins = bind_edges(edges, codes)
        slot = bins.slot(events.code, events.value)
        found = counts(count_slots(events, slot, int(bins.slots[-1])), bins, codes)
        rows = [(c.code, c.bin, c.events, c.subjects) for c in found]
        schema = {"code": pl.String, _BIN: pl.Int64, _COUNT: pl.Int64, _SUBJECTS: pl.Int64}
        return pl.LazyFrame(rows, schema=schema, orient="row")

    return shard


def reduce_slots(*dfs: pl.LazyFrame) -> pl.LazyFrame:
    """One row a code of the train split: lists of its bins, with events and subjects of each."""
    total = pl.concat(dfs).group_by("code", _BIN).agg(pl.col(_COUNT, _SUBJECTS).sum())
    return total.sort("code", _BIN).group_by("code", maintain_order=True).agg(pl.all())


def map_tokens(
    cfg: DictConfig, code_metadata: pl.DataFrame
) -> Callable[[pl.LazyFrame], pl.LazyFrame]:
    """The shard's subjects as token sequences."""
    tokenizer = read_tokenizer(code_metadata, read_config(cfg))

    def shard(df: pl.LazyFrame) -> pl.LazyFrame:
        events, codes = to_events(df)
        made = sequences(events, tokenizer, tokenizer.bind(codes))
        frame = pl.from_arrow(to_table(made, len(tokenizer)))
        return pl.DataFrame(frame).lazy()

    return shard


def main_seal(cfg: DictConfig) -> None:
    """Order the subjects of all shards and seal them as one token data set in `tokens_dir`."""
    config = read_config(cfg)
    metadata = pl.read_parquet(Path(cfg.stage_cfg.metadata_input_dir) / "codes.parquet")
    seal_shards(
        Path(cfg.stage_cfg.data_input_dir),
        Path(cfg.tokens_dir),
        meds=Path(cfg.input_dir),
        tokenizer=read_tokenizer(metadata, config),
        overwrite=bool(cfg.do_overwrite),
    )


def read_edges(code_metadata: pl.DataFrame) -> dict[str, np.ndarray]:
    """The bin edges that `ehr_fit_bins` left in the metadata."""
    found = code_metadata.filter(pl.col(_EDGES).list.len() > 0)
    pairs = zip(found["code"], found[_EDGES].to_list(), strict=True)
    return {code: np.array(edges, np.float32) for code, edges in pairs}


def read_tokenizer(code_metadata: pl.DataFrame, config: TokenizeConfig) -> Tokenizer:
    """The tokenizer that both fitting stages left in the metadata."""
    metadata = code_metadata.unique("code", keep="first", maintain_order=True)
    empty = [None] * len(metadata)
    descriptions, parents = (
        metadata[name].to_list() if name in metadata.columns else empty
        for name in ("description", "parent_codes")
    )
    codes = metadata["code"].to_list()
    infos = {c: CodeInfo(d, p) for c, d, p in zip(codes, descriptions, parents, strict=True)}
    columns = [metadata[name].to_list() for name in (_BIN, _COUNT, _SUBJECTS)]
    found = [
        Count(code, *row)
        for code, *lists in zip(codes, *columns, strict=True)
        for row in zip(*lists, strict=True)
    ]
    edges = read_edges(metadata)
    return Tokenizer(config, build(found, edges, infos, config.vocabulary), edges)


fit_bins = Stage.register(
    stage_name="ehr_fit_bins", map_fn=map_values, reduce_fn=reduce_values, is_metadata=True
)
fit_vocabulary = Stage.register(
    stage_name="ehr_fit_vocabulary", map_fn=map_slots, reduce_fn=reduce_slots, is_metadata=True
)
tokenize = Stage.register(stage_name="ehr_tokenize", map_fn=map_tokens)
seal = Stage.register(stage_name="ehr_seal", main_fn=main_seal, is_metadata=True)
