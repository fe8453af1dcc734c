"""What an audit writes."""

from ehr_tracking.contracts.shape import Column, Contract

CHECKED_COLUMNS = (
    Column("check", "string", "Its name in `CHECKS` of `ehr_eval.audit.checks`."),
    Column(
        "state",
        "string",
        "clean, found (an error), warned, failed (it could not look at what is there) or skipped (it had nothing to "
        "look at).",
    ),
    Column("reason", "string", "Why it was skipped, or failed; empty else."),
)
"""Columns of `checks.parquet` in `audit/1`."""
AUDIT = Contract(
    "audit",
    1,
    "`findings.parquet`: what makes results look better than they are; `checks.parquet`: which checks ran; "
    "`report.html`.",
    (
        Column("check", "string", "Which found it."),
        Column("severity", "string", "error or warning."),
        Column("where", "string", "Which input: a task, a set of features, the tokens."),
        Column("what", "string", "In words."),
        Column("count", "int64", "Of what `what` says: rows, subjects, tokens, columns."),
        Column(
            "subject_ids",
            "list<element: int64>",
            "Whose; empty unless the user asked for ids.",
        ),
    ),
    {"checks.parquet": CHECKED_COLUMNS},
)
