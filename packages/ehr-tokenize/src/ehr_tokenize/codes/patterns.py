"""Regular expressions that users give, in a config."""

import re
from typing import Annotated

from pydantic import AfterValidator


def regex(pattern: str) -> str:
    """The same pattern.

    Raises:
        ValueError: If it is no regular expression.

    Examples:
        >>> regex("^LAB//")
        '^LAB//'
    """
    try:
        re.compile(pattern)
    except re.error as e:
        raise ValueError(f"{pattern!r} is no regular expression: {e}") from None
    return pattern


Regex = Annotated[str, AfterValidator(regex)]
"""A field of a config that holds one, searched in codes."""
