"""A comparison of evaluated models: `comparison/1`."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from ehr_eval.compare.costs import read_costs, write_costs
from ehr_eval.compare.markdown import write_leaderboard
from ehr_eval.compare.methods import write_methods
from ehr_eval.compare.opened import open_given
from ehr_eval.compare.page import write_page
from ehr_eval.compare.shown import each, leaders
from ehr_eval.compare.tables import read_tables, write_tables
from ehr_eval.frames import PRODUCER
from ehr_tracking.contracts import COMPARISON
from ehr_tracking.files import PathLike
from ehr_tracking.manifest import new_artifact, refuse_existing, seal
from ehr_tracking.names import require_name


def run_compare(  # noqa: PLR0913 -- the inputs of an artifact
    results: Mapping[str, PathLike],
    out: PathLike,
    *,
    runs: Mapping[str, PathLike] | None = None,
    features: Mapping[str, PathLike] | None = None,
    predictions: Mapping[str, PathLike] | None = None,
    tokens: Mapping[str, PathLike] | None = None,
    labels: Sequence[PathLike] = (),
    audits: Sequence[PathLike] = (),
    costs: PathLike | None = None,
    title: str = "Comparison",
    overwrite: bool = False,
) -> list[dict[str, object]]:
    """Write `comparison/1`.

    Args:
        results: Name -> `results/1`.
        out: Where the artifact shall be.
        runs: Model, with its seed where it has one (`gpt2@0`), -> its `run/1`.
        features: The same -> its `features/1`.
        predictions: The same -> its `predictions/1`.
        tokens: Name -> `tokens/1` that models were trained on.
        labels: `labels/1` that the results are of.
        audits: `audit/1` of any of these.
        costs: CSV file, see `ehr_eval.compare.costs`.
        title: Of the page.
        overwrite: Replace a comparison that is there.

    Returns:
        The leaderboard: a row a model and head, the highest mean AUROC first.

    Raises:
        ContractError: If an input is not what it should be, or of another lineage than the results.
        UserError: If `out` exists, or names clash.
    """
    out, costs = Path(out), None if costs is None else Path(costs)
    for name in results:
        require_name(name, "results")
    named = [
        path
        for of in (results, runs, features, predictions, tokens)
        for path in (of or {}).values()
    ]
    read = [*named, *labels, *audits, *([costs] if costs else [])]
    refuse_existing(out, COMPARISON, overwrite=overwrite, inputs=read)
    given = open_given(
        results,
        runs=runs or {},
        features=features or {},
        predictions=predictions or {},
        tokens=tokens or {},
        labels=labels,
        audits=audits,
    )
    tables, spent = read_tables(given), read_costs(given, costs)
    with new_artifact(out, COMPARISON, overwrite=overwrite, inputs=read) as partial:
        rows = write_tables(partial, tables, given)
        rows["costs.csv"] = write_costs(partial / "costs.csv", spent)
        write_leaderboard(partial / "leaderboard.md", tables, given)
        write_methods(partial / "methods.md", given)
        write_page(partial, tables, given, spent, title)
        seal(
            partial,
            COMPARISON,
            producer=PRODUCER,
            config={"title": title},
            inputs=given.sources,
            rows=rows,
        )
    several = len(given.results) > 1
    return [
        {**({"results": name} if several else {}), **row}
        for name, item, _ in each(given)
        for row in leaders(tables, name, item)
    ]
