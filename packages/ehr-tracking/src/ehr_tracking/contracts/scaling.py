"""The columns of a study of scaling: runs of several sizes on several budgets of tokens."""

from ehr_tracking.contracts.shape import Column, Contract

_FAMILY = Column("family", "string", "Kind and objective: runs that differ in size and tokens.")
_RESULTS = Column("results", "string", "Which results a share is of; null of a loss.", optional=True)  # fmt: skip
_FIGURE = Column(
    "figure", "string", "loss: of validation; share: of the way from chance to the best possible."
)
_K = Column("k", "int64", "Shots per class of a share, -1 is all; null of a loss.", optional=True)
POINT_COLUMNS = (
    _FAMILY,
    Column("model", "string", "Its name, with its seed where it has one."),
    Column("parameters", "int64", "In the weights that are kept."),
    Column(
        "tokens", "int64", "Seen in training; those of a second pass over the data count again."
    ),
    Column("compute", "double", "6 x parameters x tokens: about so many operations."),
    _RESULTS,
    _FIGURE,
    _K,
    Column(
        "value",
        "double",
        "Loss in nats a target, the least of the run; share as a mean over tasks.",
    ),
)
"""Columns of `points.csv`."""
FIT_COLUMNS = (
    _FAMILY,
    _RESULTS,
    _FIGURE,
    _K,
    Column("runs", "int64", "That it was fitted to."),
    Column(
        "number",
        "string",
        "Of the law: E, A, alpha, B, beta; growth: beta / (alpha + beta); twice_parameters, twice_tokens: what it changes by "
        "from the middle of the runs; misfit: of logarithms, root mean square. Null where nothing was fitted.",
        optional=True,
    ),
    Column("value", "double", "Null where nothing was fitted.", optional=True),
    Column("lower", "double", "2.5th percentile over the bootstrap.", optional=True),
    Column("upper", "double", "97.5th percentile.", optional=True),
    Column("reason", "string", "Why nothing was fitted.", optional=True),
)
"""Columns of `fits.csv`."""
SCALING = Contract(
    "scaling",
    1,
    "`page.html`, one file that needs no other; `points.csv` (columns as below), `fits.csv`, `tables.md`, `plots/`: how loss and "
    "the share of the way to the best possible go with parameters and tokens.",
    POINT_COLUMNS,
    {"fits.csv": FIT_COLUMNS},
)
