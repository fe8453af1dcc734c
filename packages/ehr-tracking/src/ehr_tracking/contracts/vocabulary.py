"""What `vocab.parquet` says of each token."""

from ehr_tracking.contracts.shape import Column

VOCABULARY_COLUMNS = (
    Column("id", "int32", "0..n-1, the row's own number; 0 is [PAD]."),
    Column("token", "string", "Unique text."),
    Column(
        "kind",
        "string",
        "special, code or value; in some schemes also category (a text value), part (of the code "
        "before), bin (of the code before), text (a subword), time, age or visit.",
    ),
    Column("code", "string", "MEDS code; null for a token that stands for none."),
    Column("bin", "int32", "Value bin from 1; null where the token carries no value."),
    Column("lower", "float", "Lower bound of the bin, inclusive; -inf for the first."),
    Column("upper", "float", "Upper bound of the bin, exclusive; inf for the last."),
    Column("count", "int64", "Events in the train split."),
    Column("subjects", "int64", "Subjects in the train split."),
    Column("description", "string", "From codes.parquet, or null."),
    Column("parents", "list<element: string>", "From codes.parquet, or null."),
    Column(
        "seconds",
        "double",
        "Of a time token: its mean length in train, else the middle of its bounds; null else.",
        optional=True,
    ),
    Column(
        "starts_visit",
        "bool",
        "Whether a visit begins with it: [VS], else a start code; docs/contracts.md.",
        optional=True,
    ),
    Column(
        "origin",
        "int32",
        "Of a vocabulary that others made: the row of the token there, from 0 behind its special tokens.",
        optional=True,
    ),
)
"""Columns of `vocab.parquet` in `tokens/1`."""
