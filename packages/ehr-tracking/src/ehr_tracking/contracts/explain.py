"""What explanations of models hold."""

from ehr_tracking.contracts.shape import Column, Contract

ATTRIBUTIONS = Contract(
    "attributions",
    1,
    "`attributions.parquet`: what each token of one subject's record adds to what a model says; `report.html`, its "
    "timeline. Their sum is what the model says less what it says of the baseline, both in the manifest's config.",
    (
        Column("subject_id", "int64", "MEDS subject."),
        Column("prediction_time", "timestamp[us]", "Inclusive: nothing later is read."),
        Column("position", "int64", "Of the token in the window that the model reads, from 0."),
        Column("event", "int64", "Tokens of one number tell one event."),
        Column("time", "timestamp[us]", "When it became known; null for what always is."),
        Column("visit", "int64", "Ordinal from 1; 0 outside any visit."),
        Column("token", "string", "Its text."),
        Column("code", "string", "MEDS code, where it stands for one."),
        Column("description", "string", "Of the code, or null."),
        Column("attribution", "double", "Integrated gradient, in units of what is explained."),
    ),
)
_FEATURE = (
    Column("head", "string", "Classifier."),
    Column("feature", "string", "Its name, where the features have names."),
)
SHAP_OF_SUBJECTS = (
    *_FEATURE,
    Column("subject_id", "int64", "That was asked for."),
    Column("prediction_time", "timestamp[us]", "Of the row."),
    Column("value", "double", "Of the feature."),
    Column("shap", "double", "What it adds to the log-odds."),
)
"""Columns of `subjects.parquet` in `shap/1`."""
SHAP = Contract(
    "shap",
    1,
    "`importance.parquet`: what each feature adds to the log-odds that heads give held-out rows; `subjects.parquet`: the "
    "same of single rows, of subjects that were asked for; `plots/`, `report.html`.",
    (
        *_FEATURE,
        Column("mean_absolute", "double", "Mean of its size over held-out rows."),
        Column("mean", "double", "Mean over held-out rows."),
        Column(
            "direction",
            "double",
            "Rank correlation of feature and what it adds, -1 to 1; null where either is constant.",
        ),
        Column(
            "rows", "int64", "Held-out rows in which the feature is not 0; null where they are few."
        ),
    ),
    {"subjects.parquet": SHAP_OF_SUBJECTS},
)
PRIVACY = Contract(
    "privacy",
    1,
    "`privacy.parquet`: what a model, or records that it made, tell of those it was trained on; `report.html`.",
    (
        Column("test", "string", "membership, nearest, memorised or reconstruction."),
        Column("score", "string", "What is measured, e.g. min_k or loss."),
        Column("value", "double", "Of it; null where it cannot be told."),
        Column("lower", "double", "2.5th percentile over bootstraps of subjects."),
        Column("upper", "double", "97.5th percentile."),
        Column("chance", "double", "What it is where nothing is told."),
        Column("train", "int64", "Train subjects."),
        Column("held_out", "int64", "Held-out subjects."),
    ),
)
