"""Errors that a user can mend, and the click group that prints them in one line with exit code 2."""

import errno
from typing import Any

import click


class UserError(ValueError):
    """The input is wrong; the message says what, where and what to do. Never a bug of ours."""


class UnfinishedError(UserError):
    """Work ended early, but the same command goes on from what is done: that is kept."""


class StoppedError(UnfinishedError):
    """A signal ended it: who started it may start it again as it is."""


STOPPED = 75
"""Exit code of what was stopped by a signal and goes on with the same command: EX_TEMPFAIL of sysexits.h."""


class Failure(click.ClickException):
    """A `UserError` on its way to the terminal."""

    exit_code = 2


class Stopped(Failure):
    """A `StoppedError` on its way to the terminal."""

    exit_code = STOPPED


_PATH_ERRORS = {
    errno.EEXIST,
    errno.EISDIR,
    errno.ELOOP,
    errno.ENAMETOOLONG,
    errno.ENOTDIR,
    errno.EROFS,
}
"""What the system says of an output that lies below a file, on read-only storage and the like."""


def is_disk_full(error: BaseException) -> bool:
    """Whether a library's error means that no more bytes could be written.

    Examples:
        >>> is_disk_full(OSError(28, "No space left on device"))
        True
        >>> is_disk_full(RuntimeError("I/O error: No space left on device (os error 28)"))
        True
        >>> is_disk_full(ValueError("wrong shape"))
        False
    """
    if isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}:
        return True
    # polars and safetensors write from Rust and only hand the text on
    return "No space left on device" in str(error) or "File too large" in str(error)


class Group(click.Group):
    """A click group whose commands may raise `UserError`."""

    def invoke(self, ctx: click.Context) -> Any:  # noqa: ANN401 -- click's own signature
        """Run the command; one line and exit code 2 for what the user can mend, 75 for a signal.

        Raises:
            Failure: For a `UserError`, a full disk, or a path that may not be read or written.
        """
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except StoppedError as e:
            raise Stopped(str(e)) from e
        except UserError as e:
            raise Failure(str(e)) from e
        except PermissionError as e:
            raise Failure(f"{e.filename}: permission denied; nothing was written") from e
        except Exception as e:
            if is_disk_full(e):
                raise Failure("the disk is full; nothing was written, free some space") from e
            if isinstance(e, OSError) and e.errno in _PATH_ERRORS and e.filename:
                raise Failure(f"{e.filename}: {e.strerror}; choose another path") from e
            raise
