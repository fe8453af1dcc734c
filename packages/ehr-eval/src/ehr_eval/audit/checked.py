"""What came of the checks."""

from dataclasses import dataclass
from typing import Literal

from ehr_eval.audit.checks import Check
from ehr_eval.audit.found import Finding

State = Literal["clean", "found", "warned", "failed", "skipped"]


@dataclass(frozen=True, slots=True)
class Checked:
    """What came of one check."""

    check: Check
    state: State
    """clean, found (an error), warned, failed (it could not look at what is there), skipped (nothing to look at)."""
    findings: tuple[Finding, ...] = ()
    reason: str = ""
    """Why it was skipped, or failed."""


@dataclass(frozen=True, slots=True)
class Audit:
    """What came of all checks."""

    checked: tuple[Checked, ...]

    @property
    def is_clean(self) -> bool:
        """Whether no check found an error, nor failed to look."""
        return all(each.state not in {"found", "failed"} for each in self.checked)

    def table(self) -> list[dict[str, object]]:
        """A row for each finding and for each check without one, for a terminal."""
        rows: list[dict[str, object]] = []
        for each in self.checked:
            name = each.check.name
            if not each.findings:
                told = "" if each.state == "clean" else each.reason
                rows.append({"check": name, "state": each.state, "where": "", "what": told})
            rows += [
                {"check": name, "state": f.severity, "where": f.where, "what": f.what}
                for f in each.findings
            ]
        return rows
