"""Models that were trained with several seeds: means over seeds, and how far the seeds are apart.

`gpt2@0` and `gpt2@1` are two seeds of `gpt2`. Bounds here are the means of the seeds' bounds, which results without
draws must do with; `ehr_eval.compare.resampled` has those of the means themselves.
"""

from collections.abc import Iterable

import polars as pl

from ehr_tracking.errors import UserError

SEED = "@"
"""Between a model's name and its seed."""
CELL = ("results", "level", "task", "model", "head", "k", "metric")
"""What names a score over seeds."""
TASK, GROUP = "task", "group"
"""Levels of a score."""


def model_of(name: str) -> str:
    """The model that a seed is of.

    Examples:
        >>> model_of("gpt2@1"), model_of("counts")
        ('gpt2', 'counts')
    """
    return name.rpartition(SEED)[0] or name


def refuse_clashes(names: Iterable[str]) -> None:
    """Refuse a model that is there with seeds and without one.

    Raises:
        UserError: Naming it.

    Examples:
        >>> refuse_clashes(["gpt2@0", "gpt2@1", "counts"])
    """
    known = set(names)
    both = sorted(name for name in known if model_of(name) != name and model_of(name) in known)
    if both:
        raise UserError(
            f"there are {model_of(both[0])} and {both[0]}: a model has seeds or has none; evaluate one under "
            "another name"
        )


def over_seeds(scores: pl.DataFrame) -> pl.DataFrame:
    """One row a model where there was one a seed.

    Args:
        scores: `CELL`, value, lower, upper, n, positives; `model` with its seed.

    Returns:
        `CELL`, value, lower, upper: means over seeds; seeds: how many have a value; sd: of their values (n - 1);
        least, most: of their values; n, positives. Null where there is none.
    """
    value = pl.col("value")
    return (
        scores.with_columns(without_seed("model"))
        .group_by(CELL, maintain_order=True)
        .agg(
            *(pl.col(name).mean() for name in ("value", "lower", "upper")),
            seeds=value.count().cast(pl.Int64),
            sd=value.std(),
            least=value.min(),
            most=value.max(),
            n=pl.col("n").first(),
            positives=pl.col("positives").first(),
        )
    )


def pairs_of_seeds(compared: pl.DataFrame, order: list[str]) -> pl.DataFrame:
    """Every two seeds of two models, each once, by task.

    Args:
        compared: results, and the columns of `comparisons.parquet`.
        order: Models; that which comes first is the one that the other is subtracted from.

    Returns:
        `PAIR`, seed and other_seed: the two with their seeds; model_auroc, other_auroc, difference, lower, upper.
    """
    place = {name: i for i, name in enumerate(order)}
    named = compared.rename(_NAMES).with_columns(
        without_seed("seed").alias("model"),
        without_seed("other_seed").alias("other"),
        level=pl.lit(TASK),
    )
    named = named.filter(pl.col("model") != pl.col("other"))
    late = pl.col("model").replace_strict(place) > pl.col("other").replace_strict(place)
    turned = named.filter(late).with_columns(
        *(pl.col(a).alias(b) for one in _TURNED for a, b in (one, one[::-1])),
        difference=-pl.col("difference"),
        lower=-pl.col("upper"),
        upper=-pl.col("lower"),
    )
    whole = pl.concat([named.filter(~late), turned]).select(*PAIR, *SEEDS, *_MEANS)
    # a pair that was asked for by name may be there the other way round as well
    return whole.unique([*PAIR, *SEEDS], keep="first", maintain_order=True)


def differences(pairs: pl.DataFrame) -> pl.DataFrame:
    """One row for every two models where there was one for every two of their seeds.

    Args:
        pairs: Of `pairs_of_seeds`, with groups of tasks.

    Returns:
        `PAIR`; model_auroc, other_auroc, difference, lower, upper: means over pairs of seeds; pairs: how many; ahead:
        in how many of them the model is.
    """
    return pairs.group_by(PAIR, maintain_order=True).agg(
        *(pl.col(name).mean() for name in _MEANS),
        pairs=pl.len().cast(pl.Int64),
        ahead=(pl.col("difference") > 0).sum().cast(pl.Int64),
    )


PAIR = ("results", "level", "task", "model", "other", "head", "other_head", "k")
"""What names a difference over seeds."""
SEEDS = ("seed", "other_seed")
"""The two models with their seeds."""
_NAMES = {
    "model": "seed",
    "baseline": "other_seed",
    "baseline_head": "other_head",
    "baseline_auroc": "other_auroc",
}
_TURNED = (
    ("seed", "other_seed"),
    ("model", "other"),
    ("head", "other_head"),
    ("model_auroc", "other_auroc"),
)
_MEANS = ("model_auroc", "other_auroc", "difference", "lower", "upper")


def without_seed(column: str) -> pl.Expr:
    """`model_of` of a column."""
    # `rpartition` as an expression: a name that ends in @ and something is a seed's
    return pl.col(column).str.replace(r"^(.+)@[^@]*$", "${1}")
