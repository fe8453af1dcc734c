"""The columns of a comparison: several models over several tasks, seeds brought together."""

from ehr_tracking.contracts.shape import Column, Contract

_RESULTS = Column("results", "string", "Which results, by the name that they were given.")
_LEVEL = Column("level", "string", "task, or group: an unweighted mean over tasks.")
_TASK = Column("task", "string", "Name of the task, or of the group of tasks.")
_K = Column("k", "int64", "Shots per class; -1 is all.")
SCORE_COLUMNS = (
    _RESULTS,
    _LEVEL,
    _TASK,
    Column("model", "string", "Without its seed."),
    Column("head", "string", "Classifier on the features; given: predictions made elsewhere."),
    _K,
    Column(
        "metric",
        "string",
        "As in `results/1`; or share_of_best, of the way from chance to the best risk's AUROC.",
    ),
    Column("value", "double", "Mean over seeds.", optional=True),
    Column(
        "lower",
        "double",
        "2.5th percentile of the value over bootstraps of patients, seeds and tasks averaged in each.",
        optional=True,
    ),
    Column("upper", "double", "97.5th percentile.", optional=True),
    Column("seeds", "int64", "That have a value."),
    Column("sd", "double", "Of the seeds' values (n - 1); null of one.", optional=True),
    Column("least", "double", "Of the seeds' values.", optional=True),
    Column("most", "double", "Of the seeds' values.", optional=True),
    Column("n", "int64", "Held-out rows; of a group its tasks."),
    Column("positives", "int64", "Held-out rows of the positive class.", optional=True),
)
"""Columns of `leaderboard.csv` and `curves.csv`."""
DIFFERENCE_COLUMNS = (
    _RESULTS,
    _LEVEL,
    _TASK,
    Column("model", "string", "Without its seed."),
    Column("other", "string", "That it is compared with."),
    Column("head", "string", "Of the model."),
    Column("other_head", "string", "Of the other."),
    _K,
    Column("model_auroc", "double", "Mean over pairs of seeds."),
    Column("other_auroc", "double", "The same of the other."),
    Column("difference", "double", "Of the two: above 0 the model is better."),
    Column(
        "lower", "double", "2.5th percentile of the difference, paired by patient.", optional=True
    ),
    Column("upper", "double", "97.5th percentile.", optional=True),
    Column("pairs", "int64", "Of seeds, one of each."),
    Column("ahead", "int64", "Pairs of seeds in which the model is better."),
)
"""Columns of `differences.csv`."""
COST_COLUMNS = (
    Column(
        "stage", "string", "What was done: train, evaluate, or a name that the costs file gives."
    ),
    Column("name", "string", "Of what: a model with its seed, or as the costs file says."),
    Column("seconds", "double", "Wall time.", optional=True),
    Column("memory_mb", "double", "Most memory of a process, in MB.", optional=True),
    Column("from", "string", "run, results or costs: where that was read."),
)
"""Columns of `costs.csv`, which no second run repeats."""
COMPARISON = Contract(
    "comparison",
    1,
    "`page.html`, one file that needs no other; `leaderboard.csv` (the most shots; columns as below), `curves.csv` (every k), "
    "`differences.csv`, `costs.csv` (not reproducible), `leaderboard.md`, `methods.md`, `plots/`.",
    SCORE_COLUMNS,
    {
        "curves.csv": SCORE_COLUMNS,
        "differences.csv": DIFFERENCE_COLUMNS,
        "costs.csv": COST_COLUMNS,
    },
)
