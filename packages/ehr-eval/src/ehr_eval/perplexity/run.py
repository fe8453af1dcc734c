"""Perplexity by position of some checkpoints on one split: `perplexity/1`."""

import json
import shutil
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ehr_eval.features.reader import context_of, on_device
from ehr_eval.frames import PRODUCER
from ehr_eval.parts import parts_of
from ehr_eval.perplexity.config import PerplexityConfig
from ehr_eval.perplexity.measure import Curve, Losses, by_position, losses
from ehr_eval.protocol.shown import lineage
from ehr_eval.protocol.tables import write_rows
from ehr_eval.workers import run_key
from ehr_models.checkpoint import (
    OpenedCheckpoint,
    load_checkpoint,
    open_checkpoint,
    require_same_vocabulary,
)
from ehr_models.data.store import open_split
from ehr_models.data.tokens import Tokens, TokenSet, open_tokens
from ehr_models.precision import resolve_precision
from ehr_tracking.config import to_dict
from ehr_tracking.contracts import PERPLEXITY
from ehr_tracking.errors import UserError
from ehr_tracking.files import PathLike
from ehr_tracking.manifest import Source, new_artifact, refuse_existing, seal, source
from ehr_tracking.names import require_name
from ehr_tracking.report import figure, html_page, line_plot, table

_POINTS = 2000
"""Most points of a drawn curve: more than a picture has pixels across."""


class Measured(NamedTuple):
    """Of one checkpoint."""

    name: str
    context: int
    losses: Losses
    curve: Curve

    def overall(self) -> dict[str, object]:
        """The row of all positions: every token that was asked for weighs the same."""
        loss = float(self.losses.loss.mean())
        return {
            "checkpoint": self.name,
            "context": self.context,
            "subjects": len(np.unique(self.losses.subject)),
            "tokens": len(self.losses.loss),
            "loss": loss,
            "perplexity": float(np.exp(min(loss, 700.0))),
        }


def run_perplexity(
    checkpoints: Mapping[str, PathLike],
    tokens: PathLike,
    out: PathLike,
    config: PerplexityConfig | None = None,
    *,
    device: str = "cpu",
    overwrite: bool = False,
) -> list[dict[str, object]]:
    """Write `perplexity/1`. A run that was killed goes on with the passes that are left.

    Args:
        checkpoints: Name -> run or checkpoint of a causal model with a head over tokens.
        tokens: `tokens/1` with their vocabulary.
        out: Where the artifact shall be.
        config: Windows and smoothing.
        device: As torch names it.
        overwrite: Replace what is there.

    Returns:
        A row a checkpoint: tokens asked for, mean loss, its exponential.

    Raises:
        ContractError: If an input is not what it should be, or vocabularies differ.
        ConfigError: If the context is longer than a model can take, or the device is absent.
        UserError: If `out` exists, a model does not foretell next tokens, or nothing is asked for.

    Source:
        Wornow et al., Context clues: evaluating long context models for clinical prediction tasks on EHRs,
        ICLR 2025 (stride 32, median over subjects by position).
    """
    tokens, out = Path(tokens), Path(out)
    config = config or PerplexityConfig()
    for name in checkpoints:
        require_name(name, "checkpoint")
    read = [tokens, *map(Path, checkpoints.values())]
    refuse_existing(out, PERPLEXITY, overwrite=overwrite, inputs=read)
    token_set = open_tokens(tokens)
    records = open_split(token_set, config.split)
    # whatever is wrong with one is said before any is read
    given = {name: _causal(Path(path), token_set) for name, path in checkpoints.items()}
    contexts = {name: context_of(opened, config.context) for name, opened in given.items()}
    inputs = {"tokens": source(tokens)}
    inputs |= {f"checkpoint.{name}": opened.source for name, opened in given.items()}
    resolved = {**to_dict(config), "context": contexts}
    key = run_key({**resolved, "device": device}, inputs)
    with new_artifact(out, PERPLEXITY, overwrite=overwrite, inputs=read, key=key) as partial:
        parts, found = parts_of(partial), []
        for name, opened in given.items():
            told = _losses(opened, records, config, contexts[name], device, parts / name)
            if not len(told.loss):
                raise UserError(f"{tokens}: no token of split {config.split} can be asked for")
            curve = by_position(told, least=config.least_subjects, smooth=config.smooth)
            found.append(Measured(name, contexts[name], told, curve))
        n = write_rows(
            partial / "perplexity.parquet",
            [row for measured in found for row in _rows(measured)],
            PERPLEXITY.columns,
        )
        _report(partial, found, config, inputs)
        shutil.rmtree(parts)
        seal(
            partial,
            PERPLEXITY,
            producer=PRODUCER,
            config=resolved,
            seed=None,
            inputs=inputs,
            rows={"perplexity.parquet": n},
        )
    return [measured.overall() for measured in found]


