"""Labels of ACES tasks, by ACES itself (Xu et al., "ACES: Automatic Cohort Extraction System", 2024)."""

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import polars as pl

from ehr_eval.extras import require
from ehr_eval.tasks.labelers import ROW
from ehr_tracking.config import ConfigError
from ehr_tracking.files import PathLike

COLUMNS = ("subject_id", "time", "code", "numeric_value")
_FOUND: dict[str, pl.DataType | type[pl.DataType]] = {
    "subject_id": pl.Int64,
    "index_timestamp": pl.Datetime("us"),
    "label": pl.Boolean,
}
"""Of what ACES finds, columns that matter here."""


class AcesTask:
    """One file of ACES, ready to be asked."""

    def __init__(self, path: PathLike, predicates: PathLike | None = None) -> None:
        """Read it.

        Args:
            path: With a label and an index timestamp.
            predicates: A file whose predicates take the place of its own.

        Raises:
            UserError: If ACES is not installed.
            ConfigError: If it is no task of ACES, or names a predicate that nothing defines.
        """
        require("aces", "an ACES task")
        from aces.config import TaskExtractorConfig

        self.path = Path(path)
        for file in (self.path, *([Path(predicates)] if predicates else [])):
            if not file.is_file():
                raise ConfigError(f"{file}: no such file")
        try:
            self.config: Any = TaskExtractorConfig.load(self.path, predicates)
        except Exception as e:  # whatever ACES raises
            raise ConfigError(f"{path} is no ACES task: {' '.join(str(e).split())}") from None
        if not (self.config.label_window and self.config.index_timestamp_window):
            raise ConfigError(f"{path} has no window with a label, or none with an index_timestamp")

    @property
    def text(self) -> str:
        """The file as it is."""
        return self.path.read_text(encoding="utf-8")

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of events that its predicates look at, beside `COLUMNS`."""
        more = (p.other_cols or {} for p in self.config.plain_predicates.values())
        return tuple(dict.fromkeys(name for of in more for name in of if name not in COLUMNS))

    def lacking(self, codes: pl.Series) -> tuple[list[str], list[str]]:
        """Predicates that no code of a data set can be.

        Args:
            codes: The distinct codes.

        Returns:
            Those without which there is no row or no positive, the trigger and the label; and all plain ones.
        """
        table = pl.DataFrame({"code": codes})
        absent = {
            name
            for name, predicate in self.config.plain_predicates.items()
            if not table.filter(type(predicate)(code=predicate.code).MEDS_eval_expr()).height
        }
        plain = sorted(absent)
        for name, derived in self.config.derived_predicates.items():
            gone = [part in absent for part in derived.input_predicates]
            if any(gone) if derived.is_and else all(gone):
                absent.add(name)
        label = self.config.windows[self.config.label_window].label
        needed = [self.config.trigger.predicate, label]
        return [name for name in needed if name in absent], plain

    def label(self, events: pl.DataFrame) -> pl.DataFrame:
        """What ACES says of some records.

        Args:
            events: `COLUMNS` and `columns` of whole subjects.

        Returns:
            subject_id, prediction_time, boolean_value of every row that it finds, each once.
        """
        from aces.predicates import get_predicates_df
        from aces.query import query
        from omegaconf import DictConfig

        with TemporaryDirectory() as folder:
            path = Path(folder) / "records.parquet"
            events.sort("subject_id", "time", maintain_order=True).write_parquet(path)
            given = DictConfig({"path": str(path), "standard": "meds"})
            predicates = get_predicates_df(self.config, given)
        found: pl.DataFrame = query(self.config, predicates)
        if not found.height:  # then it has no columns
            found = pl.DataFrame(schema=_FOUND)
        return (
            found.select(
                "subject_id", prediction_time="index_timestamp", boolean_value=pl.col("label") > 0
            )
            .group_by(ROW[:2])
            .agg(pl.col("boolean_value").any())
            .sort(ROW)
        )


def name_of(path: PathLike) -> str:
    """What a task is called: as its file, with the folders above it where it is a bare `task.yaml`.

    Examples:
        >>> name_of("tasks/readmission/30d.yaml"), name_of("readmission/task.yaml")
        ('30d', 'readmission')
    """
    path = Path(path)
    return path.absolute().parent.name if path.stem == "task" else path.stem


def read_aces_tasks(
    paths: Sequence[PathLike], predicates: PathLike | None
) -> tuple[dict[str, AcesTask], dict[str, str]]:
    """Tasks by their names, and of those that cannot be read why.

    Raises:
        UserError: If ACES is not installed.
        ConfigError: If two have one name.
    """
    found: dict[str, AcesTask] = {}
    faults: dict[str, str] = {}
    for path in paths:
        name = name_of(path)
        if name in found or name in faults:
            raise ConfigError(f"{path}: an ACES task {name} is given twice; name the files apart")
        try:
            found[name] = AcesTask(path, predicates)
        except ConfigError as e:
            faults[name] = str(e)
    return found, faults
