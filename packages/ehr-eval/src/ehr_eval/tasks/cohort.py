"""Who is in a task: rows, positives and what was left out by reason, of each split."""

from collections.abc import Mapping
from html import escape
from pathlib import Path

import polars as pl

from ehr_eval.tasks.draw import draw
from ehr_eval.tasks.labelers import ANSWERS, DURATION, LEFT_OUT, ROW, SEVERITY
from ehr_tracking.contracts import SPLITS
from ehr_tracking.report import html_page, table
from ehr_tracking.tree import COHORT

ROWS, POSITIVES, SUBJECTS = "rows", "positives", "subjects"
_KEY = ROW[:2]
_ONE = {
    ANSWERS["yes"]: pl.col(ANSWERS["yes"]).any(),
    ANSWERS["code"]: pl.col(ANSWERS["code"]).min(),
    ANSWERS["value"]: pl.col(ANSWERS["value"]).max(),
    DURATION: pl.col(DURATION).min(),
    SEVERITY: pl.col(SEVERITY).max().cast(pl.Int8),
}
"""Columns of an answer, and what counts of two rows at one time."""
_SCHEMA: dict[str, pl.DataType | type[pl.DataType]] = {"task": pl.String, "what": pl.String, "split": pl.String, "count": pl.Int64}  # fmt: skip


def rows_of(
    every: pl.DataFrame, name: str, *, most: int | None, seed: int
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The rows of a task, and what became of the others.

    Args:
        every: subject_id, prediction_time, columns of an answer, left_out (may lack).
        name: Of the task.
        most: Rows of a subject that are kept; null: all.
        seed: Of that draw.

    Returns:
        One row a (subject, time), by both; and subject_id, left_out, n: how many of a subject are none.
    """
    if LEFT_OUT not in every.columns:
        every = every.with_columns(pl.lit(None, pl.String).alias(LEFT_OUT))
    kept = every.filter(pl.col(LEFT_OUT).is_null())
    answer = [column for name, column in _ONE.items() if name in every.columns]
    once = kept.group_by(_KEY).agg(answer).sort(_KEY)
    few = once if most is None else draw(once, most, name=name, seed=seed)
    odd = every.filter(pl.col(LEFT_OUT).is_not_null())
    left = [odd.group_by("subject_id", LEFT_OUT).agg(n=pl.len())]
    for reason, all_, some in (
        ("at the time of another row", kept, once),
        ("beyond rows_per_subject", once, few),
    ):
        n = (
            all_["subject_id"]
            .value_counts(name="n")
            .join(some["subject_id"].value_counts(name="kept"), on="subject_id", how="left")
        )
        gone = (pl.col("n") - pl.col("kept").fill_null(0)).alias("n")
        left.append(n.select("subject_id", pl.lit(reason).alias(LEFT_OUT), gone))
    return few, pl.concat(left).filter(pl.col("n") > 0)


def cohort(
    tables: Mapping[str, pl.DataFrame], left: Mapping[str, pl.DataFrame], subjects: pl.DataFrame
) -> pl.DataFrame:
    """Count.

    Args:
        tables: Task -> its rows.
        left: Task -> subject_id, left_out, n: how many rows of a subject are none.
        subjects: subject_id, split of everyone.

    Returns:
        task, what, split, count: for each task and split `subjects`, `rows`, `positives` of its rows, then
        each reason (the most frequent first) with what it left out.
    """
    whose = subjects.select("subject_id", "split")
    found = [pl.DataFrame(schema=_SCHEMA)]
    for task, made in tables.items():
        mine = made.join(whose, on="subject_id", how="left").group_by("split")
        odd = left[task].join(whose, on="subject_id", how="left")
        frequent = odd.group_by(LEFT_OUT).agg(pl.col("n").sum())
        counts = {
            SUBJECTS: mine.agg(count=pl.col("subject_id").n_unique()),
            ROWS: mine.agg(count=pl.len()),
            **({POSITIVES: mine.agg(count=pl.col(ANSWERS["yes"]).sum())} if ANSWERS["yes"] in made.columns else {}),
            **{
                reason: odd.filter(pl.col(LEFT_OUT) == reason).group_by("split").agg(count=pl.col("n").sum())
                for reason in frequent.sort("n", LEFT_OUT, descending=[True, False])[LEFT_OUT]
            },
        }  # fmt: skip
        every = pl.DataFrame({"split": SPLITS})
        for what, count in counts.items():
            told = every.join(count, on="split", how="left", maintain_order="left")
            told = told.with_columns(
                pl.col("count").fill_null(0), task=pl.lit(task), what=pl.lit(what)
            )
            found.append(told.select(list(_SCHEMA)).cast({"count": pl.Int64}))
    return pl.concat(found)


def sizes(counted: pl.DataFrame) -> pl.DataFrame:
    """task, split, rows, positives (null where the answer is no yes or no), of a cohort."""
    found = [
        counted.filter(pl.col("what") == what).select("task", "split", pl.col("count").alias(what))
        for what in (ROWS, POSITIVES)
    ]
    return found[0].join(found[1], on=["task", "split"], how="left", maintain_order="left")


def reasons_of(counted: pl.DataFrame) -> pl.DataFrame:
    """task, left_out, rows and a column a split, of a cohort: what was left out."""
    odd = counted.filter(~pl.col("what").is_in([SUBJECTS, ROWS, POSITIVES]))
    wide = odd.pivot("split", index=["task", "what"], values="count", maintain_order=True)
    there = [split for split in SPLITS if split in wide.columns]
    total = pl.sum_horizontal(there) if there else pl.lit(0, pl.Int64)
    return wide.select("task", pl.col("what").alias(LEFT_OUT), total.alias("rows"), *there)


def write_cohort(
    directory: Path, counted: pl.DataFrame, definitions: Mapping[str, str]
) -> dict[str, int]:
    """Write cohort.parquet, cohort.md and cohort.html.

    Args:
        directory: Of the labels.
        counted: From `cohort`.
        definitions: Task -> what it asks.

    Returns:
        Path in `directory` of the table -> its rows.
    """
    (directory / COHORT).mkdir()
    counted.write_parquet(directory / COHORT / "cohort.parquet")
    wide = counted.pivot("split", index=["task", "what"], values="count", maintain_order=True)
    lines, body = ["# Cohorts", ""], []
    for task in wide["task"].unique(maintain_order=True):
        rows = [
            {"": row["what"], **{s: row[s] for s in SPLITS}, "all": sum(row[s] for s in SPLITS)}
            for row in wide.filter(pl.col("task") == task).iter_rows(named=True)
        ]
        lines += [f"## {task}", "", definitions[task], "", *_markdown(rows), ""]
        told = f"<h2>{escape(task)}</h2><p>{escape(definitions[task])}</p>"
        body.append(told + table(rows))
    (directory / COHORT / "cohort.md").write_text("\n".join(lines), encoding="utf-8")
    page = html_page(
        "Cohorts", ["<p>Below the positives: rows that are none, by reason.</p>", *body]
    )
    (directory / COHORT / "cohort.html").write_text(page, encoding="utf-8")
    return {f"{COHORT}/cohort.parquet": counted.height}


def _markdown(rows: list[dict[str, object]]) -> list[str]:
    names = list(rows[0])
    numbers = "|".join(["---"] + ["---:"] * (len(names) - 1))
    told = [[f"{x:,}" if isinstance(x, int) else str(x) for x in row.values()] for row in rows]
    return [f"| {' | '.join(names)} |", f"|{numbers}|", *(f"| {' | '.join(t)} |" for t in told)]
