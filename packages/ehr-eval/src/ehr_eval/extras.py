"""Libraries that not everybody needs: extras of this package, imported when they are first used."""

from importlib.util import find_spec

from ehr_tracking.errors import UserError

_EXTRA = {"xgboost": "xgboost", "optuna": "optuna", "lifelines": "survival", "aces": "aces"}
"""Module -> the extra of ehr-eval that brings it."""


def require(module: str, purpose: str) -> None:
    """Raise where a module is not installed, before work begins that would need it in the end.

    Raises:
        UserError: With the extra to install.
    """
    if find_spec(module) is None:
        raise UserError(
            f"{purpose} needs {module}, which is not installed: pip install "
            f"'ehr-eval[{_EXTRA[module]}]'"
        )
