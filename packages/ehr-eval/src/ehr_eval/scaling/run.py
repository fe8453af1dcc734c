"""A study of scaling: `scaling/1`."""

from collections.abc import Mapping
from pathlib import Path

import polars as pl

from ehr_eval.compare.opened import open_given
from ehr_eval.frames import PRODUCER
from ehr_eval.scaling.config import ScalingConfig
from ehr_eval.scaling.fits import fit, fit_rows, series_of
from ehr_eval.scaling.page import law_rows, write_page, write_tables
from ehr_eval.scaling.points import read_points
from ehr_tracking.config import to_dict
from ehr_tracking.contracts import SCALING
from ehr_tracking.errors import UserError
from ehr_tracking.files import PathLike
from ehr_tracking.manifest import new_artifact, refuse_existing, seal


def run_scaling(
    results: Mapping[str, PathLike],
    runs: Mapping[str, PathLike],
    out: PathLike,
    config: ScalingConfig | None = None,
    *,
    overwrite: bool = False,
) -> list[dict[str, object]]:
    """Write `scaling/1`.

    Args:
        results: Name -> `results/1` that know the best possible.
        runs: Model, with its seed where it has one (`gpt2@0`), -> its `run/1`.
        out: Where the artifact shall be.
        config: Head, k, and how is fitted.
        overwrite: Replace a study that is there.

    Returns:
        A row a family and figure: the law, or why there is none.

    Raises:
        ContractError: If an input is not what it should be, or runs are not those of the results.
        UserError: If `out` exists, or no family has enough runs.
    """
    out, config = Path(out), config or ScalingConfig()
    read = [*results.values(), *runs.values()]
    refuse_existing(out, SCALING, overwrite=overwrite, inputs=read)
    given = open_given(
        results, runs=runs, features={}, predictions={}, tokens={}, labels=(), audits=()
    )
    points = read_points(given, config)
    fits = [fit(series, config) for series in series_of(points)]
    if all(one.law is None for one in fits):
        raise UserError(f"nothing to fit: {fits[0].series.family}: {fits[0].reason}")
    with new_artifact(out, SCALING, overwrite=overwrite, inputs=read) as partial:
        tables = {
            "points.csv": pl.DataFrame(points, infer_schema_length=None),
            "fits.csv": pl.DataFrame(fit_rows(fits), infer_schema_length=None),
        }
        for name, rows in tables.items():
            rows.write_csv(partial / name)
        write_tables(partial / "tables.md", points, fits)
        write_page(partial, points, fits, config, given.sources)
        seal(
            partial,
            SCALING,
            producer=PRODUCER,
            config=to_dict(config),
            seed=config.seed,
            inputs=given.sources,
            rows={name: rows.height for name, rows in tables.items()},
        )
    return law_rows(fits)
