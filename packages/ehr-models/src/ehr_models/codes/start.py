"""A new model whose codes start from vectors that others trained.

V tokens, N of them with a vector, W the width of the embedding.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from ehr_models import registry
from ehr_models.codes.config import CodesConfig
from ehr_models.codes.find import Finder, Found
from ehr_models.codes.freeze import FIELD, code_rows
from ehr_models.codes.resize import Method, choose, resize
from ehr_models.codes.vectors import Vectors
from ehr_models.config import ModelConfig
from ehr_models.data.tokens import TokenSet
from ehr_models.vocabulary import read_vocabulary
from ehr_tracking.config import ConfigError
from ehr_tracking.contracts import SPECIALS

_PROJECTS = "embedding"
"""Field of the configs of kinds whose embedding may have a width of its own, with a layer behind it."""


@dataclass(frozen=True, slots=True)
class Started:
    """A model and what its codes started from."""

    model: PreTrainedModel
    config: ModelConfig
    """Of the model: that which was asked for, save that a learned projection sets its width."""
    found: list[Found]
    method: Method | None
    """Of resizing; None where the widths are equal or there are none but vectors of descriptions."""


def start(
    config: ModelConfig,
    tokens: TokenSet,
    finder: Finder,
    vectors: Vectors | None,
    descriptions: Vectors | None,
    how: CodesConfig,
) -> Started:
    """Build a model, and lay vectors under its codes.

    All else is as the seed has it, as in a model without vectors. The rows get the standard deviation
    that the embedding has as it was initialised: one factor for all vectors of a table.

    Args:
        config: Kind, size and overrides.
        tokens: Whose vocabulary the model gets.
        finder: Over the keys of the two tables.
        vectors: Of codes.
        descriptions: Of descriptions, a space of their own.
        how: What to do with them.

    Raises:
        ConfigError: If no code was found, or the method cannot take the vectors to the width.
        ContractError: If the vocabulary cannot be read.
    """
    words = read_vocabulary(tokens.directory)
    found = finder.find(words)
    tables = [t for t in (vectors, descriptions) if t is not None]
    if not any(f.row >= 0 for f in found):
        where = ", ".join(str(t.path) for t in tables)
        raise ConfigError(
            f"{where}: none of the {len(found):,} codes of the vocabulary was found; say which "
            "vocabulary bare codes are of (--codes icd10cm=FILE), or what codes stand for (--mapping)"
        )
    methods = [_method(config, len(words), table.width, how.resize) for table in tables]
    if "learned_projection" in methods:
        config = _projecting(config, tables)
    torch.manual_seed(how.seed)
    model = registry.build(config, tokens)
    embedding = code_rows(model)
    std = float(embedding[len(SPECIALS) : len(words)].detach().std(correction=0))
    for table, method in zip(tables, methods, strict=True):
        mine = [f for f in found if (f.how == "description") == (table is descriptions)]
        _lay(embedding, [f for f in mine if f.row >= 0], table, method, std, how)
    if how.freeze:
        setattr(model.config, FIELD, True)
    return Started(model, config, found, methods[0])


def _method(config: ModelConfig, vocab_size: int, source: int, asked: Method) -> Method | None:
    """What takes vectors to the embedding of a model.

    A kind whose embedding has no width of its own can learn no projection: `auto` pads there.
    """
    with torch.device("meta"):
        target = code_rows(registry.build(config, vocab_size)).shape[1]
    method = choose(source, target) if asked == "auto" else asked
    if method != "learned_projection" or _PROJECTS in {f.name for f in fields(config)}:
        return method
    if asked == "auto":
        return "pad_smart"
    raise ConfigError(
        f"learned_projection needs a kind whose embedding has a width of its own, not {config.kind}; "
        "use pca or pad_smart"
    )


def _projecting(config: ModelConfig, tables: Sequence[Vectors]) -> ModelConfig:
    """With an embedding as wide as the vectors."""
    if len({table.width for table in tables}) > 1:
        raise ConfigError(
            "learned_projection needs vectors of codes and of descriptions of one width, not "
            f"{' and '.join(str(table.width) for table in tables)}; use pca or pad_smart"
        )
    width: dict[str, Any] = {_PROJECTS: tables[0].width}
    return replace(config, **width)


@torch.no_grad()
def _lay(
    embedding: torch.Tensor,
    found: Sequence[Found],
    table: Vectors,
    method: Method | None,
    std: float,
    how: CodesConfig,
) -> None:
    """Write the rows of a table into an embedding [V, W]."""
    if not found:
        return
    used, place = np.unique([f.row for f in found], return_inverse=True)
    chosen = table.matrix[used]
    if method is not None:
        width = embedding.shape[1]
        chosen = resize(chosen, width, method, seed=how.seed, fit_on=table.matrix)
    rows = chosen[place]
    rows *= std / (float(rows.std()) or 1.0)
    noisy = np.array([f.noisy for f in found])
    drawn = np.random.default_rng(how.seed).standard_normal(
        (noisy.sum(), rows.shape[1]), np.float32
    )
    rows[noisy] += np.float32(how.noise * std) * drawn
    ids = torch.tensor([f.word.id for f in found])
    embedding[ids] = torch.from_numpy(rows).to(embedding)
