"""Published numbers, to be shown beside one's own: read from a file, never mixed with results."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from pydantic.dataclasses import dataclass

from ehr_eval.judge.metrics import METRICS
from ehr_eval.protocol.groups import OF_GROUPS
from ehr_tracking.config import STRICT, ConfigError, read_yaml, validate

EHRSHOT = "ehrshot"
"""The file that comes with the package."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class PublishedRow:
    """What one model reached, with all training rows."""

    model: str
    head: str
    source: str
    """Key of the file's sources."""
    auroc: Mapping[str, float]
    """Group -> mean over its tasks."""
    auprc: Mapping[str, float] | None = None

    @property
    def name(self) -> str:
        """What a person reads."""
        return f"{self.model} {self.head}"

    def of(self, metric: str) -> Mapping[str, float]:
        """Group -> value; empty where nothing was published."""
        found: Mapping[str, float] | None = {"auroc": self.auroc, "auprc": self.auprc}.get(metric)
        return found or {}


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Published:
    """A table of published numbers."""

    sources: Mapping[str, str]
    rows: tuple[PublishedRow, ...]

    def table(self, groups: Iterable[str], metric: str) -> list[dict[str, object]]:
        """A row a model, a column a group; the mean of groups where all are known.

        Args:
            groups: That one's own results have; without one of them in common there is no row.
            metric: `auroc` or `auprc`.
        """
        wanted = list(groups)
        rows: list[dict[str, object]] = []
        for row in self.rows:
            values = {group: row.of(metric).get(group) for group in wanted}
            known = [value for value in values.values() if value is not None]
            if known:
                mean = sum(known) / len(known) if len(known) == len(wanted) > 1 else None
                told: dict[str, object] = {"published": row.name, **values, OF_GROUPS: mean}
                rows.append({**told, "source": self.sources[row.source]})
        return rows

    def points(self, group: str, metric: str) -> dict[str, float]:
        """Model -> value of a group, for a plot."""
        return {row.name: v for row in self.rows if (v := row.of(metric).get(group)) is not None}


def read_published(reference: str) -> Published:
    """Read published numbers.

    Args:
        reference: `ehrshot`, or the path of a YAML file of the same shape.

    Raises:
        ConfigError: If there is no such file, or it is not of that shape.

    Examples:
        >>> table = read_published("ehrshot").table(["Operational", "Labs"], "auroc")
        >>> table[0]["published"], table[0]["Labs"], round(table[0]["mean of groups"], 3)
        ('CLMBR-T lr', 0.832, 0.828)
    """
    shipped = Path(__file__).parent / "ehrshot_published.yaml"
    path = shipped if reference == EHRSHOT else Path(reference)
    if not path.is_file():
        raise ConfigError(f"reference: {reference} is neither `{EHRSHOT}` nor a YAML file")
    found = validate(Published, read_yaml(path), where=str(path))
    for row in found.rows:
        if row.source not in found.sources:
            raise ConfigError(f"{path}: {row.model} names a source {row.source} that is not there")
    assert {"auroc", "auprc"} <= METRICS.keys()
    return found
