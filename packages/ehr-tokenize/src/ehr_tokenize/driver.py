"""From a MEDS data set to a sealed token data set, in one process."""

import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from ehr_tokenize import __version__
from ehr_tokenize.binding import Binding
from ehr_tokenize.config import FITTED, TokenizeConfig, with_fitted
from ehr_tokenize.coverage import Family, families, write_coverage
from ehr_tokenize.events import Events, ranges
from ehr_tokenize.fit import fit_bound
from ehr_tokenize.keys import code_of, shown
from ehr_tokenize.maps import MapReport, apply_maps, map_name, resolve
from ehr_tokenize.meds import (
    CONTRACT,
    SPLITS,
    assign_splits,
    extra_columns,
    open_dataset,
    read_codes,
    read_splits,
)
from ehr_tokenize.resume import Finished, Shard, run_key
from ehr_tokenize.shards import Shards
from ehr_tokenize.table import EventTable
from ehr_tokenize.tokenizer import TOKENIZER, VOCAB, Tokenizer
from ehr_tokenize.vocabulary import CodeInfo
from ehr_tokenize.writer import GROUP_EVENTS
from ehr_tracking.config import ConfigError, to_dict
from ehr_tracking.contracts import TOKENS
from ehr_tracking.errors import UserError
from ehr_tracking.manifest import (
    MANIFEST,
    Source,
    new_artifact,
    raw_source,
    refuse_existing,
    seal,
    source,
)

PRODUCER = f"ehr-tokenize {__version__}"
_SCRATCH = ".scratch"
_NAMED = 3
_STRETCH = 1 << 20
"""Most events of train that are counted at a time."""
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class SplitSummary:
    """What was written of one split."""

    split: str
    subjects: int
    events: int
    tokens: int
    unknown: int
    """Events with an [UNK]."""
    shards: int
    excluded: int = 0
    """Events that `vocabulary.exclude` left out."""
    families: tuple[Family, ...] = ()

    @property
    def unknown_share(self) -> float:
        """Of the events."""
        return self.unknown / self.events if self.events else 0.0


@dataclass(frozen=True, slots=True)
class Summary:
    """What `tokenize` wrote."""

    out: Path
    vocab_size: int
    splits: tuple[SplitSummary, ...]
    splits_by_hash: bool
    """Whether the data set named no splits."""
    maps: tuple[MapReport, ...] = ()
    kept: int = 0
    """Shards that were there, from a run that was interrupted."""

    def lines(self) -> list[str]:
        """For a terminal."""
        how = "by hash" if self.splits_by_hash else "as named"
        return [
            f"{self.out}: {self.vocab_size:,} tokens in the vocabulary, splits {how}",
            *([f"kept {self.kept:,} shards of an interrupted run"] if self.kept else []),
            *(f"map {report.line()}" for report in self.maps),
            *(
                f"{s.split}: {s.subjects:,} subjects, {s.events:,} events, {s.tokens:,} tokens, "
                f"{s.unknown_share:.2%} unknown, {s.shards} shard{'s' * (s.shards > 1)}"
                + (f", {s.excluded:,} events excluded" if s.excluded else "")
                for s in self.splits
            ),
            *self._lacking(),
        ]

    def _lacking(self) -> list[str]:
        """The families of codes that the vocabulary knows least of."""
        events, unknown = Counter[str](), Counter[str]()
        for family in (f for s in self.splits for f in s.families):
            events[family.name] += family.events
            unknown[family.name] += family.unknown
        worst = [(n, name) for name, n in unknown.items() if n]
        if not worst:
            return []
        worst.sort(key=lambda x: (-x[0], x[1]))
        named = ", ".join(
            f"{shown(name)} ({n:,} of {events[name]:,})" for n, name in worst[:_NAMED]
        )
        return [f"most unknown events: {named}"]


def tokenize(
    meds: Path,
    out: Path,
    config: TokenizeConfig | None = None,
    *,
    tokenizer: Path | None = None,
    workers: int = 1,
    overwrite: bool = False,
) -> Summary:
    """Write `tokens/1` from a MEDS 0.4 data set.

    The result depends on the subjects, the metadata and the config alone: not on how subjects are
    spread over files, not on `workers`, not on whether a run was killed and another one went on
    from the shards that it had finished, which happens where inputs and config are the same.

    Args:
        meds: Holds `data/**/*.parquet` and `metadata/`.
        out: The token data set to write.
        config: Defaults where None.
        tokenizer: A token data set, checkpoint or folder with a fitted tokenizer; nothing is fitted.
        workers: Threads.
        overwrite: Replace a token data set that is there.

    Raises:
        UserError: If the data set cannot be read or breaks MEDS, or has no subject to fit on, or
            does not fit the given tokenizer, or `out` is taken.
    """
    config = config or TokenizeConfig()
    names = [map_name(step) for step in config.maps]
    config = replace(config, maps=resolve(config.maps))
    refuse_existing(out, overwrite=overwrite)
    if out.resolve().is_relative_to(meds.resolve()):
        raise UserError(f"{out} lies inside the MEDS data set; choose a path outside of {meds}")
    dataset = open_dataset(meds)
    named, infos = read_splits(meds), read_codes(meds)
    given = Tokenizer.from_pretrained(tokenizer) if tokenizer else None
    if given:
        config = _adopt(config, given, str(tokenizer))
    inputs = _inputs(meds, tokenizer, workers)
    key = run_key(PRODUCER, config, inputs)
    with new_artifact(out, overwrite=overwrite, key=key) as directory:
        finished, scratch = Finished(directory), directory / _SCRATCH
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir()
        table = EventTable.ingest(dataset, scratch, workers=workers, extra=extra_columns(config))
        split = assign_splits(table.subject_id, named, config.seed)
        if given and tokenizer:
            for name in (TOKENIZER, VOCAB):
                shutil.copyfile(tokenizer / name, directory / name)
        known = given or finished.tokenizer()
        if known:
            fitted, binding = known, known.bind(table.codes, infos)
        else:
            fitted, binding = _fit(table, np.flatnonzero(split == 0), infos, config, workers)
            fitted.save(directory)
        config = with_fitted(config, fitted.config)
        shards = Shards(directory, table, fitted, binding, finished, workers)
        rows, summaries = _write(shards, split, config)
        write_coverage(directory, {s.split: list(s.families) for s in summaries})
        if given:
            _refuse_foreign(summaries, config.max_unknown, f"{meds} and {tokenizer}")
        maps = _map_reports(table, config, names)
        shutil.rmtree(scratch)
        finished.clear()
        seal(
            directory,
            TOKENS,
            producer=PRODUCER,
            config=to_dict(config),
            seed=config.seed,
            inputs=inputs,
            rows={VOCAB: len(fitted)} | rows,
            workers=workers,
        )
    some = tuple(s for s in summaries if s.subjects)
    return Summary(out, len(fitted), some, named is None, maps, len(finished.kept))


