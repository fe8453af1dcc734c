"""What one package may assume of a directory that another package wrote.

A contract is data: a name, an integer version, the columns of its tables. Producers and consumers
are released apart, so a consumer never imports its producer: it opens the directory and checks it
against the contract named here. Adding a column is no new version; changing a meaning is.
"""

from ehr_tracking.contracts.analyses import PERPLEXITY as PERPLEXITY
from ehr_tracking.contracts.analyses import STRATA as STRATA
from ehr_tracking.contracts.audit import AUDIT as AUDIT
from ehr_tracking.contracts.comparison import COMPARISON as COMPARISON
from ehr_tracking.contracts.explain import ATTRIBUTIONS as ATTRIBUTIONS
from ehr_tracking.contracts.explain import PRIVACY as PRIVACY
from ehr_tracking.contracts.explain import SHAP as SHAP
from ehr_tracking.contracts.judgement import JUDGEMENT as JUDGEMENT
from ehr_tracking.contracts.results import BEST_COLUMNS as BEST_COLUMNS
from ehr_tracking.contracts.results import COMPARISON_COLUMNS as COMPARISON_COLUMNS
from ehr_tracking.contracts.results import GROUP_COLUMNS as GROUP_COLUMNS
from ehr_tracking.contracts.results import MODEL as _MODEL
from ehr_tracking.contracts.results import PAIR_COLUMNS as PAIR_COLUMNS
from ehr_tracking.contracts.results import REASON as _REASON
from ehr_tracking.contracts.results import RESULTS as RESULTS
from ehr_tracking.contracts.results import SCORE as _SCORE
from ehr_tracking.contracts.results import TASK as _TASK
from ehr_tracking.contracts.results import TIMING_COLUMNS as TIMING_COLUMNS
from ehr_tracking.contracts.scaling import SCALING as SCALING
from ehr_tracking.contracts.shape import Column as Column
from ehr_tracking.contracts.shape import Contract as Contract
from ehr_tracking.contracts.shape import ContractError as ContractError
from ehr_tracking.contracts.vocabulary import VOCABULARY_COLUMNS as VOCABULARY_COLUMNS

TRAIN, TUNING, HELD_OUT = SPLITS = ("train", "tuning", "held_out")
"""The splits, as MEDS names them."""
SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[BOS]", "[EOS]")
"""The first tokens of every vocabulary; the place of each is its id."""
PAD_ID, UNK_ID, CLS_ID, SEP_ID, MASK_ID, BOS_ID, EOS_ID = range(len(SPECIALS))

_SUBJECT = Column("subject_id", "int64", "MEDS subject.")
_PREDICTION_TIME = Column(
    "prediction_time", "timestamp[us]", "Inclusive: events at this very time are visible."
)

