"""What predictions are judged to be: `judgement/1`."""

from ehr_tracking.contracts.shape import Column, Contract

_TASK = Column("task", "string", "Task name.")
_MODEL = Column(
    "model", "string", "Name of the predictions; of `results/1` with its model and head behind it."
)
_RECALIBRATION = Column("recalibration", "string", "none, platt or isotonic, fitted on tuning.")
_GROUP = Column("group", "string", "Attribute, e.g. sex; null: all rows.", optional=True)
_LEVEL = Column("level", "string", "Which group of it; null: all rows.", optional=True)
_METRIC = Column("metric", "string", "A key of `ALL_METRICS` in `ehr_eval.judge.metrics`.")
_BOUNDS = (
    Column("lower", "double", "2.5th percentile over bootstraps of patients.", optional=True),
    Column("upper", "double", "97.5th percentile.", optional=True),
)
_SIZES = (
    Column("n", "int64", "Held-out rows; null where too few patients are in the group.", optional=True),
    Column("patients", "int64", "Whose they are; null likewise.", optional=True),
    Column("positives", "int64", "Of the positive class; null likewise.", optional=True),
)  # fmt: skip
_REASON = Column("reason", "string", "Why a value is null.", optional=True)
_VALUE = Column("value", "double", "On the held-out rows; null where undefined.", optional=True)

MEAN_COLUMNS = (
    _MODEL,
    _RECALIBRATION,
    _METRIC,
    Column("tasks", "int64", "Over how many, unweighted: those on which it is defined."),
    _VALUE,
    Column("lower", "double", "Of EHRSHOT's interval for a group of tasks.", optional=True),
    Column("upper", "double", "The other end.", optional=True),
)
"""Columns of `means.parquet`."""
DIFFERENCE_COLUMNS = (
    _TASK,
    Column("kind", "string", "model: to another model; recalibration: to none; group: to all other rows."),
    _MODEL,
    _RECALIBRATION,
    _GROUP,
    _LEVEL,
    Column("baseline", "string", "Model, recalibration or rest that it is compared with."),
    _METRIC,
    Column("difference", "double", "Of the two, both judged on the same draws of patients.", optional=True),
    *_BOUNDS,
    Column("p", "double", "Of no difference, by the bootstrap; null without draws.", optional=True),
    Column("p_holm", "double", "Corrected for all of this kind and metric (Holm 1979).", optional=True),
    _REASON,
)  # fmt: skip
"""Columns of `differences.parquet`."""
CURVE_COLUMNS = (
    _TASK,
    _MODEL,
    _RECALIBRATION,
    Column("curve", "string", "A key of `CURVES` in `ehr_eval.judge.curves`."),
    Column("x", "double", "Rate, recall, probability or risk."),
    Column("y", "double", "What the curve says there; null where undefined.", optional=True),
    *_BOUNDS,
)
"""Columns of `curves.parquet`."""
CONFORMAL_COLUMNS = (
    _TASK,
    _MODEL,
    Column("method", "string", "marginal, or by_class (Mondrian)."),
    Column("miss", "double", "How often sets may miss the outcome."),
    Column("measure", "string", "coverage and size of the sets, and shares that are empty or hold one or both."),
    _VALUE,
    *_BOUNDS,
    _REASON,
)  # fmt: skip
"""Columns of `conformal.parquet`."""
JUDGEMENT = Contract(
    "judgement",
    1,
    "`results.parquet`, `means.parquet`, `differences.parquet`, `curves.parquet`, `conformal.parquet`, "
    "each as CSV as well; `tables.md`, `report.html`, `plots/`: predictions of held-out rows, judged.",
    (
        _TASK,
        _MODEL,
        _RECALIBRATION,
        _GROUP,
        _LEVEL,
        _METRIC,
        _VALUE,
        *_BOUNDS,
        *_SIZES,
        _REASON,
    ),
    {
        "means.parquet": MEAN_COLUMNS,
        "differences.parquet": DIFFERENCE_COLUMNS,
        "curves.parquet": CURVE_COLUMNS,
        "conformal.parquet": CONFORMAL_COLUMNS,
    },
)
