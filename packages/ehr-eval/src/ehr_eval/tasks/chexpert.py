"""The findings of chest X-rays of EHRSHOT: 14 yes-or-no tasks, from a table of reports.

Wornow et al., "EHRSHOT" (NeurIPS 2023): asked 24 hours before a report; the findings are those of CheXpert
(Irvin et al., AAAI 2019). EHRSHOT keeps the 14 answers of a report as one whole number, the first finding its
highest bit.
"""

from pathlib import Path

import polars as pl

from ehr_eval.tasks.labelers import LEFT_OUT, ROW, reasons
from ehr_tracking.config import ConfigError
from ehr_tracking.files import PathLike

FINDINGS = (
    "No Finding",
    "Enlarged Cardiomediastinum",
    "Cardiomegaly",
    "Lung Lesion",
    "Lung Opacity",
    "Edema",
    "Consolidation",
    "Pneumonia",
    "Atelectasis",
    "Pneumothorax",
    "Pleural Effusion",
    "Pleural Other",
    "Fracture",
    "Support Devices",
)
"""In the order of their bits."""
_SUBJECT, _TIME = ("subject_id", "patient_id"), ("time", "start")


def task_name(finding: str) -> str:
    """What the task of a finding is called.

    Examples:
        >>> task_name("No Finding")
        'chexpert_no_finding'
    """
    return f"chexpert_{finding.lower().replace(' ', '_')}"


def bits(number: int) -> dict[str, bool]:
    """Finding -> answer, from the whole number of a report.

    Raises:
        ValueError: If it has more bits than there are findings.

    Examples:
        >>> [name for name, yes in bits(0b10_0000_0000_0001).items() if yes]
        ['No Finding', 'Support Devices']
    """
    if not 0 <= number < 1 << len(FINDINGS):
        raise ValueError(f"{number} is not 14 answers: expected 0 to {(1 << len(FINDINGS)) - 1}")
    return {name: bool(number >> (13 - n) & 1) for n, name in enumerate(FINDINGS)}


def read_reports(path: PathLike) -> pl.DataFrame:
    """The reports of a CSV or TSV table.

    Args:
        path: With subject_id (or patient_id), time (or start) of the report, and a column a finding, 1 where it
            is there (0, -1 and empty where it is not, or not for certain).

    Returns:
        subject_id, time (microseconds), and a bool for each of `FINDINGS`.

    Raises:
        ConfigError: If it cannot be read, or a column is missing.
    """
    path = Path(path)
    try:
        table = pl.read_csv(
            path, separator="\t" if path.suffix == ".tsv" else ",", infer_schema=False
        )
        subject, time = (
            next((c for c in names if c in table.columns), names[0]) for names in (_SUBJECT, _TIME)
        )
        lacking = [c for c in (subject, time, *FINDINGS) if c not in table.columns]
        if lacking:
            raise ConfigError(f"{path}: column {lacking[0]} is missing from this table of reports")
        return table.select(
            pl.col(subject).cast(pl.Int64).alias("subject_id"),
            pl.col(time).str.to_datetime(time_unit="us").alias("time"),
            *(pl.col(name).cast(pl.Float64).fill_null(0).eq(1) for name in FINDINGS),
        )
    except (pl.exceptions.PolarsError, OSError) as e:
        raise ConfigError(
            f"{path}: not a table of reports ({' '.join(str(e).split())[:200]})"
        ) from None


def label_reports(reports: pl.DataFrame, begins: pl.DataFrame) -> dict[str, pl.DataFrame]:
    """The rows of each finding.

    Args:
        reports: From `read_reports`, of any subjects.
        begins: subject_id, begins: the first event of the subjects to label.

    Returns:
        Task -> subject_id, prediction_time, boolean_value, left_out.
    """
    early = pl.col("begins") >= pl.col("prediction_time")
    rows = reports.join(begins, on="subject_id").with_columns(
        prediction_time=pl.col("time") - pl.duration(hours=24)
    )
    rows = rows.with_columns(reasons((early, "nothing is recorded by then")))
    return {
        task_name(name): rows.select(*ROW[:2], LEFT_OUT, boolean_value=pl.col(name))
        for name in FINDINGS
    }