TOKENS = Contract(
    "tokens",
    1,
    "`{split}/{shard}.parquet`: one row a subject, in subject order over the shards of a split; "
    "list columns of equal length, oldest token first. Beside them `vocab.parquet` and "
    "`tokenizer.json` (all that is needed to tokenise new subjects identically), and "
    "`coverage.json` (events by family of codes: told, unknown, excluded, told by a wider bin, the plain code, a parent).",
    (
        _SUBJECT,
        Column(
            "token",
            "list<element: uint16> | list<element: uint32>",
            "Row of `vocab.parquet`; the smallest sufficient type.",
        ),
        Column(
            "time",
            "list<element: timestamp[us]>",
            "When the token became known; null for static tokens, which are always known. "
            "Never decreasing, nulls first.",
        ),
        Column("age", "list<element: float>", "Days since birth; 0 for static tokens."),
        Column("visit", "list<element: uint16>", "Visit ordinal from 1; 0 outside any visit."),
        Column("segment", "list<element: uint8>", "0/1, flips with each visit.", optional=True),
    ),
    {"vocab.parquet": VOCABULARY_COLUMNS},
)
TEXT_TOKENS = Contract(
    "text_tokens",
    1,
    "Texts as a language model's tokenizer has them, laid out as `tokens/1`: one row a text, ids of "
    "`vocab.parquet`, which is the tokenizer's; `time` is the prediction time of the text, and null for the "
    "tokens that stay in view however much is cut. Beside them the tokenizer's own files.",
    TOKENS.columns,
    TOKENS.beside,
)
CHECKPOINT = Contract(
    "checkpoint",
    1,
    "A Hugging Face directory (`config.json`, `model.safetensors`, remote code where the class is "
    "ours), the `vocab.parquet` and `tokenizer.json` it was trained with, `metrics.json`, and "
    "`training_state/` (safetensors and JSON) where training can go on from it.",
)
ADAPTER = Contract(
    "adapter",
    1,
    "A PEFT directory: `adapter_config.json`, `adapter_model.safetensors` with the adapter and every "
    "trained head; `config.json` of the whole model, vocabulary, metrics and training state as in "
    "`checkpoint/1`. Its input `base` is the checkpoint that it adapts, and its "
    "`base_model_name_or_path` where that lay, relative to it.",
)
LABELS = Contract(
    "labels",
    1,
    "`{task}/labels.parquet`: MEDS labels, one row a (subject, prediction time); `tasks.json` says "
    "how each was made; `_cohort/` who is in it, and who was left out for which reason, by split.",
    (
        _SUBJECT,
        _PREDICTION_TIME,
        Column("boolean_value", "bool", "The outcome.", optional=True),
        Column("integer_value", "int64", "The outcome.", optional=True),
        Column("float_value", "float", "The outcome.", optional=True),
        Column("categorical_value", "string", "The outcome.", optional=True),
        Column(
            "duration_days",
            "double",
            "Days from the prediction time to the event, or to the end of what is known; "
            "boolean_value says which.",
            optional=True,
        ),
        Column(
            "severity", "int8", "0 where boolean_value is false, else from 1 on.", optional=True
        ),
    ),
)
MEDS = "meds/0.4"
"""What a MEDS data set is in a lineage: it carries no manifest."""
MEDS_LABELS = "meds-labels/0.4"
"""What MEDS labels are in a lineage that carry no manifest: anyone's, not `labels/1`."""
FEATURES = Contract(
    "features",
    1,
    "`features.safetensors`: `features` [n, d] float32, or as CSR `data`, `indices`, `indptr`, "
    "`shape`; `index.parquet` names the rows.",
    (
        _SUBJECT,
        _PREDICTION_TIME,
        Column("row", "int64", "Row of the matrix."),
        Column("split", "string", "train, tuning or held_out."),
    ),
)
SHOTS = Contract(
    "shots",
    1,
    "`shots.parquet`: the rows of each task, k and replicate on which a model that is trained "
    "elsewhere learns and chooses, and those on which it is judged, so that it is compared on the "
    "same draws.",
    (
        Column("task", "string", "Task name."),
        Column("k", "int64", "Shots per class; -1 is all."),
        Column("replicate", "int64", "Which draw; as k null for held_out, the same for all."),
        Column("split", "string", "train: learnt from; tuning: chosen by; held_out: judged on."),
        _SUBJECT,
        _PREDICTION_TIME,
        Column("boolean_value", "bool", "The outcome."),
        Column("order", "int64", "Place among the draw's rows of the split, from 0."),
    ),
)
PREDICTIONS = Contract(
    "predictions",
    1,
    "`**/*.parquet` in the schema of meds-evaluation: of held-out rows; below `tuning/` of tuning rows.",
    (
        _SUBJECT,
        _PREDICTION_TIME,
        Column("boolean_value", "bool", "The outcome."),
        Column("predicted_boolean_value", "bool", "Null where no threshold was chosen."),
        Column("predicted_boolean_probability", "float", "In [0, 1]."),
        Column("lower", "float", "Of an interval of that, as `zeroshot` gives it.", optional=True),
        Column("upper", "float", "The other end.", optional=True),
        Column("tokens", "int64", "Drawn for it.", optional=True),
    ),
)
RISKS = Contract(
    "risks",
    1,
    "`{task}/**/*.parquet`: predicted risks of an event, one row a (subject, prediction time) and "
    "horizon; all have the same horizons.",
    (
        _SUBJECT,
        _PREDICTION_TIME,
        Column("horizon_days", "double", "Days after the prediction time, above 0."),
        Column("predicted_risk", "double", "1 - S: of the event by then, in [0, 1]."),
    ),
)
ANSWERS = Contract(
    "answers",
    1,
    "`answers.parquet`: what a model says of each query, one row a (subject, prediction time), query and "
    "horizon; `queries.json` says what each query is. `predictions/` is a `predictions/1` of the tasks that "
    "queries are named like.",
    (
        _SUBJECT,
        _PREDICTION_TIME,
        Column("split", "string", "train, tuning or held_out."),
        Column("query", "string", "Its name."),
        Column("horizon_days", "double", "Days after the prediction time, above 0."),
        Column(
            "probability",
            "float",
            "Of yes: it comes by then, were the record to go on (of a query for absence, it does not).",
        ),
        Column(
            "censored_probability",
            "float",
            "That the record ends before, and it has not come; null where nothing is said of it.",
        ),
    ),
)
CLASSES = Contract(
    "classes",
    1,
    "`{task}/**/*.parquet`: predicted probabilities, one row a (subject, prediction time) and class; all "
    "have the same classes.",
    (
        _SUBJECT,
        _PREDICTION_TIME,
        Column("class", "string", "Its name, as labels have it."),
        Column("predicted_probability", "double", "In [0, 1]; 1 over the classes of a row."),
    ),
)
NUMBERS = Contract(
    "numbers",
    1,
    "`{task}/**/*.parquet`: predicted numbers, one row a (subject, prediction time).",
    (
        _SUBJECT,
        _PREDICTION_TIME,
        Column("predicted_value", "double", "In the unit of the labels."),
    ),
)
SURVIVAL = Contract(
    "survival",
    1,
    "`results.parquet`, `report.html`, `plots/`: predicted times to an event, judged.",
    (
        _TASK,
        _MODEL,
        Column("head", "string", "cox, given (predictions), or kaplan-meier (one risk for all)."),
        Column("metric", "string", "harrell_c, uno_c, integrated_brier, auc, brier."),
        Column("horizon_days", "double", "Of auc and brier; null: of all horizons.", optional=True),
        *_SCORE,
        Column("events", "int64", "Those with the event."),
        _REASON,
        Column("selected", "string", "The penalty that was kept, as JSON.", optional=True),
    ),
)
OUTCOMES = Contract(
    "outcomes",
    1,
    "`results.parquet`, `confusion.parquet`, `report.html`: predicted classes or numbers, judged.",
    (
        _TASK,
        _MODEL,
        Column("head", "string", "lr, ridge, given (predictions), majority or mean (of train)."),
        Column("metric", "string", "macro_auroc, accuracy, macro_f1; or mae, rmse, r2, spearman."),
        *_SCORE,
        _REASON,
        Column("selected", "string", "The grid's point that was kept, as JSON.", optional=True),
    ),
    beside={
        "confusion.parquet": (
            _TASK,
            _MODEL,
            Column("head", "string", "As in results."),
            Column("class", "string", "That the labels say."),
            Column("predicted_class", "string", "The likeliest."),
            Column("rows", "int64", "Held-out rows."),
        )
    },
)
SUMMARY_COLUMNS = (
    _TASK,
    Column("n", "int64", "Held-out rows."),
    Column("positive", "int64", "Held-out rows of the positive class."),
)
"""Keys of a summary of `results/1`; one a model and head follows, `{model} {head}`: its AUROC."""
NARRATIVES = Contract(
    "narratives",
    1,
    "`{task}/narratives.parquet`: one row a label, by subject and prediction time; labels as in "
    "`labels/1`. Of whole records `records/narratives.parquet`: one row a piece.",
    (
        _SUBJECT,
        Column(
            "prediction_time", "timestamp[us]", "What is known then is told; null: a whole record."
        ),
        Column("split", "string", "train, tuning or held_out; of whole records never held_out."),
        Column("text", "string", "What was known at the prediction time less the gap, or a piece."),
        *LABELS.columns[2:6],
        Column("piece", "int64", "Which piece of the record, from 0, the oldest.", optional=True),
        Column("events", "int64", "Events that the text tells, demographics apart."),
        Column(
            "truncated", "int64", "Older events left out to stay within the limit.", optional=True
        ),
    ),
)
FUTURES_COLUMNS = (
    _SUBJECT,
    _PREDICTION_TIME,
    Column("sample", "int64", "Which future, from 0."),
    Column(
        "reason",
        "string",
        "Why it ends: horizon, death, end (of the record), stop (a code that was asked for) or budget "
        "(of tokens).",
    ),
    Column("tokens", "int64", "Drawn for it."),
    Column("until", "timestamp[us]", "It is told up to then: the horizon, or its last token."),
)
"""Columns of `futures/{part}.parquet` in `trajectories/1`: each future once, also one without events."""
TRAJECTORIES = Contract(
    "trajectories",
    1,
    "`events/{part}.parquet`: simulated futures as MEDS events, in a part by subject, prediction time, sample "
    "and time; `futures/{part}.parquet`: why each ends. `samples/{sample}.parquet`, where asked for: one table "
    "a sample, as MEDS_trajectory_evaluation reads them.",
    (
        _SUBJECT,
        _PREDICTION_TIME,
        Column("sample", "int64", "Which future, from 0."),
        Column("time", "timestamp[us]", "After the prediction time, up to the horizon."),
        Column("code", "string", "What happens."),
        Column("numeric_value", "float", "Its value, or null.", optional=True),
    ),
    {"futures/{part}.parquet": FUTURES_COLUMNS},
)
CURVE = Contract(
    "curve",
    1,
    "`curve.parquet`: risks of tasks along one subject's record; `plots/{task}.png`, `report.html`.",
    (
        Column("task", "string", "Task name."),
        _SUBJECT,
        _PREDICTION_TIME,
        Column(
            "risk", "double", "Of the outcome; null where no future has an answer.", optional=True
        ),
        Column("lower", "double", "Of its interval.", optional=True),
        Column("upper", "double", "The other end.", optional=True),
        Column("tokens", "int64", "Drawn for it."),
    ),
)
RUN = Contract(
    "run",
    1,
    "`config.yaml`, `environment.json`, `metrics.jsonl` (reproducible), `timings.jsonl`, `saves.jsonl` and "
    "`starts.jsonl` (not), `checkpoints/` (each a `checkpoint/1`, or an `adapter/1`), `plots/`, `SUMMARY.txt`, `report.html`.",
)

CONTRACTS = {
    c.name: c
    for c in (
        TOKENS, TEXT_TOKENS, NARRATIVES, CHECKPOINT, ADAPTER, LABELS, FEATURES, SHOTS, PREDICTIONS, ANSWERS, CLASSES, NUMBERS, RISKS,
        TRAJECTORIES, CURVE, RESULTS, COMPARISON, SCALING, JUDGEMENT, SURVIVAL, OUTCOMES, AUDIT, RUN, PERPLEXITY, STRATA,
        ATTRIBUTIONS, SHAP, PRIVACY,
    )
}  # fmt: skip
"""Every contract that this version knows, by name."""
