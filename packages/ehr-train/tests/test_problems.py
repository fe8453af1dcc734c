"""Objectives with a pooled head: each learns what it is for, and says how well as others would."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from lifelines.utils import concordance_index
from sklearn import metrics

from ehr_models.checkpoint import load_checkpoint
from ehr_models.data.batch import pack
from ehr_models.data.store import open_split
from ehr_models.data.tokens import open_tokens
from ehr_models.data.windows import newest
from ehr_models.heads.pooled import classify
from ehr_tracking.arrow.label_csv import LabelColumns
from ehr_tracking.checkpoints import resolve
from ehr_tracking.config import ConfigError, load_config, to_dict
from ehr_tracking.contracts import BOS_ID
from ehr_tracking.errors import UserError
from ehr_tracking.runs import read_log
from ehr_train.config import (
    CheckpointConfig,
    DataConfig,
    OptimConfig,
    TrainConfig,
    TrainedConfig,
    ValidationConfig,
)
from ehr_train.data.examples import Examples
from ehr_train.objectives import MLM, OBJECTIVES, Classification, Survival
from ehr_train.objectives.total import Part, Sum
from ehr_train.plan import plan
from ehr_train.run import train

from .conftest import DAY_US, tiny_config, write_tokens
from .test_resume import outcome, turn_back

LABELLED = ("multiclass", "multilabel", "regression", "survival")


def write_labels(path, subject, **values):
    path.parent.mkdir(parents=True, exist_ok=True)
    time = pa.array([9 * DAY_US] * len(subject), pa.timestamp("us"))
    table = {"subject_id": pa.array(subject, pa.int64()), "prediction_time": time, **values}
    pq.write_table(pa.table(table), path)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    """Subjects of class 0, 1 or 2, which the code 20, 21 or 22 tells before day 9; and their labels."""
    root = tmp_path_factory.mktemp("problems")
    rng = np.random.default_rng(0)
    splits, subject, of = {}, [], []
    for split, n, first in (("train", 90, 0), ("tuning", 36, 1000)):
        splits[split] = []
        for i in range(n):
            code = rng.integers(23, 60, 20)
            code[rng.integers(0, 8)] = 20 + i % 3
            token = [BOS_ID, *code.tolist()]
            splits[split].append(
                {"subject_id": first + i, "token": token, "time": [None, *range(20)]}
            )
            subject.append(first + i)
            of.append(i % 3)
    of = np.array(of)
    labels, days = root / "labels", 30.0 * of + rng.random(len(of)) * 5 + 1
    write_labels(labels / "multiclass" / "0.parquet", subject, integer_value=pa.array(of * 5))
    for k in range(2):
        write_labels(
            labels / "multilabel" / f"is_{k}" / "0.parquet",
            subject,
            boolean_value=pa.array(of == k),
        )
    write_labels(
        labels / "regression" / "0.parquet", subject, float_value=pa.array(100.0 + 20 * of)
    )
    write_labels(
        labels / "survival" / "0.parquet",
        subject,
        boolean_value=pa.array(rng.random(len(of)) < 0.8),
        duration_days=pa.array(days),
    )
    return write_tokens(root / "t", splits), labels


def config_for(kind, **changes) -> TrainConfig:
    return tiny_config(
        **{
            "objective": OBJECTIVES[kind](pooling="max"),
            "optim": OptimConfig(lr=1e-2, steps=60),
            "data": DataConfig(context=32, batch_tokens=512, micro_tokens=512),
            "validation": ValidationConfig(every=30),
            **changes,
        }
    )


@pytest.fixture(scope="module")
def runs(cohort, tmp_path_factory):
    tokens, labels = cohort
    root = tmp_path_factory.mktemp("runs")
    steps = dict.fromkeys(LABELLED, 120) | {
        "survival": 180
    }  # few rows tell of each of its intervals
    configs = {k: config_for(k, optim=OptimConfig(lr=1e-2, steps=n)) for k, n in steps.items()}
    return {k: train(tokens, root / k, c, labels=labels / k) for k, c in configs.items()}


def answers(run, tokens):
    """The answers of the best checkpoint for the tuning split, from what was known on day 9."""
    model = load_checkpoint(run, head="pooled").model
    rows = open_split(open_tokens(tokens), "tuning")
    windows = newest(rows, np.arange(len(rows)), [11] * len(rows), 32)
    with torch.no_grad():
        return classify(model, pack(rows, windows)).numpy(), model.config


def said(run):
    return json.loads((resolve(run) / "metrics.json").read_text())


def truth(labels, kind):
    table = pq.read_table(labels / kind / "0.parquet").to_pandas()
    return table[table["subject_id"] >= 1000]


def test_a_class_is_learnt_and_the_figures_are_those_of_the_saved_model(cohort, runs):
    logits, config = answers(runs["multiclass"], cohort[0])
    wanted = truth(cohort[1], "multiclass")["integer_value"].to_numpy() // 5
    figures = said(runs["multiclass"])
    assert figures["val_auroc"] > 0.9
    odds = torch.tensor(logits).softmax(1).numpy()
    assert figures["val_auroc"] == pytest.approx(
        metrics.roc_auc_score(wanted, odds, multi_class="ovr")
    )
    assert figures["val_accuracy"] == pytest.approx((logits.argmax(1) == wanted).mean())
    assert figures["val_loss"] == pytest.approx(metrics.log_loss(wanted, odds), rel=1e-5)
    assert config.id2label == {0: "0", 1: "5", 2: "10"}


def test_several_labels_are_learnt_at_once(cohort, runs):
    logits, config = answers(runs["multilabel"], cohort[0])
    of = truth(cohort[1], "multiclass")["integer_value"].to_numpy() // 5
    wanted = of[:, None] == np.arange(2)
    figures = said(runs["multilabel"])
    assert figures["val_auroc"] > 0.75
    assert figures["val_auroc"] == pytest.approx(
        metrics.roc_auc_score(wanted, logits, average="macro")
    )
    assert figures["val_accuracy"] == pytest.approx(((logits > 0) == wanted).mean())
    assert config.id2label == {0: "is_0", 1: "is_1"}


def test_a_number_is_learnt_in_its_own_unit(cohort, runs):
    outputs, config = answers(runs["regression"], cohort[0])
    wanted = truth(cohort[1], "regression")["float_value"].to_numpy()
    figures = said(runs["regression"])
    assert config.regression_mean == pytest.approx(120)
    assert config.regression_std == pytest.approx(20 * (2 / 3) ** 0.5)
    numbers = outputs[:, 0] * config.regression_std + config.regression_mean
    assert figures["val_rmse"] == pytest.approx(
        metrics.root_mean_squared_error(wanted, numbers), rel=1e-4
    )
    assert figures["val_r2"] > 0.5


def test_time_to_an_event_is_learnt_and_its_bounds_are_kept(cohort, runs):
    logits, config = answers(runs["survival"], cohort[0])
    table = truth(cohort[1], "survival")
    edges = config.survival_edges
    assert edges[0] == 0
    assert np.all(np.diff(edges) > 0)
    assert logits.shape[1] == len(edges) - 1 == config.num_labels
    figures = said(runs["survival"])
    survival = (1 / (1 + np.exp(logits.astype(float)))).prod(1)
    wanted = concordance_index(table["duration_days"], survival, table["boolean_value"])
    assert figures["val_c_index"] == pytest.approx(wanted)
    assert wanted > 0.7


def test_risk_is_over_all_intervals_however_long_a_subject_was_seen():
    """A ranking that is perfect has C = 1 although those who are seen longest have most hazards."""
    days = np.array([2.0, 5.0, 8.0, 11.0])
    hazards = np.array([0.5, 0.4, 0.3, 0.25])[:, None].repeat(12, 1)
    objective = Survival(edges=tuple(float(e) for e in range(13)))
    scores = -np.log1p(-hazards).sum(1)
    label = np.stack([days, np.ones(4)], 1)
    examples = Examples(None, np.arange(4), np.ones(4, int), label)
    assert objective.metrics({"loss": 0.0}, scores, examples)["c_index"] == 1
    seen = np.array([h[: int(d)].sum() for h, d in zip(hazards, days, strict=True)])
    assert concordance_index(days, -seen, np.ones(4)) < 0.5  # what the trap would have said


def test_a_survival_run_that_is_resumed_ends_with_the_same_bits(cohort, tmp_path):
    tokens, labels = cohort
    config = config_for(
        "survival",
        optim=OptimConfig(lr=1e-2, steps=6),
        checkpoint=CheckpointConfig(every=3),
        validation=ValidationConfig(every=6),
    )
    run = train(tokens, tmp_path / "run", config, labels=labels / "survival")
    before = outcome(run)
    (run / "manifest.json").unlink()
    assert turn_back(run).name == "step-00000003"
    train(tokens, run, config, labels=labels / "survival", resume=True)
    assert outcome(run) == before


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        ("classification", {"boolean_value": [True] * 3}, "classification: all 3 train rows are positive"),
        ("multiclass", {"integer_value": [4] * 3}, "multiclass: all 3 train rows are of class 4, so"),
        ("multilabel", {"boolean_value": [False] * 3}, "label one: all 3 train rows are negative"),
        ("regression", {"float_value": [2.5] * 3}, "regression: all 3 train rows are 2.5, so there is"),
        ("regression", {"float_value": [1.0, float("inf"), 2.0]}, "float_value = inf for subject 1 at"),
        ("survival", {"boolean_value": [True] * 3, "duration_days": [1.0, -1.0, 2.0]},
         "duration_days = -1.0 for subject 1 at"),
        ("survival", {"boolean_value": [False] * 3, "duration_days": [1.0] * 3},
         "survival: of 3 train rows none has an event"),
        ("survival", {"boolean_value": [True] * 3}, "has no duration_days: days from the prediction"),
    ],
)  # fmt: skip
def test_labels_of_which_nothing_can_be_learnt_are_refused(cohort, tmp_path, kind, values, message):
    arrays = {name: pa.array(value) for name, value in values.items()}
    write_labels(tmp_path / "one" / "0.parquet", [0, 1, 2], **arrays)
    with pytest.raises(UserError, match=message) as error:
        train(cohort[0], tmp_path / "run", config_for(kind), labels=tmp_path / "one")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_several_labels_need_the_same_rows(cohort, tmp_path):
    write_labels(tmp_path / "l" / "a" / "0.parquet", [0, 1], boolean_value=pa.array([True, False]))
    write_labels(tmp_path / "l" / "b" / "0.parquet", [0, 2], boolean_value=pa.array([True, False]))
    message = "tasks a and b differ in 2, the first of subject 1"
    with pytest.raises(UserError, match=message):
        train(cohort[0], tmp_path / "run", config_for("multilabel"), labels=tmp_path / "l")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            ["objective.edges=[0, 5, 5]"],
            "edges must be at least two ascending numbers of days, from 0",
        ),
        (["objective.edges=[1, 5]"], "edges must be at least two ascending"),
        (["validation.best=auroc"], "best = auroc, but objective survival has loss, c_index"),
    ],
)
def test_settings_that_no_survival_model_can_have_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message) as error:
        load_config(TrainConfig, overrides=["objective.kind=survival", *settings])
    assert "\n" not in str(error.value)


def test_class_weights_multiply_the_rows_of_their_class(cohort):
    objective = OBJECTIVES["multiclass"](class_weights=(1.0, 2.0, 0.5), classes=("a", "b", "c"))
    logits, labels = torch.randn(6, 3), torch.tensor([0, 1, 2, 2, 1, 0])
    model = SimpleNamespace(
        config=SimpleNamespace(problem_type="single_label_classification", num_labels=3)
    )
    wanted = torch.nn.functional.cross_entropy(
        logits, labels, weight=torch.tensor([1.0, 2.0, 0.5]), reduction="none"
    )
    torch.testing.assert_close(objective.costs(model, logits, labels), wanted)


# --- what is trained


@pytest.mark.parametrize("kind", ["mlm", "clm"])
def test_the_last_layers_alone_are_trained_and_codes_stay(cohort, tmp_path, kind):
    tokens, labels = cohort
    base = train(tokens, tmp_path / "base", tiny_config(kind, optim=OptimConfig(steps=2)))
    config = config_for(
        "survival",
        model=tiny_config(kind).model,
        trained=TrainedConfig(backbone="last", last=1),
        optim=OptimConfig(steps=2),
    )
    run = train(tokens, tmp_path / "run", config, init=base, labels=labels / "survival")
    before = load_checkpoint(base).model.base_model.state_dict()
    after = load_checkpoint(run).model.base_model.state_dict()
    moved = {name for name in after if not torch.equal(after[name], before[name])}
    layers = {name for name in after if ".1." in name}
    assert layers <= moved
    assert not any(".0." in name or "code" in name or "wte" in name for name in moved)
    frozen = replace(config, trained=TrainedConfig(codes="frozen"))
    arguments = {"init": base, "labels": labels / "survival"}
    full = plan(tokens, replace(config, trained=TrainedConfig()), **arguments)
    kept = plan(tokens, frozen, **arguments)
    embedding = load_checkpoint(base).model.get_input_embeddings().weight
    assert full["trained"] - kept["trained"] == embedding.numel()
    with pytest.raises(UserError, match=r"trained\.last = 3, but the model has 2 layers"):
        plan(tokens, replace(config, trained=TrainedConfig(backbone="last", last=3)), **arguments)


# --- the best checkpoint


@pytest.mark.parametrize(("best", "sign"), [("loss", 1), ("auprc", -1), ("accuracy", -1)])
def test_the_best_checkpoint_is_that_of_the_figure_that_was_asked_for(cohort, tmp_path, best, sign):
    tokens, labels = cohort
    config = config_for(
        "multiclass",
        optim=OptimConfig(lr=3e-2, steps=6),
        validation=ValidationConfig(every=2, best=best),
    )
    run = train(tokens, tmp_path / "run", config, labels=labels / "multiclass")
    scored = {
        r["step"]: r[f"val_{best}"] for r in read_log(run / "metrics.jsonl") if "val_loss" in r
    }
    wanted = min(scored, key=lambda step: (sign * scored[step], step))
    assert said(run)["step"] == wanted


def test_a_figure_that_an_objective_lacks_is_refused_in_one_line():
    for overrides, message in [
        (["validation.best=auroc"], "best = auroc, but objective mlm has loss, accuracy, perplexity"),
        (["objective.kind=classification", "validation.best=c_index"], "classification has loss, auroc"),
        (
            ["objective.kind=sum", "objective.parts=[{objective: {kind: mlm}}, {objective: {kind: plos}}]",
             "validation.best=plos_c_index"],
            "objective sum has loss, mlm_loss, .*plos_auroc",
        ),
    ]:  # fmt: skip
        with pytest.raises(ConfigError, match=message) as error:
            load_config(TrainConfig, overrides=overrides)
        assert "\n" not in str(error.value)
    config = load_config(
        TrainConfig, overrides=["objective.kind=classification", "validation.best=f1"]
    )
    assert config.score == ("f1", "max")
    assert load_config(TrainConfig) == config or to_dict(config)["validation"]["best"] == "f1"


def test_a_model_without_a_head_over_tokens_is_not_pretrained_on(cohort, runs, tmp_path):
    with pytest.raises(UserError, match="without a head over tokens, which objective mlm needs"):
        train(cohort[0], tmp_path / "run", tiny_config(), init=runs["survival"])


def test_rows_of_labels_can_be_learnt_beside_masked_tokens(cohort, tmp_path):
    tokens, labels = cohort
    parts = (Part(objective=MLM()), Part(objective=Classification(pooling="max")))
    config = config_for("multiclass", objective=Sum(parts=parts), optim=OptimConfig(steps=2))
    run = train(tokens, tmp_path / "run", config, labels=labels / "multilabel" / "is_0")
    last = read_log(run / "metrics.jsonl")[-1]
    assert last["val_loss"] == pytest.approx(last["val_mlm_loss"] + last["val_classification_loss"])
    assert {"val_classification_auroc", "val_classification_auprc"} <= last.keys()


# --- labels in a CSV file, with weights and measurements


def test_a_csv_file_brings_labels_weights_and_measurements(cohort, tmp_path):
    """Only the measurement tells the label; its scale is that of the train rows."""
    tokens, _ = cohort
    rng = np.random.default_rng(3)
    subject = np.concatenate([np.arange(90), 1000 + np.arange(36)])
    crp = rng.normal(500, 100, len(subject))
    lines = [
        f"{s},1970-01-10,{'yes' if c > 500 else 'no'},{1 + s % 3},{'' if s == 5 else f'{c:.3f}'}"
        for s, c in zip(subject, crp, strict=True)
    ]
    path = tmp_path / "outcome.csv"
    path.write_text("\n".join(["patient,date,ill,iptw,crp", *lines]) + "\n")
    columns = LabelColumns(
        subject="patient", time="date", value="ill", weight="iptw", measurements=("crp",)
    )
    config = config_for(
        "classification", labels=columns, trained=TrainedConfig(backbone="frozen"),
        optim=OptimConfig(lr=5e-2, steps=40, warmup=0),
    )  # fmt: skip
    run = train(tokens, tmp_path / "run", config, labels=path)
    figures = said(run)
    assert figures["val_auroc"] > 0.95
    checkpoint = load_checkpoint(run)
    known = np.delete(crp[:90], 5)
    model = checkpoint.model.config
    assert model.measurement_names == ["crp"]
    assert model.measurement_mean == pytest.approx([known.mean()], abs=1e-3)
    assert model.measurement_std == pytest.approx([known.std()], abs=1e-3)
    # the loss is the mean over rows of weight times loss, with measurements scaled as in train
    rows = open_split(open_tokens(tokens), "tuning")
    batch = pack(rows, newest(rows, np.arange(36), [11] * 36, 32))
    scaled = (crp[90:] - model.measurement_mean[0]) / model.measurement_std[0]
    batch = replace(
        batch, subject={"measurements": torch.tensor(scaled[:, None], dtype=torch.float32)}
    )
    with torch.no_grad():
        logits = classify(checkpoint.model, batch)[:, 0]
    wanted = torch.nn.functional.binary_cross_entropy_with_logits(
        logits, torch.tensor(crp[90:] > 500).float(), torch.tensor(1.0 + subject[90:] % 3)
    )
    assert figures["val_loss"] == pytest.approx(wanted.item(), rel=1e-4)


def test_a_csv_file_that_does_not_fit_is_refused_before_anything_is_written(cohort, tmp_path):
    path = tmp_path / "l.csv"
    for text, message in [
        ("patient,date,y\n1,then,0\n", r"line 2: date = 'then' is not a date or time"),
        ("patient,date,y\n77777,1970-01-10,0\n", "name 1 subjects that .* the first 77777"),
        ("who,date,y\n", "has no column patient; it has who, date, y"),
    ]:
        path.write_text(text)
        columns = LabelColumns(subject="patient", time="date", value="y")
        config = config_for("classification", labels=columns)
        with pytest.raises(UserError, match=message) as error:
            train(cohort[0], tmp_path / "run", config, labels=path)
        assert "\n" not in str(error.value)
        assert not (tmp_path / "run").exists()
