"""The tasks that there are: built in and of the library, and which of them a data set can have."""

from pathlib import Path

from ehr_eval.tasks.by_file import lacking_codes
from ehr_eval.tasks.config import LabelsConfig
from ehr_eval.tasks.files import TaskFile, read_task_file
from ehr_eval.tasks.library import LIBRARY, collections, find
from ehr_eval.tasks.make import read_codebook
from ehr_eval.tasks.page import answered, asked, page_of
from ehr_eval.tasks.patterns import Codebook, matching
from ehr_eval.tasks.registry import TASKS
from ehr_tracking.arrow.meds import data_files
from ehr_tracking.config import ConfigError
from ehr_tracking.files import PathLike


def listed(meds: PathLike | None = None) -> list[dict[str, object]]:
    """A row each: task, version, collection, when it is asked, and with a data set what it lacks of its codes.

    Args:
        meds: A data set.

    Raises:
        ContractError: If it is none.
    """
    book = _book(meds)
    rows: list[dict[str, object]] = []
    for collection, tasks in collections().items():
        for name, path in tasks.items():
            try:
                task = read_task_file(path)
            except ConfigError as e:  # a table of codes that is to be filled
                rows.append({"task": name, "collection": collection, "asked": str(e)})
                continue
            row = {
                "task": name,
                "version": task.version,
                "collection": collection,
                "asked": asked(task),
                "yes": answered(task),
            }
            rows.append(row | _lacks(task, book))
    for name, built_in in TASKS.items():
        if name not in collections()["core"]:
            row = {
                "task": name,
                "version": built_in.version,
                "collection": "built in",
                "asked": "when a stay ends",
            }
            rows.append(row | _lacks_built_in(name, book))
    return rows


def described(name: PathLike, meds: PathLike | None = None) -> str:
    """The page of a task: of the library, a file, or built in.

    Args:
        name: Its name, or a path.
        meds: A data set whose codes are looked at.

    Raises:
        UserError: If there is no such task.
        ConfigError: If a file is none.
    """
    page = Path(__file__).parent / f"{name}.md"
    if str(name) in TASKS and page.is_file() and str(name) not in collections()["core"]:
        return page.read_text(encoding="utf-8").rstrip()
    path = find(name)
    task, book = read_task_file(path), _book(meds)
    inside = path.is_relative_to(LIBRARY)
    place = f"the library: {path.relative_to(LIBRARY)}" if inside else str(path)
    return page_of(task, place, lacking_codes(book, task) if book else None)


def _book(meds: PathLike | None) -> Codebook | None:
    if meds is None:
        return None
    return read_codebook(Path(meds), data_files(meds))


def _lacks(task: TaskFile, book: Codebook | None) -> dict[str, object]:
    return {"lacks": ", ".join(lacking_codes(book, task)) or "nothing"} if book else {}


def _lacks_built_in(name: str, book: Codebook | None) -> dict[str, object]:
    if book is None:
        return {}
    config = LabelsConfig()
    lacks = [n for n in TASKS[name].needs if not matching(book.codes, getattr(config, n)).any()]
    return {"lacks": ", ".join(lacks) or "nothing"}
