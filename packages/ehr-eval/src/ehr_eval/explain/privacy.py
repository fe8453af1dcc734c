"""What a model, or records that it made, give away of those it was trained on: `privacy/1`.

The tests are those of arXiv 2510.12950 that need a model or its output alone: membership, and copies.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from ehr_eval.explain.config import PrivacyConfig
from ehr_eval.explain.continuations import came_true
from ehr_eval.explain.copies import nearest, recited, share_nearer
from ehr_eval.explain.membership import Told, area, score_subjects
from ehr_eval.explain.privacy_page import write_privacy_page
from ehr_eval.explain.records import matrices, read_generated, read_real
from ehr_eval.frames import PRODUCER, read_subjects
from ehr_eval.protocol.tables import write_rows
from ehr_models.checkpoint import load_checkpoint, require_same_vocabulary
from ehr_models.data.store import open_split
from ehr_models.data.tokens import Tokens, open_tokens
from ehr_tracking.arrow.meds import data_files
from ehr_tracking.config import to_dict
from ehr_tracking.contracts import HELD_OUT, MEDS, PRIVACY, TRAIN, ContractError
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

Row = dict[str, object]


def probe_privacy(
    out: PathLike,
    config: PrivacyConfig | None = None,
    *,
    checkpoint: PathLike | None = None,
    tokens: PathLike | None = None,
    generated: PathLike | None = None,
    meds: PathLike | None = None,
    overwrite: bool = False,
) -> list[Row]:
    """Run the tests whose inputs are there.

    Args:
        out: The artifact.
        config: How much is looked at.
        checkpoint: A causal model, for membership.
        tokens: That it was trained on.
        generated: `trajectories/1` or a MEDS data set that a model made, for copies.
        meds: The data set that the model learnt from.
        overwrite: Replace an artifact that is there.

    Returns:
        The rows of `privacy.parquet`.

    Raises:
        ContractError: If an input is not what it should be, or the model was trained on other tokens.
        UserError: If neither pair of inputs is given, or a split has too few subjects.
    """
    config, out = config or PrivacyConfig(), Path(out)
    given = {"checkpoint": checkpoint, "tokens": tokens, "generated": generated, "meds": meds}
    paths = {name: Path(path) for name, path in given.items() if path is not None}
    refuse_existing(out, PRIVACY, overwrite=overwrite, inputs=paths.values())
    for one, other in (("checkpoint", "tokens"), ("generated", "meds")):
        if (one in paths) != (other in paths):
            raise UserError(f"--{one} and --{other} go together")
    if not paths:
        raise UserError("give --checkpoint and --tokens, or --generated and --meds")
    rows: list[Row] = []
    if "checkpoint" in paths:
        rows += _membership(paths["checkpoint"], paths["tokens"], config)
    if "generated" in paths:
        rows += _copies(paths["generated"], paths["meds"], config)
        rows += _reconstruction(paths["generated"], paths["meds"], config)
    with new_artifact(out, PRIVACY, overwrite=overwrite, inputs=paths.values()) as partial:
        n = write_rows(partial / "privacy.parquet", rows, PRIVACY.columns)
        write_privacy_page(partial / "report.html", rows)
        seal(
            partial,
            PRIVACY,
            producer=PRODUCER,
            config=to_dict(config),
            seed=config.seed,
            inputs=_sources(paths),
            rows={"privacy.parquet": n},
        )
    return rows


def _sources(paths: Mapping[str, Path]) -> dict[str, Source]:
    found = {}
    for name, path in paths.items():
        if name == "checkpoint":
            found[name] = load_checkpoint(path).source
        else:
            found[name] = source(path) if name == "tokens" else raw_source(path, contract=MEDS)
    return found


def _membership(checkpoint: Path, tokens: Path, config: PrivacyConfig) -> Iterator[Row]:
    token_set, loaded = open_tokens(tokens), load_checkpoint(checkpoint)
    require_same_vocabulary(loaded, token_set)
    learnt = loaded.manifest.inputs.get("tokens")
    if learnt is None or learnt.fingerprint != token_set.fingerprint:
        raise ContractError(
            f"{loaded.directory} was not trained on {tokens}: who it was trained on cannot be told; give its own tokens"
        )
    told: dict[str, Told] = {}
    for split in (TRAIN, HELD_OUT):
        if split not in token_set.splits:
            raise ContractError(
                f"{tokens} has no subject in {split}: there is nobody to tell apart"
            )
        of = open_split(token_set, split)
        told[split] = score_subjects(loaded, of, _drawn(of, config), config)
    for name in Told._fields:
        members, others = (_finite(getattr(told[split], name)) for split in (TRAIN, HELD_OUT))
        if min(len(members), len(others)) < 2:
            raise UserError(
                f"{tokens}: fewer than two subjects of {TRAIN} or {HELD_OUT} have two tokens"
            )
        found = area(members, others, bootstraps=config.bootstraps, seed=config.seed)
        yield _row("membership", name, *found, 0.5, len(members), len(others))


def _finite(x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return x[np.isfinite(x)]


def _drawn(tokens: Tokens, config: PrivacyConfig) -> npt.NDArray[np.int64]:
    """As many subjects as are looked at, by hash."""
    order = _by_hash(tokens.subject_id, config.seed)
    return np.sort(order[: config.subjects])


def _by_hash(subject: npt.NDArray[np.int64], seed: int) -> npt.NDArray[np.int64]:
    """[N] the order of some subjects by hash, whatever order they are in."""
    return np.lexsort((subject, pl.Series(subject).hash(seed=seed).to_numpy()))


def _copies(generated: Path, meds: Path, config: PrivacyConfig) -> Iterator[Row]:
    for size, name in ((1, "code"), (config.gram, "sequence")):
        made, goes_on = read_generated(generated, size)
        real, split = read_real(meds, size, seed=config.seed)
        if not len(made):
            raise ContractError(f"{generated} holds no events")
        of = {s: np.flatnonzero(split == s) for s in (TRAIN, HELD_OUT)}
        n = min(config.subjects, *map(len, of.values()))
        if n < 2:
            raise UserError(
                f"{meds}: {TRAIN} or {HELD_OUT} has fewer than two subjects with events"
            )
        train, held_out = (
            real.take(at[_by_hash(real.subject[at], config.seed)[:n]]) for at in of.values()
        )
        g, x, y = matrices(made, train, held_out)
        own = [made.subject[:, None] == r.subject if goes_on else None for r in (train, held_out)]
        if name == "code":
            near = [nearest(g, m, o) for m, o in zip((x, y), own, strict=True)]
            share = share_nearer(*near, bootstraps=config.bootstraps, seed=config.seed)
            yield _row("nearest", "share_nearer_to_train", *share, 0.5, n, n)
            for score, distance in zip(
                ("distance_to_train", "distance_to_held_out"), near, strict=True
            ):
                yield _row("nearest", score, float(np.median(distance)), None, None, None, n, n)
            continue
        for score, mine, others, not_own in (
            ("rate_of_train", x, y, own[0]),
            ("rate_of_held_out", y, x, own[1]),
        ):
            found = recited(g, mine, others, rare=config.rare, own=not_own)
            yield _row("memorised", score, found.rate, None, None, None, n, n)


def _reconstruction(generated: Path, meds: Path, config: PrivacyConfig) -> Iterator[Row]:
    """Nothing where no futures of train and of held-out subjects are there to compare."""
    if not (generated / MANIFEST).is_file():
        return
    subject, share = came_true(generated, meds)
    subjects = read_subjects(meds, data_files(meds), seed=config.seed)
    split = dict(subjects.select("subject_id", "split").iter_rows())
    of = np.array([split.get(i, "") for i in subject.tolist()])
    members, others = share[of == TRAIN], share[of == HELD_OUT]
    if min(len(members), len(others)) >= 2:
        found = area(members, others, bootstraps=config.bootstraps, seed=config.seed)
        yield _row("reconstruction", "came_true", *found, 0.5, len(members), len(others))


def _row(
    test: str,
    score: str,
    value: float | None,
    lower: float | None,
    upper: float | None,
    chance: float | None,
    train: int,
    held_out: int,
) -> Row:
    names = ("test", "score", "value", "lower", "upper", "chance", "train", "held_out")
    return dict(
        zip(names, (test, score, value, lower, upper, chance, train, held_out), strict=True)
    )
