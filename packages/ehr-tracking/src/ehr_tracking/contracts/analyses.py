"""What analyses of a model's errors write: by place in the record, by kind of record."""

from ehr_tracking.contracts.shape import Column, Contract

PERPLEXITY = Contract(
    "perplexity",
    1,
    "`perplexity.parquet`, `plot.png`, `report.html`: how well causal models foretell the next token, by its "
    "place in the record.",
    (
        Column("checkpoint", "string", "Name of the model."),
        Column(
            "position",
            "int64",
            "Place of the token in its record, from 0; null: all.",
            optional=True,
        ),
        Column("subjects", "int64", "With a token there that was asked for."),
        Column("tokens", "int64", "That were asked for."),
        Column(
            "perplexity",
            "double",
            "Median over subjects; of all positions: the exponential of the mean loss of a token.",
        ),
        Column(
            "smoothed", "double", "Mean over the positions around it; null: of all.", optional=True
        ),
    ),
)
STRATA = Contract(
    "strata",
    1,
    "`strata.parquet`, `rows.parquet`, `plots/`, `report.html`: Brier scores of quartiles of rows by what their "
    "records are like.",
    (
        Column("measure", "string", "By which rows are ranked, e.g. rr, irregularity_std, tokens."),
        Column("task", "string", "Task name; null: the mean over tasks.", optional=True),
        Column("model", "string", "Model name."),
        Column("quartile", "int64", "1 has the lowest quarter of ranks."),
        Column("brier", "double", "Null where it is not defined.", optional=True),
        Column("lower", "double", "2.5th percentile over draws of patients.", optional=True),
        Column("upper", "double", "97.5th.", optional=True),
        Column("rows", "int64", "Held-out rows."),
        Column("from", "double", "Lowest value of the measure; null over tasks.", optional=True),
        Column("to", "double", "Highest; null over tasks.", optional=True),
    ),
    {
        "rows.parquet": (
            Column("subject_id", "int64", "MEDS subject."),
            Column("prediction_time", "timestamp[us]", "Inclusive."),
            Column("measure", "string", "As in strata."),
            Column("value", "double", "Null where it is not defined.", optional=True),
        )
    },
)
