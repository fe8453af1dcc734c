"""Libraries of thousands of modules, loaded sooner."""

import atexit
import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_MANY = 300
"""Modules of a large library, which stay for as long as the process does."""


@contextmanager
def loading() -> Iterator[None]:
    """In which libraries are imported: nobody looks for garbage, since modules are none.

    Python's collector goes through all that is there time and again while it grows, a fifth of what it takes to
    begin a training run. What is there behind a large library is set aside and not gone through any more.

    Examples:
        >>> with loading():
        ...     gc.isenabled()
        False
        >>> gc.isenabled()
        True
    """
    was, known = gc.isenabled(), len(sys.modules)
    gc.disable()
    try:
        yield
    finally:
        if len(sys.modules) > known + _MANY:
            gc.freeze()
            atexit.register(gc.unfreeze)  # libraries tell of what is still there at the end
        if was:
            gc.enable()
