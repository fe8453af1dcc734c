"""The page of an audit: what was found, what was checked, what was not and why, and what to do."""

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from ehr_eval.audit.checked import Checked
from ehr_eval.audit.found import Finding
from ehr_tracking.report import html_page, table

_STYLE = """<style>
.finding{border-left:4px solid #c92a2a;background:#fff5f5;padding:.6em 1em;margin:1em 0;overflow-wrap:anywhere}
.finding.warning{border-color:#e0a800;background:#fff7e0}.finding h3{margin:.1em 0;font-size:1em}
.finding p{margin:.3em 0}.clean{border-left:4px solid #2b8a3e;background:#ebfbee;padding:.6em 1em}
</style>"""
_WORDS = {
    "clean": "clean",
    "found": "found something",
    "warned": "warns",
    "failed": "could not look",
    "skipped": "not checked",
}


def write_page(
    path: Path, checked: Sequence[Checked], given: Mapping[str, Path], *, show_ids: bool
) -> None:
    """Write the page.

    Args:
        path: Where.
        checked: Of `Audit`.
        given: Option -> path; of paths the last name alone is shown.
        show_ids: Whether subjects are named.
    """
    bad = [each for each in checked if each.state in {"found", "warned", "failed"}]
    looked = sum(each.state != "skipped" for each in checked)
    body = [_STYLE, f"<p>{looked} of {len(checked)} checks had something to look at.</p>"]
    if bad:
        for each in bad:
            body += [
                _finding(each, number, show_ids) for number in range(max(1, len(each.findings)))
            ]
    else:
        body.append('<p class="clean">Nothing was found.</p>')
    body.append("<h2>What was checked</h2>")
    rows = [
        {"check": e.check.name, "result": _WORDS[e.state], "it asks": e.check.asks}
        for e in checked
        if e.state != "skipped"
    ]
    body.append(table(rows))
    skipped = [
        {"check": e.check.name, "it asks": e.check.asks, "why not": e.reason}
        for e in checked
        if e.state == "skipped"
    ]
    if skipped:
        body += ["<h2>What was not checked</h2>", table(skipped)]
    body.append("<h2>What was given</h2>")
    body.append(table([{"option": name, "what": path.name} for name, path in given.items()]))
    path.write_text(html_page("Audit", body), encoding="utf-8")


def _finding(each: Checked, number: int, show_ids: bool) -> str:
    found = each.findings[number] if each.findings else Finding("", each.reason, 0)
    where = f": {found.where}" if found.where else ""
    kind = " warning" if found.severity == "warning" else ""
    subjects = found.subjects if show_ids else ()
    named = f"<p>Subjects: {', '.join(map(str, subjects))}</p>" if subjects else ""
    return (
        f'<div class="finding{kind}"><h3>{escape(each.check.name + where)}</h3><p>{escape(found.what)}.</p>'
        f"{named}<p><b>What to do:</b> {escape(each.check.do)}</p></div>"
    )
