"""What audits of the artifacts found."""

from collections.abc import Iterator
from html import escape

from ehr_eval.compare.opened import Artifact, Given
from ehr_tracking.report import table


def audit_section(given: Given) -> Iterator[str]:
    """The verdict of each audit, or that there was none."""
    yield "<h2>Audit</h2>"
    if not given.audits:
        yield (
            '<p class="note">No audit was given (<code>ehr-eval audit</code>): nobody has looked for what makes results '
            "look better than they are.</p>"
        )
    for item in given.audits:
        yield from _verdict(item)


def _verdict(item: Artifact) -> Iterator[str]:
    checks, findings = item.table("checks.parquet"), item.table("findings.parquet")
    states = dict(checks["state"].value_counts().sort("state").iter_rows())
    told = ", ".join(f"{count} {state}" for state, count in states.items())
    bad = states.get("found", 0) + states.get("failed", 0)
    verdict = "Errors were found" if bad else "No error was found"
    yield (
        f"<p><strong>{verdict}.</strong> Of {checks.height} checks: {escape(told)}. Looked at: "
        f"{escape(', '.join(item.manifest.inputs))}.</p>"
    )
    if findings.height:
        yield table(findings.select("severity", "check", "where", "what", "count").to_dicts())
    unseen = checks.filter(checks["reason"] != "")
    if unseen.height:
        yield f"<details><summary>{unseen.height} that could not look</summary>"
        yield table(unseen.to_dicts())
        yield "</details>"
