"""Names that users give, or files hold, and that become names of files and folders."""

from ehr_tracking.errors import UserError

_LONGEST = 200
"""Bytes; file systems take 255, and endings are added."""


def require_name(name: str, what: str) -> str:
    r"""A name that stays one file or folder below the directory it is put in.

    Args:
        name: Of a head, a model, a task and so on.
        what: What it is the name of, for the message.

    Returns:
        The name.

    Raises:
        UserError: If it is empty, begins with a dot, is longer than 200 bytes, or holds `/`, `\` or
            what cannot be printed.

    Examples:
        >>> require_name("lr-2.0", "head")
        'lr-2.0'
        >>> require_name("../../x", "head")
        Traceback (most recent call last):
        ehr_tracking.errors.UserError: head '../../x' cannot be the name of a file: it may not be empty, begin with a dot, be longer than 200 bytes, or hold /, \ or what cannot be printed
    """
    long = len(name.encode(errors="surrogateescape")) > _LONGEST
    if not name or name[0] == "." or long or not name.isprintable() or set(name) & set("/\\"):
        shown = f"{name[:40]!a}" + "..." * (len(name) > 40)
        raise UserError(
            f"{what} {shown} cannot be the name of a file: it may not be empty, begin with a dot, be "
            rf"longer than {_LONGEST} bytes, or hold /, \ or what cannot be printed"
        )
    return name
