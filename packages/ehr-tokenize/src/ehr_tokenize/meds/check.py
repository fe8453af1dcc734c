"""Say precisely what is wrong with a MEDS data set.

Errors are what `tokenize` refuses; warnings are what it can live with but a user should know.
Memory holds one file at a time.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from ehr_tokenize.codes.keys import shown
from ehr_tokenize.meds.dataset import batches, runs
from ehr_tokenize.meds.faults import Problem, row_problems
from ehr_tracking.arrow.meds import STATIC, code_infos, schema_fault
from ehr_tracking.arrow.parquet import is_text, line
from ehr_tracking.arrow.splits import read_splits, splits_by_hash
from ehr_tracking.contracts import SPLITS, TRAIN
from ehr_tracking.errors import UserError
from ehr_tracking.files import PathLike
from ehr_tracking.tree import files_below

_IDENTITY = ("subject_id", "time", "code", "numeric_value", "text_value")
_BIRTH, _DEATH = b"MEDS_BIRTH", b"MEDS_DEATH"


@dataclass(frozen=True, slots=True)
class Finding:
    """One kind of fault."""

    check: str
    refused: bool
    """Whether `tokenize` refuses the data set for it."""
    problem: Problem

    def __str__(self) -> str:
        """One line."""
        return f"{'ERROR' if self.refused else 'warning'} {self.check}: {self.problem}"


@dataclass(slots=True)
class Report:
    """What `check` found."""

    path: Path
    files: int = 0
    subjects: int = 0
    events: int = 0
    static: int = 0
    """Events without time."""
    numeric: int = 0
    """Events with a value."""
    codes: int = 0
    splits: dict[str, int] = field(default_factory=dict)
    """Subjects of each split; empty where the data set names none."""
    findings: list[Finding] = field(default_factory=list)

    @property
    def refused(self) -> bool:
        """Whether `tokenize` would refuse this data set."""
        return any(f.refused for f in self.findings)

    def lines(self) -> list[str]:
        """The report as text."""
        splits = ", ".join(f"{name} {n:,}" for name, n in self.splits.items())
        return [
            f"{self.path}: {self.files:,} files{self._read()}, {self.subjects:,} subjects, {self.events:,} events"
            f" ({self.static:,} static, {self.numeric:,} with a value), {self.codes:,} codes",
            f"splits: {splits or 'none named; tokenize makes them by hash (80/10/10)'}",
            *map(str, sorted(self.findings, key=lambda f: (not f.refused, f.check))),
            "refused: mend the errors" if self.refused else "can be tokenised",
        ]

    def _read(self) -> str:
        bad = {f.problem.where.split(" row ")[0] for f in self.findings if f.check == "schema"}
        return f" ({len(bad):,} cannot be read; of the others:)" if bad else ""

    def add(self, check: str, where: object, what: str, count: int, *, refused: bool) -> None:
        """Note a fault; the same fault in another place adds to its count."""
        for i, f in enumerate(self.findings):
            if (f.check, f.refused, f.problem.what) == (check, refused, what):
                merged = Problem(f.problem.where, what, f.problem.count + count)
                self.findings[i] = Finding(check, refused, merged)
                return
        if count:
            self.findings.append(Finding(check, refused, Problem(str(where), what, count)))


def check(path: PathLike) -> Report:
    """Check a MEDS data set: schema, nulls, order, subjects, codes, splits, births and deaths.

    Args:
        path: Holds `data/**/*.parquet` and `metadata/`.

    Raises:
        UserError: If there is no such directory.
    """
    path = Path(path)
    if not path.is_dir():
        raise UserError(f"{path}: no such directory")
    report = Report(path)
    files = files_below(path / "data", ".parquet") if (path / "data").is_dir() else []
    report.files = len(files)
    if not files:
        report.add("schema", path, "not MEDS, no data/**/*.parquet", 1, refused=True)
        return report
    codes: set[str] = set()
    owner: dict[int, Path] = {}
    for file in tqdm(files, "checking", disable=None):
        fault = schema_fault(file)
        if fault:
            what = fault.removeprefix(f"{file}: ").removeprefix(f"{str(file)!a}: ")
            report.add("schema", fault.removesuffix(f": {what}"), what, 1, refused=True)
            continue
        try:
            for subject, row in _check_rows(report, file, codes):
                _claim(report, owner, subject, file, row)
        except UserError as e:
            report.add("schema", file, str(e).removeprefix(f"{file}: "), 1, refused=True)
            continue
        _check_frame(report, file)
    report.subjects, report.codes = len(owner), len(codes)
    if not owner and not report.refused:
        report.add("subjects", path, "there is no event", 1, refused=True)
    if any(f.check == "schema" and f.refused for f in report.findings):
        return report  # what is in the other files is not all there is: nothing follows from it
    _check_codes(report, codes)
    _check_splits(report, owner)
    return report


def _check_rows(report: Report, file: Path, codes: set[str]) -> Iterator[tuple[int, int]]:
    """Check order and nulls; give the subject and row of each stretch of one subject's rows."""
    before = None
    for batch in batches(file):
        for problem in row_problems(batch, before):
            what = problem.what.partition(", in subject")[0]
            report.add(_kind(what), problem.where, what, problem.count, refused=True)
        if not len(batch.time):
            continue
        report.events += len(batch.time)
        report.static += int((batch.time == STATIC).sum())
        codes.update(batch.codes[i] for i in np.unique(batch.code).tolist() if i >= 0)
        at = runs(batch)
        first = int(before is not None and before[0] == batch.subject_id[0])
        for row in at[first:].tolist():
            yield int(batch.subject_id[row]), batch.row + row
        before = int(batch.subject_id[-1]), int(batch.time[-1])


