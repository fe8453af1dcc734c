"""How the vector of each token was found: a table, its summary, and a plot."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ehr_models.codes.find import HOWS, Found
from ehr_tracking.files import PathLike
from ehr_tracking.report import COLOURS, new_figure, save_figure

if TYPE_CHECKING:
    import pyarrow as pa

TABLE, PLOT = "codes.parquet", "codes.png"
"""Their files, in a checkpoint."""
UNKNOWN = "(none)"
"""The vocabulary of codes that no rule knows."""


def report_table(found: Sequence[Found]) -> "pa.Table":
    """A row for each token that stands for a code.

    Returns:
        `id`, `token`, `code`; `vocabulary` and `name` that the code stands for, or nulls; `found`
        (exact, description, parent or random); `used`: the code or description whose vector it is, or
        null; `level`: how many steps above its own code that is (int32); `noise`: whether some was
        added.
    """
    import pyarrow as pa

    return pa.table(
        {
            "id": pa.array([f.word.id for f in found], pa.int32()),
            "token": pa.array([f.word.token for f in found], pa.string()),
            "code": pa.array([f.word.code for f in found], pa.string()),
            "vocabulary": pa.array([f.key and f.key.vocabulary for f in found], pa.string()),
            "name": pa.array([f.key and f.key.code for f in found], pa.string()),
            "found": pa.array([f.how for f in found], pa.string()),
            "used": pa.array([f.used and str(f.used) for f in found], pa.string()),
            "level": pa.array([f.level for f in found], pa.int32()),
            "noise": pa.array([f.noisy for f in found], pa.bool_()),
        }
    )


def summary_rows(found: Sequence[Found]) -> list[dict[str, object]]:
    """Tokens of each vocabulary by how their vectors were found, all of them last.

    Parents are told apart by their level: 1, 2, and 3 or more steps up.
    """
    counts: Counter[tuple[str, str]] = Counter()
    for f in found:
        vocabulary = f.key.vocabulary if f.key else UNKNOWN
        column = f"parent {min(f.level, 3)}" if f.how == "parent" else f.how
        counts[vocabulary, column] += 1
        counts["all", column] += 1
    columns = ("exact", "description", "parent 1", "parent 2", "parent 3", "random")
    names = sorted({v for v, _ in counts} - {"all", UNKNOWN})
    shown = [*names, *([UNKNOWN] if any(v == UNKNOWN for v, _ in counts) else []), "all"]
    return [
        {
            "vocabulary": name,
            "tokens": sum(counts[name, c] for c in columns),
            **{c + "+" * c.endswith("3"): counts[name, c] for c in columns},
        }
        for name in shown
    ]


def plot(path: PathLike, found: Sequence[Found]) -> None:
    """Shares of tokens by vocabulary and how their vectors were found, as PNG."""
    bars: dict[str, Counter[str]] = {}
    for f in found:
        bars.setdefault(f.key.vocabulary if f.key else UNKNOWN, Counter())[f.how] += 1
    names = sorted(bars, key=lambda name: (name == UNKNOWN, name))
    figure, axes = new_figure((6.4, 1.6 + 0.35 * len(names)))
    left = [0.0] * len(names)
    for how, colour in zip(HOWS, COLOURS, strict=False):
        shares = [bars[name][how] / bars[name].total() for name in names]
        axes.barh(names, shares, left=left, label=how, color=colour)
        left = [a + b for a, b in zip(left, shares, strict=True)]
    axes.set_yticks(range(len(names)), [f"{n} ({bars[n].total():,})" for n in names])
    axes.invert_yaxis()
    axes.set(title="Where the vectors of codes come from", xlabel="share of tokens", xlim=(0, 1))
    figure.legend(loc="outside lower center", ncols=len(HOWS), frameon=False)
    save_figure(figure, Path(path))
