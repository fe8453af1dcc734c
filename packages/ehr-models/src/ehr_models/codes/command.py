"""`ehr-models init`: from tokens and vectors of codes to a checkpoint."""

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from ehr_models import __version__
from ehr_models.checkpoint import save_checkpoint
from ehr_models.codes import report
from ehr_models.codes.config import CodesConfig
from ehr_models.codes.delimited import header, read_delimited
from ehr_models.codes.find import Finder, look_up, look_up_texts
from ehr_models.codes.freeze import FIELD, code_rows
from ehr_models.codes.mapping import mapping_of
from ehr_models.codes.start import Started, start
from ehr_models.codes.tables import path_of, read_vectors
from ehr_models.codes.vectors import joined
from ehr_models.config import ModelConfig
from ehr_models.data.tokens import open_tokens
from ehr_tracking.config import to_dict
from ehr_tracking.contracts import CHECKPOINT
from ehr_tracking.errors import UserError
from ehr_tracking.files import PathLike
from ehr_tracking.manifest import new_artifact, raw_source, source
from ehr_tracking.report import text_table

_VECTORS = "code-vectors"
"""What files of vectors are in a lineage: they carry no manifest."""


def init(
    tokens: PathLike,
    out: PathLike,
    model: ModelConfig,
    config: CodesConfig,
    *,
    codes: Sequence[str] = (),
    descriptions: PathLike | None = None,
    rxnorm_atc: PathLike | None = None,
    overwrite: bool = False,
) -> Started:
    """Write a checkpoint of a new model whose codes start from vectors.

    Args:
        tokens: Whose vocabulary the model gets.
        out: The checkpoint.
        model: Kind, size and overrides.
        config: How vectors are looked up and become rows.
        codes: Paths, or `VOCABULARY=PATH` for tables of bare codes; of a code that several hold, the
            first counts.
        descriptions: A table keyed by description (or code), for codes that those lack.
        rxnorm_atc: CSV with columns `rxcui` and `atc`.
        overwrite: Replace a checkpoint that is there.

    Raises:
        UserError: If a file is missing or wrong, nothing of it is of use, or `out` may not be written.
    """
    tokens = Path(tokens)
    given = {f"codes_{i}": path_of(c)[1] for i, c in enumerate(codes)}
    given |= {"descriptions": Path(descriptions)} if descriptions else {}
    given |= {"rxnorm_atc": Path(rxnorm_atc)} if rxnorm_atc else {}
    if not codes and not descriptions:
        raise UserError("nothing to start from: name vectors with --codes or --descriptions")
    mapping = mapping_of(config.mapping)
    with new_artifact(
        out, CHECKPOINT, overwrite=overwrite, inputs=[tokens, *given.values()]
    ) as new:
        vectors = joined([read_vectors(c, config.vocabularies) for c in codes]) if codes else None
        texts = read_vectors(descriptions) if descriptions else None
        finder = Finder(
            mapping,
            look_up(vectors.keys, mapping) if vectors else {},
            look_up_texts(texts.keys) if texts else {},
            read_atc(rxnorm_atc) if rxnorm_atc else {},
            config.hierarchy,
        )
        done = start(model, open_tokens(tokens), finder, vectors, texts, config)
        pq.write_table(report.report_table(done.found), new / report.TABLE, compression="zstd")
        report.plot(new / report.PLOT, done.found)
        inputs = {role: raw_source(path, contract=_VECTORS) for role, path in given.items()}
        save_checkpoint(
            new,
            done.model,
            tokens,
            metrics={},
            producer=f"ehr-models {__version__}",
            config={"model": to_dict(done.config), "codes": to_dict(config)},
            seed=config.seed,
            inputs={"tokens": source(tokens), **inputs},
        )
    return done


def read_atc(path: PathLike) -> dict[str, list[str]]:
    """ATC codes of each RxCUI, in the order of the file.

    Args:
        path: CSV with the columns `rxcui` and `atc`; others are not read.

    Raises:
        UserError: If one is missing.
    """
    path = Path(path)
    names, wanted = header(path), ("rxcui", "atc")
    missing = [n for n in wanted if n not in names]
    if missing:
        raise UserError(f"{path}: column {missing[0]} is missing (it has {', '.join(names)})")
    table = read_delimited(path, names, dict.fromkeys(names, pa.string()), wanted=wanted)
    found: dict[str, list[str]] = {}
    for rxcui, atc in zip(*(table[n].to_pylist() for n in wanted), strict=True):
        found.setdefault(rxcui.strip(), []).append(atc)
    return found


def lines(done: Started) -> list[str]:
    """What is printed of it."""
    width = code_rows(done.model).shape[1]
    frozen = "; the embedding is frozen" if getattr(done.model.config, FIELD, False) else ""
    by = f"resized by {done.method}" if done.method else "of the same width"
    return [
        text_table(report.summary_rows(done.found)),
        f"embedding of width {width}, vectors {by}{frozen}",
    ]