def _kind(what: str) -> str:
    if what.endswith("null"):
        return "nulls"
    return "codes" if what.startswith("code") else "times" if "years" in what else "order"


def _claim(report: Report, owner: dict[int, Path], subject: int, file: Path, row: int) -> None:
    first = subject not in owner
    other = owner.setdefault(subject, file)
    where = f"{file} row {row}"
    if other != file:
        what = "a subject that another file holds too"
        report.add("subjects", f"{where} (subject {subject}, {other})", what, 1, refused=True)
    elif not first:
        what = "a subject begins again after other subjects"
        report.add("subjects", f"{where} (subject {subject})", what, 1, refused=True)


def _check_frame(report: Report, file: Path) -> None:
    """Values, duplicates, births and deaths of one file."""
    try:
        frame = _read(file)
    except (pa.ArrowException, OSError) as e:
        report.add("schema", file, f"damaged: {line(e)}", 1, refused=False)
        return
    names = frame.columns
    value = pl.col("numeric_value") if "numeric_value" in names else pl.lit(None, pl.Float32)
    code = pl.col("code")
    birth, death = (
        ((code == c) | code.bin.starts_with(c + b"//")).fill_null(False) for c in (_BIRTH, _DEATH)
    )
    time, subject = pl.col("time"), "subject_id"
    flags = frame.select(
        numeric=value.is_not_null(),
        nan=value.is_nan().fill_null(False),
        infinite=value.is_infinite().fill_null(False),
        duplicate=pl.struct(names).is_first_distinct().not_(),
        unborn=(pl.int_range(pl.len()).over(subject) == 0) & birth.any().over(subject).not_(),
        reborn=birth & (birth.cum_sum().over(subject) > 1),
        redead=death & (death.cum_sum().over(subject) > 1),
        before_birth=(time < time.filter(birth).min().over(subject)).fill_null(False),
        after_death=(time > time.filter(death).min().over(subject)).fill_null(False),
    )
    report.numeric += int(flags["numeric"].sum())
    for name, (kind, what) in _FRAME_CHECKS.items():
        rows = flags[name].arg_true()
        if len(rows):
            report.add(kind, f"{file} row {rows[0]}", what, len(rows), refused=False)


def _read(file: Path) -> pl.DataFrame:
    """The columns of MEDS, strings as bytes since they need not be UTF-8."""
    with pq.ParquetFile(file) as parquet:
        schema = parquet.schema_arrow
        names = [n for n in _IDENTITY if schema.names.count(n) == 1]
        if "text_value" in names and not is_text(schema.field("text_value").type):
            names.remove("text_value")  # which nothing reads then
        table = parquet.read(names)
    columns = {
        n: table[n].cast(pa.large_string()).cast(pa.large_binary()) if n in _TEXTS else table[n]
        for n in names
    }
    return pl.DataFrame(pl.from_arrow(pa.table(columns)))


_TEXTS = ("code", "text_value")
_FRAME_CHECKS = {
    "nan": ("values", "numeric_value is NaN and is read as no value"),
    "infinite": ("values", "numeric_value is infinite and goes to an outer bin"),
    "duplicate": ("duplicates", "the event repeats one above in all columns of MEDS"),
    "unborn": ("birth", "a subject has no MEDS_BIRTH; its ages count from its first event"),
    "reborn": ("birth", "a subject has a second MEDS_BIRTH"),
    "redead": ("death", "a subject has a second MEDS_DEATH"),
    "before_birth": ("birth", "an event is before the subject's birth"),
    "after_death": ("death", "an event is after the subject's death"),
}


def _check_codes(report: Report, codes: set[str]) -> None:
    path = report.path / "metadata" / "codes.parquet"
    try:
        known = code_infos(report.path).keys()
    except UserError as e:
        report.add("codes", path, str(e).removeprefix(f"{path}: "), 1, refused=True)
        return
    if not path.is_file():
        report.add("codes", path, "missing, tokens get no descriptions", 1, refused=False)
        return
    absent = sorted(codes - known)
    if absent:
        report.add("codes", f"{path} (first: {shown(absent[0])})", "a code of the data is not listed",
                   len(absent), refused=False)  # fmt: skip


def _check_splits(report: Report, owner: dict[int, Path]) -> None:
    path = report.path / "metadata" / "subject_splits.parquet"
    try:
        named = read_splits(report.path).named
    except UserError as e:
        report.add("splits", path, str(e).removeprefix(f"{path} "), 1, refused=True)
        return
    subjects = np.sort(np.fromiter(owner, np.int64, len(owner)))
    if named is None:
        report.add("splits", path, "missing, splits are made by hash", 1, refused=False)
        if owner and splits_by_hash(subjects, seed=0).all():
            what = "with seed 0, no subject is in train by hash"
            report.add("splits", report.path, what, 1, refused=True)
        return
    known, split = named
    for found, what, refused in (
        (np.setdiff1d(subjects, known), "a subject with events has no split", True),
        (np.setdiff1d(known, subjects), "a subject of a split has no events", False),
    ):
        if len(found):
            where = f"{path} (first: subject {found[0]})"
            report.add("splits", where, what, len(found), refused=refused)
    count = np.bincount(split[np.isin(known, subjects)], minlength=len(SPLITS))
    report.splits = dict(zip(SPLITS, count.tolist(), strict=True))
    if not report.splits[TRAIN]:
        report.add("splits", path, "no subject with events is in train", 1, refused=True)
