"""Labels by a task file, under the rules of the built-in tasks: stays, censoring, what is left out."""

from collections.abc import Sequence

import polars as pl

from ehr_eval.tasks.asked import asked
from ehr_eval.tasks.config import LabelsConfig
from ehr_eval.tasks.files import TaskFile
from ehr_eval.tasks.labelers import ANSWERS, LEFT_OUT, ROW, SEVERITY, asof, reasons
from ehr_eval.tasks.patterns import Codebook, CodePattern
from ehr_eval.tasks.record import Events, Record
from ehr_tracking.errors import UserError

_NEEDED = ("start", "start.until", "outcome", "together", "given", "require")


def label_by_file(
    events: Events, task: TaskFile, config: LabelsConfig, book: Codebook | None = None
) -> pl.DataFrame:
    """Rows of a task: subject_id, prediction_time, its answer, left_out (why one is none), recurrent, and severity.

    Args:
        events: Of some whole subjects, with those of `columns_of` and `config.visit_ids` that there are.
        task: Whose codes take the place of `admission` and `discharge`.
        config: What a death is, transfers, and what becomes of censored rows.
        book: Codes of the whole data set, and its ontology; by default the codes of these events.
    """
    book = book or Codebook(events.all["code"].unique(), {})
    record = Record(events, task, config, book)
    rows = _windows(asked(record, task, config), task, record)
    is_one = pl.col(LEFT_OUT).is_null()
    answered = _answered(rows.filter(is_one), record, task)
    answer = [ANSWERS[task.answer], *([SEVERITY] if task.grades else [])]
    columns = [*ROW[:2], *answer, LEFT_OUT, "recurrent"]
    found = _with_reasons(answered, record, task, config).select(columns)
    others = rows.filter(~is_one).select(*ROW[:2], LEFT_OUT, "recurrent")
    return pl.concat([found, others], how="diagonal")


def require_codes(book: Codebook, task: TaskFile) -> None:
    """Raise where a data set cannot have a task.

    Raises:
        UserError: If no code begins or ends a stay, is an outcome, decides, or is required.
    """
    lacking = lacking_codes(book, task)
    if lacking:
        name, patterns = next(iter(lacking.items()))
        raise UserError(
            f"task {task.name} does not fit this data set: no code matches {name} = {patterns}"
        )


def lacking_codes(book: Codebook, task: TaskFile) -> dict[str, str]:
    """What a task needs and a data set lacks: a group of patterns -> the patterns, for people."""
    return {
        name: _said(patterns)
        for name, patterns in task.groups().items()
        if name.partition(".")[0] in _NEEDED and not any(map(book.of, patterns))
    }


def _said(patterns: Sequence[CodePattern]) -> str:
    """The first of some patterns, as much of it as a line has room for."""
    first = patterns[0].said()
    short = first if len(first) <= 80 else f"{first[:79]}…"
    return short if len(patterns) == 1 else f"{short} or {len(patterns) - 1} more"


def _windows(rows: pl.DataFrame, task: TaskFile, record: Record) -> pl.DataFrame:
    """With `opens` (null: right after what is known) and `closes` (null: open)."""
    never, known = pl.lit(None, pl.Datetime("us")), pl.col("known")
    rows = rows.with_columns(opens=never, closes=never)
    if task.window == "next":
        whole = record.course.stays.filter(pl.col("fault").is_null())
        starts = whole.group_by("subject_id", opens="start").agg(closes=pl.col("end").max())
        is_one, bare = pl.col(LEFT_OUT).is_null(), rows.drop("opens", "closes")
        next_ = asof(bare.filter(is_one), starts, "known", "opens", strictly=True)
        next_ = next_.with_columns(reasons((pl.col("opens").is_null(), "no stay follows")))
        rows = pl.concat([next_, bare.filter(~is_one)], how="diagonal")
    if task.window == "moment":
        rows = rows.with_columns(opens="start", closes="start")
    if task.from_days is not None:
        rows = rows.with_columns(opens=known + pl.duration(days=task.from_days))
    if task.horizon_days is not None:
        until = known + pl.duration(days=task.horizon_days)
        rows = rows.with_columns(closes=pl.min_horizontal("closes", until))
    return rows


