"""What train says of values: of each code in each unit its bins, and the scale of its trends.

M measures: a code in a unit, or a code whatever its units.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl

from ehr_eval.counts.config import CountsConfig

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Measures:
    """M things that are measured often enough to say something of their values."""

    names: list[str]
    """[M] the code; with its unit where train has it in several."""
    of: pl.DataFrame
    """code, unit ("" for none), measure: a number below M."""
    edges: dict[str, list[float]]
    """Name -> inner edges of its bins, which hold their lower edge; of those whose values differ."""
    center: Floats
    """[M] median of train."""
    spread: Floats
    """[M] distance from the lower to the upper quartile, else the standard deviation."""


def measured(events: pl.DataFrame, config: CountsConfig) -> pl.DataFrame:
    """code, unit, numeric_value and what else there is, of the events whose value is a number.

    Args:
        events: Perhaps with `unit`.
        config: `units`: else all are in one.
    """
    unit = pl.col("unit").fill_null("") if "unit" in events.columns and config.units else pl.lit("")
    return events.filter(pl.col("numeric_value").is_finite()).with_columns(unit=unit)


def fit_measures(values: pl.DataFrame, config: CountsConfig) -> Measures:
    """Name what is measured, by its name, and find its bins and scale.

    Args:
        values: code, unit, numeric_value (finite) of train subjects.
        config: `bins` and `min_values`.

    Examples:
        >>> table = pl.DataFrame({"code": ["A"] * 5, "unit": ["g", "g", "kg", "kg", "g"],
        ...     "numeric_value": [1.0, 2.0, 0.1, 0.2, 3.0]})
        >>> found = fit_measures(table, CountsConfig(bins=2, min_values=2))
        >>> found.names, found.edges
        (['A//g', 'A//kg'], {'A//g': [2.0], 'A//kg': [0.2]})
    """
    units = pl.col("unit").n_unique().over("code")
    several = pl.concat_str("code", "unit", separator="//")
    named = values.with_columns(
        name=pl.when((units == 1) | (pl.col("unit") == "")).then("code").otherwise(several)
    )
    of = named.select("code", "unit", "name").unique()
    edges: dict[str, list[float]] = {}
    names, scale = [], []
    groups = named.sort("name", "numeric_value").group_by("name", maintain_order=True)
    for (name,), group in groups:
        if group.height < config.min_values:
            continue
        ordered = group["numeric_value"].to_numpy()
        if ordered[0] == ordered[-1]:
            continue
        names.append(str(name))
        scale.append(_scale(ordered))
        if config.bins > 1:
            found = quantile_edges(ordered, config.bins)
            edges.update({str(name): found} if found else {})
    number = pl.DataFrame(
        {"name": names, "measure": np.arange(len(names))},
        {"name": pl.String, "measure": pl.Int64},
    )
    center, spread = np.array(scale, np.float64).reshape(-1, 2).T
    of = of.join(number, on="name").select("code", "unit", "measure")
    return Measures(names, of, edges, center, spread)


def quantile_edges(ordered: npt.NDArray[np.floating], bins: int) -> list[float]:
    """Inner edges of bins that hold about equally many; none for values that do not differ.

    Args:
        ordered: Ascending.
        bins: Their number, less where edges meet.

    Examples:
        >>> quantile_edges(np.array([1.0, 2.0, 3.0, 4.0]), 2), quantile_edges(np.zeros(4), 2)
        ([3.0], [])
    """
    ranks = np.arange(1, bins) * len(ordered) // bins
    found = np.unique(ordered[ranks])
    return [float(x) for x in found[found > ordered[0]]]


def _scale(ordered: npt.NDArray[np.floating]) -> tuple[float, float]:
    """Median, and quartile distance or, where that is 0, standard deviation."""
    lower, middle, upper = (float(ordered[len(ordered) * i // 4]) for i in (1, 2, 3))
    return middle, (upper - lower) or float(np.std(ordered.astype(np.float64)))
