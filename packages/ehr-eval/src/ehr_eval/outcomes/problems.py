"""The kinds of outcome that are judged here; a line is all that adds one."""

from collections.abc import Mapping
from types import MappingProxyType

from ehr_eval.outcomes.classes import MULTICLASS
from ehr_eval.outcomes.numbers import REGRESSION
from ehr_eval.outcomes.problem import OutcomeProblem

PROBLEMS: Mapping[str, OutcomeProblem] = MappingProxyType(
    {problem.name: problem for problem in (MULTICLASS, REGRESSION)}
)
"""By name."""