def _answered(rows: pl.DataFrame, record: Record, task: TaskFile) -> pl.DataFrame:
    """With `happened`, and `ended`: something ended the wait before its horizon."""
    if task.stay_days is not None:
        long = pl.col("end") - pl.col("start") >= pl.duration(days=task.stay_days)
        return rows.with_columns(happened=long, decided=True, ended=True)
    found = rows.with_row_index("row")
    for name, events in (
        ("outcome", record.outcomes()),
        ("stop", record.of((*task.stop, *task.given))),
        ("decides", record.of(task.given)),
        ("other", record.of(task.stop)),
        *((f"grade.{n}", record.of((grade,))) for n, grade in enumerate(task.grades)),
    ):
        found = _first(found, events, name)
    by = pl.min_horizontal("closes", "stop")

    def in_time(name: str, by: pl.Expr) -> pl.Expr:
        return pl.col(name).is_not_null() & (pl.col(name) <= by).fill_null(True)

    happened = in_time("outcome", by)
    decided = in_time("decides", pl.min_horizontal("closes", "other"))
    ended = (pl.col("stop") <= pl.col("closes")).fill_null(pl.col("stop").is_not_null())
    found = found.with_columns(happened=happened, decided=happened | decided, ended=ended)
    if task.answer != "yes":
        return _named(found, record, task)
    if not task.grades:
        return found
    more = [in_time(f"grade.{n}", by).cast(pl.Int64) for n in range(len(task.grades))]
    severity = pl.when("happened").then(1 + pl.sum_horizontal(more)).otherwise(0)
    return found.with_columns(severity.alias(SEVERITY))


def _named(rows: pl.DataFrame, record: Record, task: TaskFile) -> pl.DataFrame:
    """With the code and value of what decides; of several at one time the first by name, and the highest."""
    told = (
        record.events_of(task.given)
        .group_by("subject_id", decides="time")
        .agg(
            pl.col("code").str.split("//").list.last().min().alias(ANSWERS["code"]),
            pl.col("numeric_value").max().alias(ANSWERS["value"]),
        )
    )
    found = rows.join(told, on=["subject_id", "decides"], how="left", maintain_order="left")
    known = pl.col(ANSWERS[task.answer]).is_not_null() & pl.col("decided")
    return found.with_columns(decided=known.fill_null(False))


def _first(rows: pl.DataFrame, events: pl.DataFrame, name: str) -> pl.DataFrame:
    """With a column: the time of the first of some events in the window, its end not yet looked at."""
    times = events.select("subject_id", at="time").unique()
    opened = rows.filter(pl.col("opens").is_not_null())
    after = rows.filter(pl.col("opens").is_null())
    joined = [
        asof(part, times, left, "at", strictly=strictly)
        for part, left, strictly in ((opened, "opens", False), (after, "known", True))
    ]
    return pl.concat(joined).rename({"at": name}).sort("row")


def _with_reasons(
    rows: pl.DataFrame, record: Record, task: TaskFile, config: LabelsConfig
) -> pl.DataFrame:
    course, censored = record.course, task.censored or config.censored
    rows = rows.join(course.last, on="subject_id", how="left", maintain_order="left").join(
        course.deaths, on="subject_id", how="left", maintain_order="left"
    )
    given = [(pl.col(LEFT_OUT).is_not_null(), pl.col(LEFT_OUT))]
    if task.given:
        given.append((~pl.col("decided"), pl.lit("nothing decides")))
    elif censored != "negative":
        over = (pl.col("last") >= pl.col("closes")).fill_null(False)
        if censored == "exclude":
            over |= pl.col("death").is_not_null()
        given.append((~(pl.col("happened") | pl.col("ended") | over), pl.lit("censored")))
    yes = ~pl.col("happened") if task.absent else pl.col("happened")
    return rows.with_columns(reasons(*given), boolean_value=yes)
