"""MEDS rows -> what can be told of each subject."""

from collections.abc import Iterator, Mapping

import numpy as np
import numpy.typing as npt
import polars as pl

from ehr_tokenize.narrative.config import NarrateConfig
from ehr_tokenize.narrative.terms import Terms
from ehr_tokenize.narrative.text import Record, say_bin, say_value
from ehr_tracking.arrow.meds import STATIC

Edges = Mapping[str, npt.NDArray[np.float32]]
"""Code -> inner edges of its bins, ascending."""


def records(
    events: pl.DataFrame, terms: Terms, config: NarrateConfig, edges: Edges | None = None
) -> Iterator[tuple[int, Record]]:
    """Subject by subject, from rows sorted by subject.

    Args:
        events: Rows.
        terms: What codes are called.
        config: How.
        edges: Of the bins by which values are told.
    """
    said = _said(events, terms, config, edges or {}).filter(~pl.col("excluded"))
    static, kind = pl.col("time") == STATIC, pl.col("demographic")
    birth = said.filter(pl.col("birth") & ~static)
    told = said.filter(~pl.col("birth"))
    statics, ahead = told.filter(static), told.filter(~static, kind.is_not_null())
    rest = told.filter(~static, kind.is_null())

    subjects = said["subject_id"].unique().sort()
    bounds = [_bounds(part, subjects) for part in (birth, statics, ahead, rest)]
    born, time = birth["time"].to_list(), rest["time"].to_numpy()
    always, text = statics["text"].to_list(), rest["text"].to_list()
    early = ahead.select("time", "demographic", "text").rows()
    for i, subject in enumerate(subjects.to_list()):
        b, s, a, r = (slice(x[i], x[i + 1]) for x in bounds)
        yield subject, Record(next(iter(born[b]), None), always[s], early[a], time[r], text[r])


def _bounds(part: pl.DataFrame, subjects: pl.Series) -> list[int]:
    """Where the rows of each subject begin, and the end."""
    found: list[int] = np.searchsorted(part["subject_id"], subjects).tolist()
    return [*found, part.height]


def _said(events: pl.DataFrame, terms: Terms, config: NarrateConfig, edges: Edges) -> pl.DataFrame:
    """[E] subject, time, text and kind of each event."""
    codes = events["code"].unique(maintain_order=True)
    phrases = terms.phrases(codes.to_list())
    said = pl.DataFrame(
        {
            "code": codes,
            "phrase": [p.text for p in phrases],
            "code_unit": [p.unit for p in phrases],
            "birth": [p.birth for p in phrases],
            "excluded": [p.excluded for p in phrases],
            "demographic": pl.Series([p.demographic for p in phrases], dtype=pl.String),
        },
        schema_overrides={
            "phrase": pl.String,
            "code_unit": pl.String,
            "birth": pl.Boolean,
            "excluded": pl.Boolean,
        },
    )
    blank = pl.lit("")
    unit = _squeezed("unit")
    unit = pl.when(unit.is_in(config.no_unit)).then(blank).otherwise(unit)
    unit = pl.when(unit == "").then(pl.col("code_unit")).otherwise(unit)
    spoken = _squeezed("text_value") if config.text_values else blank
    value = pl.coalesce("number", spoken)
    return (
        events.join(said, on="code", how="left", maintain_order="left")
        .join(
            _numbers(events, edges, number=config.bin_names == "number"),
            on=["code", "numeric_value"] if edges else ["numeric_value"],
            how="left",
            maintain_order="left",
        )
        .select(
            "subject_id",
            pl.col("time").cast(pl.Int64).fill_null(int(STATIC)),
            "birth",
            "excluded",
            "demographic",
            # a unit belongs to a value: "Glucose 5.4 mmol/L", but "Glucose" where there is none
            text=pl.concat_str(
                "phrase",
                pl.when(value == "").then(blank).otherwise(pl.lit(" ") + value),
                pl.when((value == "") | (unit == "") | pl.col("numbered").fill_null(False))
                .then(blank)
                .otherwise(pl.lit(" ") + unit),
            ),
        )
    )


def _squeezed(column: str) -> pl.Expr:
    """Text on one line, empty where there is none."""
    return pl.col(column).fill_null("").str.replace_all(r"\s+", " ").str.strip_chars()


def _numbers(events: pl.DataFrame, edges: Edges, *, number: bool) -> pl.DataFrame:
    """Each value that occurs, with edges that of each code -> its text; NaN is no value.

    `numbered` says whether the text is the number of a bin, which has no unit.
    """
    columns = ["code", "numeric_value"] if edges else ["numeric_value"]
    found = (
        events.select(columns).drop_nulls().filter(pl.col("numeric_value").is_not_nan()).unique()
    )
    values = found["numeric_value"].to_list()
    codes = found["code"].to_list() if edges else [""] * len(values)
    said = [
        say_bin(edges[code], value, number=number) if code in edges else say_value(value)
        for code, value in zip(codes, values, strict=True)
    ]
    numbered = [number and code in edges for code in codes]
    return found.with_columns(
        number=pl.Series(said, dtype=pl.String), numbered=pl.Series(numbered, dtype=pl.Boolean)
    )
