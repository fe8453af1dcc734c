"""What parts took when they were made: the engine's records, and the file that the page reads."""

import csv
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple


class Cost(NamedTuple):
    """What a part took; of one that was killed and went on, its last stretch."""

    stage: str
    name: str
    seconds: float
    memory_mb: float | None


def read_costs(store: Path) -> dict[str, Cost]:
    """Stage and name of a part -> what it took when it was last made, by the engine's records."""
    found: dict[str, Cost] = {}
    for path in sorted((store / "costs").glob("*/*.tsv"), key=lambda p: p.stat().st_mtime_ns):
        name = path.stem.rpartition("-")[0]
        stage = path.parent.name
        if (cost := read_cost(path, stage, name)) is not None:
            found[f"{stage}/{name}"] = cost
    return found


def read_cost(path: Path, stage: str, name: str) -> Cost | None:
    """One record of the engine; None where there is none that is whole."""
    try:
        row = next(csv.DictReader(path.read_text("utf-8").splitlines(), delimiter="\t"))
        seconds, memory = float(row["s"]), row["max_rss"]
    except (OSError, StopIteration, KeyError, ValueError):
        return None
    return Cost(stage, name, seconds, None if memory in ("-", "NA") else float(memory))


def write_costs(path: Path, costs: Iterable[Cost]) -> None:
    """Write the costs file that `ehr-eval compare` reads."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(Cost._fields)
        rows.writerows(costs)


def main(plan: Path, out: Path) -> None:
    """Write the costs of all parts of a plan that are known, in its order.

    Args:
        plan: As the driver writes it for the engine.
        out: The CSV file.
    """
    tree = json.loads(plan.read_bytes())
    found = [
        read_cost(Path(one["costs"]), one["stage"], one["name"]) for one in tree["every"].values()
    ]
    write_costs(out, (cost for cost in found if cost is not None))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
