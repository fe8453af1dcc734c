"""What both kinds of narratives go by: the data set, what codes are called, bins, delays."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from ehr_tokenize import __version__
from ehr_tokenize.meds.dataset import Dataset, open_dataset
from ehr_tokenize.narrative.ages import age_edges
from ehr_tokenize.narrative.buckets import extents
from ehr_tokenize.narrative.config import NarrateConfig
from ehr_tokenize.narrative.records import Edges
from ehr_tokenize.narrative.terms import Terms
from ehr_tokenize.tokenizer.tokenizer import Tokenizer
from ehr_tracking.arrow.delays import Delays, agreed, delays_of
from ehr_tracking.arrow.meds import code_infos
from ehr_tracking.arrow.splits import Splits, read_splits
from ehr_tracking.config import to_dict
from ehr_tracking.contracts import MEDS, SPLITS, TOKENS
from ehr_tracking.errors import UserError
from ehr_tracking.manifest import Source, raw_source, read_manifest, source

PRODUCER = f"ehr-tokenize {__version__}"
FILE = "narratives.parquet"
SCRATCH = ".scratch"
GROUP_ROWS = 1024
"""Texts in memory at a time, and in a row group."""


@dataclass(frozen=True, slots=True, eq=False)
class Setting:
    """Opened and checked, before anything is written."""

    dataset: Dataset
    terms: Terms
    edges: Edges
    """Of the bins by which values are told."""
    delays: Delays
    splits: Splits
    config: NarrateConfig
    """With the delays that count and, of ages in deciles, their edges."""
    inputs: dict[str, Source]
    extents: pl.DataFrame | None
    """From `buckets.extents`, where they were needed."""

    @classmethod
    def of(
        cls, meds: Path, config: NarrateConfig, tokens: Path | None, *, everyone: bool = False
    ) -> "Setting":
        """Open all of it.

        Args:
            meds: MEDS 0.4 data set.
            config: As the user has it.
            tokens: A `tokens/1` data set whose delays are followed.
            everyone: Read the extents of all records.

        Raises:
            UserError: If something cannot be read, delays contradict each other, or ages shall be
                told in deciles but no subject of train has a birth.
        """
        dataset, terms = open_dataset(meds), Terms(code_infos(meds), config)
        fitted = Tokenizer.from_pretrained(config.bins) if config.bins else None
        delays = _delays(config, tokens, fitted)
        splits = read_splits(meds, seed=config.seed)
        found = None
        if everyone or (config.age == "decile" and config.age_edges is None):
            found = extents(dataset)
        if config.age == "decile" and config.age_edges is None and found is not None:
            config = dataclasses.replace(config, age_edges=_fitted_ages(meds, found, splits))
        return cls(
            dataset=dataset,
            terms=terms,
            edges=_edges(fitted, config.bins) if fitted else {},
            delays=delays,
            splits=splits,
            config=dataclasses.replace(config, delay=dict(delays.days)),
            inputs=_inputs(meds, config, tokens),
            extents=found,
        )

    def split_of(self, subjects: npt.NDArray[np.int64]) -> pl.DataFrame:
        """`subject_id` and `split`, by name, of each.

        Args:
            subjects: Ascending.
        """
        index = self.splits.of(subjects)
        return pl.DataFrame(
            {"subject_id": subjects, "split": [SPLITS[i] for i in index.tolist()]},
            schema={"subject_id": pl.Int64, "split": pl.String},
        )

    def portable(self) -> dict[str, Any]:
        """The config as plain values.

        Tables by name alone, since a manifest holds no path (inputs have their hash).
        """
        config = self.config
        named = tuple(dataclasses.replace(x, table=Path(x.table.name)) for x in config.lookups)
        bins = config.bins and Path(config.bins.name)
        return to_dict(dataclasses.replace(config, lookups=named, bins=bins))


def _fitted_ages(meds: Path, found: pl.DataFrame, splits: Splits) -> tuple[float, ...]:
    """Of subjects of train, at the end of their records."""
    train = splits.of(found["subject_id"].to_numpy()) == SPLITS.index("train")
    lived = found.filter(pl.Series(train), pl.col("end") > pl.col("birth"))
    if not lived.height:
        raise UserError(
            f"{meds}: age in deciles is fitted on the births of train, but there are none; set "
            "age: years, or age_edges"
        )
    return age_edges(lived["birth"].to_numpy(), lived["end"].to_numpy())


def _inputs(meds: Path, config: NarrateConfig, tokens: Path | None) -> dict[str, Source]:
    inputs = {"meds": raw_source(meds, contract=MEDS)}
    for i, lookup in enumerate(config.lookups):
        inputs[f"lookup-{i}"] = raw_source(lookup.table, contract="table")
    if config.bins:
        inputs["bins"] = raw_source(config.bins, contract="tokenizer")
    if tokens:
        inputs["tokens"] = source(tokens)
    return inputs


def _edges(tokenizer: Tokenizer, path: Path | None) -> Edges:
    """Of the bins of a tokenizer that has them by code."""
    if tokenizer.config.scheme.units or tokenizer.config.maps:
        why = "maps codes to others" if tokenizer.config.maps else "has bins by unit"
        raise UserError(f"bins: {path} {why}; fit one with bins by the codes of the data")
    return {code: edges for code, edges in tokenizer.fitted.edges.items() if len(edges)}


def _delays(config: NarrateConfig, tokens: Path | None, bins: Tokenizer | None) -> Delays:
    """Those of the config, of the tokens and of the tokenizer with the bins, which must agree."""
    found: dict[str, Delays] = {}
    if config.delay is not None:
        found["the config"] = Delays(config.delay)
    if tokens is not None:
        found[str(tokens)] = delays_of(read_manifest(tokens, TOKENS, reader=PRODUCER))
    if bins is not None:
        found[str(config.bins)] = Delays(bins.config.delay)
    return agreed(found)
