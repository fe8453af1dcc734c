"""From the width of vectors to the width of an embedding, in six ways.

N vectors, of width D; W the width of the embedding.
"""

from collections.abc import Callable
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from ehr_models.codes.vectors import Floats
from ehr_tracking.config import ConfigError

Method = Literal["auto", "truncate", "pca", "learned_projection", "pad_smart", "pad_random"]
METHODS: tuple[Method, ...] = get_args(Method)


def choose(source: int, target: int) -> Method | None:
    """What `auto` is for two widths; None where they are equal.

    Of r = target / source: r <= 0.8 `pca`, up to 1 `truncate`, below 1.2 `learned_projection`, from
    there on `pad_smart`.

    Examples:
        >>> [choose(100, target) for target in (80, 81, 99, 100, 101, 119, 120)]
        ['pca', 'truncate', 'truncate', None, 'learned_projection', 'learned_projection', 'pad_smart']
    """
    if target == source:
        return None
    if 10 * target <= 8 * source:
        return "pca"
    if target < source:
        return "truncate"
    return "learned_projection" if 10 * target < 12 * source else "pad_smart"


def resize(
    vectors: Floats, target: int, method: Method, *, seed: int = 0, fit_on: Floats | None = None
) -> Floats:
    """Vectors of another width.

    Args:
        vectors: [N, D]
        target: W.
        method: `truncate` keeps the first numbers; `pca` the first principal components of the
            centred vectors; `pad_smart` adds numbers that are the same random linear function of
            every vector, so that like codes stay alike; `pad_random` adds noise of the vectors'
            standard deviation; `learned_projection` changes nothing, since the model has a linear
            layer for it; `auto` is `choose`.
        seed: Of what is random.
        fit_on: [M, D] that `pca` is fitted on; by default the vectors.

    Returns:
        [N, W]; of `learned_projection` [N, D].

    Raises:
        ConfigError: If `truncate` or `pca` shall expand, or padding compress.

    Examples:
        >>> resize(np.array([[1, 2, 3]], np.float32), 2, "truncate").tolist()
        [[1.0, 2.0]]
    """
    source = vectors.shape[1]
    chosen = choose(source, target) if method == "auto" else method
    if chosen is None:
        return vectors
    if chosen in ("truncate", "pca") and target > source:
        raise ConfigError(f"{chosen} cannot expand vectors of {source} to {target}; use pad_smart")
    if chosen in ("pad_smart", "pad_random") and target < source:
        raise ConfigError(f"{chosen} cannot compress vectors of {source} to {target}; use pca")
    return _WAYS[chosen](vectors, target, seed, vectors if fit_on is None else fit_on)


def _truncate(vectors: Floats, target: int, seed: int, fit_on: Floats) -> Floats:  # noqa: ARG001
    return vectors[:, :target]


def _pca(vectors: Floats, target: int, seed: int, fit_on: Floats) -> Floats:  # noqa: ARG001
    """In float64; of each component the largest loading is positive."""
    if target > len(fit_on):
        raise ConfigError(
            f"pca finds no {target} components in {len(fit_on)} vectors; use truncate"
        )
    data = fit_on.astype(np.float64)
    mean = data.mean(0)
    data -= mean
    _, axes = np.linalg.eigh(data.T @ data)  # by rising variance
    axes = axes[:, ::-1][:, :target]
    largest = axes[np.abs(axes).argmax(0), np.arange(target)]
    scores: npt.NDArray[np.float64] = (vectors - mean) @ (axes * np.sign(largest))
    return scores.astype(np.float32)


def _learned_projection(vectors: Floats, target: int, seed: int, fit_on: Floats) -> Floats:  # noqa: ARG001
    return vectors


def _pad_smart(vectors: Floats, target: int, seed: int, fit_on: Floats) -> Floats:  # noqa: ARG001
    source = vectors.shape[1]
    rule = np.random.default_rng(seed).normal(0, source**-0.5, (source, target - source))
    return _beside(vectors, vectors @ rule)


def _pad_random(vectors: Floats, target: int, seed: int, fit_on: Floats) -> Floats:
    shape = (len(vectors), target - vectors.shape[1])
    return _beside(vectors, np.random.default_rng(seed).normal(0, float(fit_on.std()), shape))


def _beside(vectors: Floats, more: npt.NDArray[np.float64]) -> Floats:
    return np.concatenate([vectors, more.astype(np.float32)], 1)


_WAYS: dict[Method, Callable[[Floats, int, int, Floats], Floats]] = {
    "truncate": _truncate,
    "pca": _pca,
    "learned_projection": _learned_projection,
    "pad_smart": _pad_smart,
    "pad_random": _pad_random,
}