def _causal(path: Path, tokens: TokenSet) -> OpenedCheckpoint:
    opened = open_checkpoint(path)
    if opened.kind.sees != "past" or opened.head == "pooled":
        raise UserError(
            f"{path} does not foretell the next token (kind {opened.kind.name}, head {opened.head}): "
            "perplexity by position needs a causal model pretrained with objective clm"
        )
    require_same_vocabulary(opened, tokens)
    return opened


def _losses(
    opened: OpenedCheckpoint,
    records: Tokens,
    config: PerplexityConfig,
    context: int,
    device: str,
    parts: Path,
) -> Losses:
    model, placed = on_device(load_checkpoint(opened.directory).model, device)
    told = losses(
        model,
        records,
        _subjects(records, config.subjects),
        context=context,
        stride=config.stride,
        batch_tokens=config.batch_tokens,
        precision=resolve_precision(config.precision, placed),
        parts=parts,
    )
    if not np.isfinite(told.loss).all():
        raise UserError(f"{opened.directory}: the model gives losses that are no numbers")
    return told


def _subjects(records: Tokens, most: int | None) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Rows of those with a token; of more than `most` some that do not depend on the others."""
    rows = np.flatnonzero(np.diff(records.offsets))
    if most is None or most >= len(rows):
        return rows
    # Knuth's multiplicative hash: ids in a row are far from each other
    key = records.subject_id[rows].astype(np.uint64) * np.uint64(11_400_714_819_323_198_485)
    return np.sort(rows[np.argsort(key, kind="stable")[:most]])


def _rows(measured: Measured) -> list[dict[str, object]]:
    overall, curve = measured.overall(), measured.curve
    first = {name: overall[name] for name in ("checkpoint", "subjects", "tokens", "perplexity")}
    columns = (
        c.tolist() for c in (curve.position, curve.subjects, curve.perplexity, curve.smoothed)
    )
    return [
        {**first, "position": None, "smoothed": None},
        *(
            {
                "checkpoint": measured.name,
                "position": position,
                "subjects": subjects,
                "tokens": subjects,
                "perplexity": median,
                "smoothed": smoothed,
            }
            for position, subjects, median, smoothed in zip(*columns, strict=True)
        ),
    ]


def _report(
    directory: Path,
    found: Sequence[Measured],
    config: PerplexityConfig,
    inputs: Mapping[str, Source],
) -> None:
    series = {}
    for m in found:
        step = max(1, len(m.curve.position) // _POINTS)
        at, value = m.curve.position[::step].tolist(), m.curve.smoothed[::step].tolist()
        series[m.name] = list(zip(at, value, strict=True))
    plot = directory / "plot.png"
    line_plot(
        plot,
        series,
        title=f"Perplexity by position, {config.split}",
        x="place of the token in its record",
        y="perplexity (median over subjects)",
    )
    body = [
        f"<p>The next token of records of split {config.split}, asked for in windows as long as in "
        f"training that slide on by {config.stride} tokens; [PAD], [UNK] and static tokens are not asked "
        f"for. The curve is the median over subjects at each position, then a running mean over "
        f"{config.smooth or 'a tenth of the'} positions; positions that fewer than {config.least_subjects} subjects have are "
        "left out. The table is over all tokens: perplexity is the exponential of the mean loss.</p>",
        table([m.overall() for m in found]),
        figure(plot, "Perplexity by position, median over subjects, smoothed")
        if any(series.values())
        else '<p class="note">No position has enough subjects to be drawn.</p>',
        "<h2>What was run</h2>",
        lineage(inputs),
        f"<pre>{escape(json.dumps(to_dict(config), indent=1))}</pre>",
    ]
    (directory / "report.html").write_text(
        html_page("Perplexity by position", body), encoding="utf-8"
    )