def _inputs(meds: Path, tokenizer: Path | None, workers: int) -> dict[str, Source]:
    inputs = {"meds": raw_source(meds, contract=CONTRACT, workers=workers)}
    if tokenizer:
        inputs["tokenizer"] = (
            source(tokenizer)
            if (tokenizer / MANIFEST).is_file()
            else raw_source(tokenizer / TOKENIZER, contract="tokenizer/1")
        )
    return inputs


def _write(
    shards: Shards, split: npt.NDArray[np.uint8], config: TokenizeConfig
) -> tuple[dict[str, int], list[SplitSummary]]:
    """Every split; the rows of each shard, and what was written of each split."""
    rows: dict[str, int] = {}
    summaries = []
    for i, name in enumerate(SPLITS):
        subjects = np.flatnonzero(split == i)
        written = shards.write(name, subjects, config.shard)
        rows |= {path: shard.rows for path, shard in written.items()}
        events = shards.table.length[subjects]
        summaries.append(_summary(name, events, written, shards.binding.families))
    return rows, summaries


def _summary(
    split: str,
    events: npt.NDArray[np.int64],
    written: Mapping[str, Shard],
    names: list[str],
) -> SplitSummary:
    none = np.zeros((len(names), 3), np.int64)
    total = sum((shard.families for shard in written.values()), none)
    return SplitSummary(
        split=split,
        subjects=len(events),
        events=int(events.sum()),
        tokens=sum(shard.tokens for shard in written.values()),
        unknown=int(total[:, 1].sum()),
        shards=len(written),
        excluded=int(total[:, 2].sum()),
        families=tuple(families(names, total)),
    )


def _map_reports(
    table: EventTable, config: TokenizeConfig, names: Sequence[str]
) -> tuple[MapReport, ...]:
    """What each map did, in events of the whole data set, under the names that the user gave.

    Those of a given tokenizer have none.
    """
    if not config.maps:
        return ()
    events: dict[str, int] = {}
    for key, count in zip(table.codes, table.code_counts().tolist(), strict=True):
        code = code_of(key)
        events[code] = events.get(code, 0) + count
    found = apply_maps(list(events), config.maps, list(events.values())).report
    given = names or [r.name for r in found]
    return tuple(replace(r, name=n) for r, n in zip(found, given, strict=True))


def _fit(
    table: EventTable,
    train: npt.NDArray[np.int64],
    infos: dict[str, CodeInfo],
    config: TokenizeConfig,
    workers: int,
) -> tuple[Tokenizer, Binding]:
    if not len(train):
        raise UserError(
            f"none of the {len(table.subject_id):,} subjects is in the train split, so there is "
            "nothing to fit on; see metadata/subject_splits.parquet or pass --tokenizer"
        )
    # each stretch takes an array of all words, so that many codes need long ones to be worth it
    stretch = min(max(GROUP_EVENTS, 8 * len(table.codes)), _STRETCH)
    cuts = ranges(table.length[train], len(train), stretch)

    def parts(apply: Callable[[Events], T]) -> Iterable[T]:
        with ThreadPoolExecutor(workers) as pool:
            work = pool.map(lambda c: apply(table.gather(train[c[0] : c[1]])), cuts)
            yield from tqdm(work, "fitting", len(cuts), disable=None)

    return fit_bound(parts, table.codes, infos, config)


def _adopt(config: TokenizeConfig, given: Tokenizer, where: str) -> TokenizeConfig:
    """The config with the tokenizer's own fields; a wish that contradicts them is refused."""
    default = TokenizeConfig()
    for name in FITTED:
        asked, fitted = getattr(config, name), getattr(given.config, name)
        if asked not in (fitted, getattr(default, name)):
            raise ConfigError(
                f"{name} cannot be changed with --tokenizer: {where} was fitted with {fitted}"
            )
    return with_fitted(config, given.config)


def _refuse_foreign(summaries: Sequence[SplitSummary], limit: float, which: str) -> None:
    unknown, events = sum(s.unknown for s in summaries), sum(s.events for s in summaries)
    if unknown > limit * events:
        raise UserError(
            f"{which} do not belong together: {unknown / events:.0%} of the events are not in the "
            f"vocabulary, which seems to be of another data set (max_unknown is {limit})"
        )
