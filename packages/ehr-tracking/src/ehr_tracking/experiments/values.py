"""Figures that users log, as JSON can hold them and as tables show them."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from ehr_tracking.errors import UserError


def number(value: object, what: str) -> float | int | None:
    """A figure as a plain number; None where it is not one (NaN, infinite), since JSON has neither.

    Args:
        value: A number, or anything of one element with `item()`: of torch, of NumPy.
        what: It is, for the message.

    Raises:
        UserError: If it is no figure at all.

    Examples:
        >>> number(0.5, "loss"), number(float("nan"), "loss")
        (0.5, None)
        >>> number("high", "val_loss at epoch 3")
        Traceback (most recent call last):
        ehr_tracking.errors.UserError: val_loss at epoch 3 is 'high', not a number
    """
    found: object = value
    if hasattr(value, "item"):
        try:
            found = value.item()
        except (RuntimeError, ValueError):  # more than one element
            raise UserError(f"{what} has more than one element, so it is not a number") from None
    if not isinstance(found, int | float):
        raise UserError(f"{what} is {found!r}, not a number")
    return found if math.isfinite(found) else None


def numbers(figures: Mapping[str, object], where: str) -> dict[str, float | int | None]:
    """Several figures as plain numbers.

    Raises:
        UserError: Naming the one that is none.
    """
    return {str(name): number(value, f"{name} {where}") for name, value in figures.items()}


def plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """What a user notes down, as JSON values; what JSON has no word for becomes text.

    Examples:
        >>> from pathlib import PurePosixPath
        >>> plain({"lr": 1e-4, "data": PurePosixPath("a/b"), "sizes": (1, 2)})
        {'lr': 0.0001, 'data': 'a/b', 'sizes': [1, 2]}
    """
    found: dict[str, Any] = json.loads(json.dumps(dict(values), default=_plain), parse_constant=str)
    return found


def _plain(value: Any) -> Any:  # noqa: ANN401 -- whatever a user hands in
    return value.item() if hasattr(value, "item") and getattr(value, "ndim", 0) == 0 else str(value)


def cells(column: Sequence[float | int | None], missing: Sequence[bool]) -> list[str]:
    """The figures of one column of a table as text: whole numbers as such, where all are whole.

    Args:
        column: A figure a row; None where it is not a number.
        missing: Whether a row has no such figure.

    Examples:
        >>> cells([1.1e6, 15e6, None], [False, False, True])
        ['1,100,000', '15,000,000', 'N/A']
        >>> cells([0.53, 1.0, None], [False, False, False])
        ['0.5300', '1.0000', 'NaN']
    """
    whole = all(value is None or float(value).is_integer() for value in column)
    return [
        "N/A" if gone else "NaN" if value is None else shown(value, whole=whole)
        for value, gone in zip(column, missing, strict=True)
    ]


def shown(value: float, *, whole: bool | None = None) -> str:
    """One figure as text.

    Args:
        value: The figure.
        whole: Whether as a whole number; None: where it is one.

    Examples:
        >>> shown(1234567.0), shown(0.71), shown(0.00001234)
        ('1,234,567', '0.7100', '1.234e-05')
    """
    if whole if whole is not None else float(value).is_integer():
        return f"{int(value):,}"
    return f"{value:.4g}" if value and abs(value) < 1e-3 else f"{value:,.4f}"
