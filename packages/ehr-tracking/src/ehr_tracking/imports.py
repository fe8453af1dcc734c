"""Libraries of thousands of modules, loaded sooner."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def loading() -> Iterator[None]:
    """In which libraries are imported: nobody looks for garbage, as modules are none.

    Python's collector goes through all that is there time and again while it grows, which is a sixth of what it
    takes to import torch and transformers.

    Examples:
        >>> with loading():
        ...     gc.isenabled()
        False
        >>> gc.isenabled()
        True
    """
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()
