"""Who a labelled row is of, as known at its prediction time: sex, age band, race, any code.

R rows.
"""

from collections.abc import Iterator, Sequence
from dataclasses import field
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
import numpy.typing as npt
import polars as pl
from pydantic import PositiveFloat, PositiveInt, model_validator
from pydantic.dataclasses import dataclass

from ehr_eval.frames import KEY, read_events
from ehr_eval.tasks.patterns import matching
from ehr_tracking.config import STRICT, ConfigError, Regex
from ehr_tracking.names import require_name
from ehr_tracking.tree import note

AGE, UNKNOWN = "age", "unknown"
_YEAR_US = 365.25 * 86_400e6
_USUAL = {"sex": r"^(GENDER|SEX)//", "race": r"^(RACE|ETHNICITY)//"}


@dataclass(frozen=True, kw_only=True, config=STRICT)
class GroupsConfig:
    """By what held-out rows are parted."""

    attributes: dict[str, Regex] = field(default_factory=lambda: dict(_USUAL))
    """Name -> codes of which a subject has one: what follows the match in the last known one is the group."""
    codes: dict[str, Regex] = field(default_factory=dict)
    """Name -> codes of which a subject has had any up to the prediction time (`yes`), or none (`no`)."""
    birth: Regex = "^MEDS_BIRTH"
    age_bands: tuple[PositiveFloat, ...] = (18, 45, 65, 80)
    """Years at the prediction time that part the bands; empty: no groups by age."""
    least: PositiveInt = 11
    """Groups of fewer patients are not told, so that nobody is recognised."""

    @model_validator(mode="after")
    def _names(self) -> Self:
        names = [*self.attributes, *self.codes, *([AGE] if self.age_bands else [])]
        for name in names:
            require_name(name, "group")
            if names.count(name) > 1:
                raise ValueError(f"two groups are called {name}")
        if list(self.age_bands) != sorted(set(self.age_bands)):
            raise ValueError("age_bands must ascend, each once")
        return self


class Level(NamedTuple):
    """One group of an attribute, e.g. the women."""

    group: str
    level: str
    inside: npt.NDArray[np.bool_]
    """[R] which rows are in it."""
    told: bool
    """Whether it is large enough to be told."""


def read_groups(files: Sequence[Path], rows: pl.DataFrame, config: GroupsConfig) -> pl.DataFrame:
    """The group of each row by each attribute.

    What is asked of a row is what was recorded up to its prediction time, that time included, and what
    has no time.

    Args:
        files: Events of a MEDS data set, each subject in one of them.
        rows: [R] subject_id, prediction_time, each pair once.
        config: The attributes.

    Returns:
        [R] the two, and a column of text for each attribute, in the order of `rows`.

    Raises:
        ConfigError: If no code of the data set matches what was asked for.
    """
    patterns = {**config.attributes, **config.codes}
    if config.age_bands:
        patterns[AGE] = config.birth
    found: dict[str, list[pl.DataFrame]] = {name: [] for name in patterns}
    for path in files:
        events = read_events(path).join(
            rows.select("subject_id").unique(), on="subject_id", how="semi"
        )
        codes = events["code"].unique()
        for name, pattern in patterns.items():
            mine = codes.filter(matching(codes, pattern))
            found[name].append(events.filter(pl.col("code").is_in(mine.implode())))
    out = rows.select(KEY)
    for name, parts in found.items():
        events = pl.concat(parts)
        if events.height:
            out = out.with_columns(_column(name, events, rows, config).alias(name))
        else:
            _tell_absent(name, patterns[name], config)
    return out


def _tell_absent(name: str, pattern: str, config: GroupsConfig) -> None:
    """Say that nothing of a usual attribute is there.

    Raises:
        ConfigError: Where it was asked for.
    """
    if name == AGE:
        note(f"no groups by age: no code of the labelled subjects matches {pattern} (groups.birth)")
    elif _USUAL.get(name) == pattern and name in config.attributes:
        note(f"no groups by {name}: no code of the labelled subjects matches {pattern}")
    else:
        kind = "codes" if name in config.codes else "attributes"
        raise ConfigError(
            f"groups.{kind}.{name}: no code of the labelled subjects matches {pattern!r}"
        )


def _column(name: str, events: pl.DataFrame, rows: pl.DataFrame, config: GroupsConfig) -> pl.Series:
    """[R] the group of each row."""
    known = _last_known(events, rows)
    if name in config.codes:
        return known["code"].is_not_null().replace_strict({True: "yes", False: "no"})
    if name != AGE:
        level = known["code"].str.replace(config.attributes[name], "").str.strip_chars("/ ")
        return level.replace("", None).fill_null(UNKNOWN)
    age = (known["prediction_time"] - known["time"]).dt.total_microseconds() / _YEAR_US
    bands = config.age_bands
    between = [f"{low:g} to below {high:g}" for low, high in pairwise(bands)]
    names = np.array([f"below {bands[0]:g}", *between, f"{bands[-1]:g} and more", UNKNOWN])
    number = np.searchsorted(bands, age.fill_null(0).to_numpy(), side="right")
    return pl.Series(
        names[np.where(age.is_null().to_numpy(), len(names) - 1, number)], dtype=pl.String
    )


def _last_known(events: pl.DataFrame, rows: pl.DataFrame) -> pl.DataFrame:
    """[R] rows with the last code, and its time, up to the prediction time; null where there is none."""
    always = (
        events.filter(pl.col("time").is_null()).group_by("subject_id").agg(pl.col("code").last())
    )
    timed = events.filter(pl.col("time").is_not_null()).sort("time", maintain_order=True)
    found = (
        rows.select(KEY)
        .with_row_index("at")
        .sort("prediction_time")
        .join_asof(
            timed.select("subject_id", "time", "code"),
            left_on="prediction_time",
            right_on="time",
            by="subject_id",
            strategy="backward",
            check_sortedness=False,
        )
        .join(always.rename({"code": "always"}), on="subject_id", how="left")
    )
    return found.with_columns(pl.coalesce("code", "always").alias("code")).sort("at")


def levels(groups: pl.DataFrame, subject_id: npt.NDArray[np.int64], least: int) -> Iterator[Level]:
    """The groups of each attribute, in the order of their names; bands of age by age.

    Groups of fewer than `least` patients are not told. Where those of an attribute are fewer together,
    what is told of all others would tell them by subtraction, so the next smallest is not told either.

    Args:
        groups: [R] columns of text.
        subject_id: [R].
        least: Patients.

    Examples:
        >>> sex = pl.DataFrame({"sex": ["F", "F", "M", "M", "M", "x"]})
        >>> [(one.level, one.told) for one in levels(sex, np.arange(6), least=2)]
        [('F', False), ('M', True), ('x', False)]
    """
    for name in groups.columns:
        column = groups[name].to_numpy()
        inside = {level: column == level for level in sorted(set(column), key=_by_age)}
        patients = {level: len(np.unique(subject_id[rows])) for level, rows in inside.items()}
        hidden: set[str] = set()
        for level in sorted(patients, key=lambda level: patients[level]):
            together = sum(patients[other] for other in hidden)
            if patients[level] < least or 0 < together < least:
                hidden.add(level)
        for level, rows in inside.items():
            yield Level(name, level, rows, level not in hidden)


def _by_age(level: str) -> tuple[bool, float, str]:
    first = level.split(" ")[0]
    years = 0.0 if first == "below" else float(first) if first.replace(".", "").isdigit() else -1.0
    return level == UNKNOWN, years, level
