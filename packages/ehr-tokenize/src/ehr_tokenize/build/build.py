"""From a MEDS data set to a sealed token data set, in one process."""

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ehr_tokenize import __version__
from ehr_tokenize.build.resume import Finished, run_key
from ehr_tokenize.build.shards import GROUP_EVENTS, Shards
from ehr_tokenize.build.summary import SplitSummary, Summary, split_summary, write_coverage
from ehr_tokenize.codes.keys import code_of
from ehr_tokenize.codes.maps import MapReport, apply_maps, map_name, resolve
from ehr_tokenize.config import TokenizeConfig
from ehr_tokenize.fit.passes import fit
from ehr_tokenize.meds.dataset import (
    open_dataset,
)
from ehr_tokenize.meds.table import EventTable
from ehr_tokenize.scheme.binding import Binding
from ehr_tokenize.scheme.intake import extra_columns
from ehr_tokenize.tokenizer.tokenizer import TOKENIZER, Tokenizer, adopt, with_fitted
from ehr_tokenize.tokenizer.vocabulary import VOCAB
from ehr_tracking.arrow.meds import CodeInfo, code_infos
from ehr_tracking.arrow.splits import read_splits
from ehr_tracking.config import to_dict
from ehr_tracking.contracts import MEDS, SPLITS, TOKENS
from ehr_tracking.errors import UserError
from ehr_tracking.files import PathLike
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
_STRETCH = 1 << 20
"""Most events of train that are counted at a time."""


def tokenize(
    meds: PathLike,
    out: PathLike,
    config: TokenizeConfig | None = None,
    *,
    tokenizer: PathLike | None = None,
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
    meds, out, config = Path(meds), Path(out), config or TokenizeConfig()
    tokenizer = None if tokenizer is None else Path(tokenizer)
    names = [map_name(step) for step in config.maps]
    config = replace(config, maps=resolve(config.maps))
    paths = [meds, *([tokenizer] if tokenizer else [])]
    refuse_existing(out, TOKENS, overwrite=overwrite, inputs=paths)
    dataset = open_dataset(meds)
    splits, infos = read_splits(meds, seed=config.seed), code_infos(meds)
    given = Tokenizer.from_pretrained(tokenizer) if tokenizer else None
    if given:
        config = adopt(config, given, str(tokenizer))
    inputs = _inputs(meds, tokenizer, workers)
    key = run_key(PRODUCER, config, inputs)
    with new_artifact(out, TOKENS, overwrite=overwrite, inputs=paths, key=key) as directory:
        finished, scratch = Finished(directory), directory / _SCRATCH
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir()
        table = EventTable.ingest(dataset, scratch, workers=workers, extra=extra_columns(config))
        split = splits.of_everyone(table.subject_id)
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
    return Summary(out, len(fitted), some, splits.named is None, maps, len(finished.kept))


def _inputs(meds: Path, tokenizer: Path | None, workers: int) -> dict[str, Source]:
    inputs = {"meds": raw_source(meds, contract=MEDS, workers=workers)}
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
        summaries.append(split_summary(name, events, written, shards.binding.families))
    return rows, summaries


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
    size = min(max(GROUP_EVENTS, 8 * len(table.codes)), _STRETCH)
    stretches = table.stretches(train, size)
    return fit(stretches, table.codes, infos, config, workers=workers)


def _refuse_foreign(summaries: Sequence[SplitSummary], limit: float, which: str) -> None:
    unknown, events = sum(s.unknown for s in summaries), sum(s.events for s in summaries)
    if unknown > limit * events:
        raise UserError(
            f"{which} do not belong together: {unknown / events:.0%} of the events are not in the "
            f"vocabulary, which seems to be of another data set (max_unknown is {limit})"
        )
