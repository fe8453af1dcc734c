"""The columns of results: few shots judged, task by task, in groups and in pairs."""

from ehr_tracking.contracts.shape import Column, Contract

TASK = Column("task", "string", "Task name.")
MODEL = Column("model", "string", "Name of the features or predictions; train: no model.")
SCORE = (
    Column("value", "double", "On the held-out split; null where undefined."),
    Column("lower", "double", "2.5th percentile over bootstraps of patients."),
    Column("upper", "double", "97.5th percentile."),
    Column("n", "int64", "Held-out rows."),
)
REASON = Column("reason", "string", "Why a value is null.", optional=True)
CELL = (
    TASK,
    Column("model", "string", "Name of the features or predictions."),
    Column("head", "string", "Classifier on the features; given: predictions made elsewhere."),
    Column("k", "int64", "Shots per class; -1 is all."),
)
PAIR = (
    Column("model", "string", "Name of the features or predictions."),
    Column("baseline", "string", "Name of those it is compared with."),
    Column("head", "string", "Classifier of the model."),
    Column(
        "baseline_head",
        "string",
        "Classifier of the other: the same, but where one is given or both were named.",
    ),
    Column("k", "int64", "Shots per class; -1 is all."),
)
COMPARISON_COLUMNS = (
    TASK,
    *PAIR,
    Column("model_auroc", "double", "Mean over replicates."),
    Column("baseline_auroc", "double", "The same of the baseline."),
    Column("difference", "double", "Of the two: above 0 the model is better."),
    Column("lower", "double", "2.5th percentile of the difference, paired by patient."),
    Column("upper", "double", "97.5th percentile."),
    Column("p", "double", "Of no difference, two-sided, by the same bootstrap.", optional=True),
    Column(
        "p_holm", "double", "The same, corrected for all tasks of the pair (Holm).", optional=True
    ),
    Column(
        "p_bh",
        "double",
        "The same, as a false discovery rate (Benjamini and Hochberg).",
        optional=True,
    ),
)
"""Columns of `comparisons.parquet` in `results/1`."""
PAIR_COLUMNS = (
    *PAIR,
    Column("tasks", "int64", "On which both have an AUROC."),
    Column("wins", "int64", "Tasks on which the model is ahead."),
    Column("ties", "int64", "Tasks on which neither is."),
    Column("losses", "int64", "Tasks on which the other is ahead."),
    Column("win_rate", "double", "Wins and half of the ties, per task."),
    Column("clear_wins", "int64", "Wins of which p_holm is below .05."),
    Column("clear_losses", "int64", "Losses of which p_holm is below .05."),
    Column("difference", "double", "Of AUROC: mean over the tasks."),
    Column("lower", "double", "That less 1.96 sqrt(sum of variances) / tasks."),
    Column("upper", "double", "That and as much."),
)
"""Columns of `pairs.parquet` in `results/1`: `comparisons.parquet`, over tasks."""
GROUP_COLUMNS = (
    Column("group", "string", "Of the config's `groups`; `all tasks`; or `mean of groups`."),
    *CELL[1:],
    Column("metric", "string", "As in results."),
    Column("value", "double", "Unweighted mean over the tasks that have one."),
    Column("lower", "double", "That less 1.96 sqrt(sum of variances) / tasks."),
    Column("upper", "double", "That and as much."),
    Column("tasks", "int64", "How many have a value."),
)
"""Columns of `groups.parquet` in `results/1`."""
BEST_COLUMNS = (
    TASK,
    Column("value", "double", "AUROC of the best possible risk on the held-out split."),
    Column("lower", "double", "2.5th percentile over bootstraps of patients.", optional=True),
    Column("upper", "double", "97.5th percentile.", optional=True),
)
"""Columns of `best.parquet` in `results/1`: tasks whose best possible risk was given."""
TIMING_COLUMNS = (
    *CELL,
    Column("seconds", "double", "Wall time of fitting and predicting, over all replicates."),
)
"""Keys of each line of `timings.jsonl` in `results/1`."""
RESULTS = Contract(
    "results",
    1,
    "`results.parquet`, `groups.parquet`, `comparisons.parquet`, `pairs.parquet`, `best.parquet`, `report.html`, `report.md`, "
    "`plots/`, `predictions/` and `tuning/` in the schema of `predictions/1`, `timings.jsonl` (not reproducible), and "
    "`draws/{task}.safetensors`: float32 [B] of each mean over replicates in the B bootstrap draws of patients, NaN where "
    "undefined, as `metric/model/head/k`; `auroc/best` is that of the best possible risk. Draw i has the same patients for all "
    "models. Results of earlier versions lack `best.parquet` and `draws/`.",
    (
        *CELL,
        Column("replicate", "int64", "Which draw of the shots; -1 is the mean over draws."),
        Column("metric", "string", "A key of `METRICS` in `ehr_eval.judge.metrics`, e.g. auroc."),
        *SCORE,
        Column("positives", "int64", "Held-out rows of the positive class.", optional=True),
        REASON,
        Column("selected", "string", "The grid's point, as JSON; null for means.", optional=True),
    ),
    {
        "groups.parquet": GROUP_COLUMNS,
        "comparisons.parquet": COMPARISON_COLUMNS,
        "pairs.parquet": PAIR_COLUMNS,
        "best.parquet": BEST_COLUMNS,
        "timings.jsonl": TIMING_COLUMNS,
    },
)
