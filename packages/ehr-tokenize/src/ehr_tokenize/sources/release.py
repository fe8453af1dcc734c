"""A folder of tables as it is handed out: what must be in it, and what was not there or not read."""

from collections.abc import Collection
from pathlib import Path

from ehr_tracking.errors import UserError


def require_directory(source: Path) -> None:
    """Raise unless there is such a folder.

    Raises:
        UserError: If there is none.
    """
    if not source.is_dir():
        raise UserError(f"{source}: no such directory")


def require_tables(
    source: Path,
    found: Collection[str],
    known: Collection[str],
    without: Collection[str],
    *,
    kind: str,
) -> None:
    """Raise where no table is there, or one shall be gone without that nobody knows.

    Args:
        source: The folder.
        found: Tables in it.
        known: Tables with events, in the order in which they are named.
        without: Those to be gone without.
        kind: What it is not, and a file that would be in it, for the message.

    Raises:
        UserError: Saying which of these it is.
    """
    wrong = sorted(set(without) - set(known))
    if wrong:
        raise UserError(f"without: {wrong[0]} is none of {', '.join(known)}")
    if not set(known) & set(found):
        raise UserError(f"{source} is no {kind} in it")


def unmatched(found: Collection[str], used: Collection[str], without: Collection[str]) -> list[str]:
    """What was missing, and what was there but is not read; a line each.

    Args:
        found: Tables in the folder.
        used: Tables that are read where they are there.
        without: Those to be gone without.

    Examples:
        >>> unmatched(["labs", "notes"], ["patients", "labs"], [])
        ['missing, gone on without: patients', 'not read: notes']
        >>> unmatched(["labs"], ["labs", "notes"], ["labs", "notes"])
        ['not read: labs']
    """
    missing = [n for n in used if n not in found and n not in without]
    unread = [n for n in found if n not in used or n in without]
    lines = [f"missing, gone on without: {', '.join(missing)}"] if missing else []
    return lines + ([f"not read: {', '.join(unread)}"] if unread else [])
