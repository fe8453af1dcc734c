"""Where a command writes: alone, never over its own inputs, and moved there when it is whole."""

import fcntl
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ehr_tracking.errors import UserError
from ehr_tracking.files import PathLike, sync


@contextmanager
def held(out: PathLike) -> Iterator[None]:
    """Be the only process that writes a directory, until the block ends or the process does, however.

    The lock is a file beside `out`, `.<name>.lock`. One that is left by a process that was killed is
    free: the system lets go of it. Where a file system has no locks, nothing is held.

    Args:
        out: Need not exist; the folder that it lies in is made.

    Raises:
        UserError: If another process holds it.
    """
    out = Path(out)
    path = out.absolute().parent / f".{out.name}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = _lock(path, out)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)  # while it is held: who waits at the door looks again
        os.close(descriptor)


def refuse_inputs(out: PathLike, inputs: Iterable[PathLike]) -> None:
    """Raise if writing `out` would replace or change what is read.

    Raises:
        UserError: If `out` is one of the inputs, holds one, or lies inside one.
    """
    here = Path(out).resolve()
    for path in inputs:
        there = Path(path).resolve()
        if here == there:
            raise UserError(f"{out} is an input of this very command; choose another path")
        if here in there.parents:
            raise UserError(f"{out} holds the input {path}; choose another path")
        if there in here.parents:
            raise UserError(f"{out} lies inside the input {path}; choose a path outside of it")


def swap_in(new: PathLike, out: PathLike) -> None:
    """Move a finished directory to `out`, in place of what is there, by renames alone."""
    new, out = Path(new), Path(out)
    old = out.with_name(f".{out.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if out.exists():
        out.rename(old)
    new.rename(out)
    sync(out.parent)
    shutil.rmtree(old, ignore_errors=True)


def _lock(path: Path, out: Path) -> int:
    """A descriptor that holds a file, the very one that lies at `path` then."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise UserError(f"another run is writing {out}; wait for it or stop it") from None
        except OSError:  # a file system without locks
            return descriptor
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), path.stat()):
                return descriptor
        os.close(descriptor)  # its owner removed it between the two lines above
