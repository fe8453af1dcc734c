"""A code together with what else tells events of it apart: a unit, or a text value.

Everything after reading works on one number an event, so schemes that look at units or texts give a
number to each (code, unit) and (code, text) instead of each code.
"""

from typing import NamedTuple

SEPARATOR = "\x1f"  # the unit separator of ASCII: no code, unit or text is expected to hold it


class Key(NamedTuple):
    """What an event is of."""

    code: str
    unit: str = ""
    """Of its number; empty where there is none or where units are not told apart."""
    text: str = ""
    """Its text value, where it has no number; empty where there is none."""

    def __str__(self) -> str:
        """One string, which is the code where there is nothing else.

        Examples:
            >>> str(Key("LAB"))
            'LAB'
            >>> Key.parse(str(Key("LAB", text="positive")))
            Key(code='LAB', unit='', text='positive')
        """
        return SEPARATOR.join(self) if self.unit or self.text else self.code

    @classmethod
    def parse(cls, string: str) -> "Key":
        """What `str` made."""
        if SEPARATOR not in string:  # nearly always; this runs once a code
            return cls(string)
        parts = string.rsplit(SEPARATOR, 2)
        return cls(*parts) if len(parts) == len(cls._fields) else cls(string)


def code_of(string: str) -> str:
    """The code alone of what `str` made of a key.

    Examples:
        >>> code_of(str(Key("LAB", text="positive"))), code_of("LAB")
        ('LAB', 'LAB')
    """
    return Key.parse(string).code if SEPARATOR in string else string


def shown(code: str, longest: int = 100) -> str:
    """Any code as it goes into a line on a terminal.

    Examples:
        >>> shown("LAB//é"), shown("A" * 200, longest=3), len(shown(chr(0)))
        ('LAB//é', 'AAA...', 6)
    """
    short = code if len(code) <= longest else f"{code[:longest]}..."
    return short if short.isprintable() else ascii(short)


def clean(text: str | None, longest: int = 100) -> str:
    """A unit or text value as it goes into a token; empty for what is no category.

    Examples:
        >>> clean(" NEG "), clean("x" * 101), clean(None)
        ('NEG', '', '')
    """
    stripped = (text or "").replace(SEPARATOR, " ").strip()
    return stripped if len(stripped) <= longest else ""
