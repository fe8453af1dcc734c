"""What fine-tuned models say of labelled rows, from their checkpoint to the judge's own readers."""

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest
import torch
from click.testing import CliRunner
from meds_evaluation.schema import PredictionSchema
from sklearn.metrics import f1_score

from ehr_eval.cli import main
from ehr_eval.features.config import FeaturesConfig
from ehr_eval.predict import predict
from ehr_eval.predictions import read_predictions
from ehr_eval.survival.risks import read_risks
from ehr_eval.tasks.label_tasks import read_labels
from ehr_models.checkpoint import load_checkpoint, save_checkpoint
from ehr_models.data.batch import pack
from ehr_models.data.cutoff import visible_tokens
from ehr_models.data.store import open_split
from ehr_models.data.tokens import open_tokens
from ehr_models.data.windows import newest
from ehr_models.heads.config import PooledConfig
from ehr_models.heads.pooled import build_classifier, classify
from ehr_models.kinds.gpt2 import Gpt2ModelConfig
from ehr_models.registry import build
from ehr_tracking.contracts import CHECKPOINT, CLASSES, NUMBERS, PREDICTIONS, RISKS
from ehr_tracking.manifest import load_manifest, new_artifact, source, verify

EDGES = (0.0, 10.0, 30.0, 90.0)
HEADS = {
    "binary": (1, {}),
    "survival": (3, {}),
    "multilabel": (2, {"id2label": {0: "other", 1: "died"}}),
    "multiclass": (3, {"id2label": {0: "i", 1: "ii", 2: "iii"}}),
    "regression": (1, {"regression_mean": 50.0, "regression_std": 8.0}),
    "measured": (
        1,
        {
            "measurement_names": ["sodium", "hba1c"],
            "measurement_mean": [140.0, 6.0],
            "measurement_std": [5.0, 0.5],
        },
    ),
    "unnamed": (1, {}),
}
"""Name of a checkpoint -> outputs of its head, what its configuration says besides."""
KEY = ["subject_id", "prediction_time"]
EXACT = FeaturesConfig(precision="fp32")


@pytest.fixture(scope="module")
def wire(tmp_path_factory, toys):
    """Tokens, labels of one task, and a checkpoint of each head; `token` has been pretrained alone."""
    root = tmp_path_factory.mktemp("predict")
    records = toys.records(24)
    tokens = toys.tokens(root / "tokens", records)
    rows = [
        (r.subject, toys.day(d), (r.subject + d) % 3 == 0) for r in records for d in (10, 25, 70)
    ]
    others = [(s, t, not v) for s, t, v in rows[:-3]]  # not of the last subject
    toys.labels(root / "labels", {"died": rows, "other": others})
    for task, column, value in (
        ("stage", "categorical_value", lambda s: ("i", "ii", "iii")[s % 3]),
        ("weight", "float_value", lambda s: 50.0 + s % 7),
    ):
        (root / task).mkdir()
        key = pq.read_table(root / "labels" / "died" / "labels.parquet").select(KEY)
        values = [value(s) for s in key["subject_id"].to_pylist()]
        pq.write_table(key.append_column(column, [values]), root / task / "labels.parquet")
    torch.manual_seed(0)
    backbone = build(Gpt2ModelConfig(size="tiny", hidden=32, layers=1, heads=2), toys.vocab)
    models = {"token": backbone}
    for name, (outputs, more) in HEADS.items():
        problem = {"measured": "binary", "unnamed": "binary"}.get(name, name)
        models[name] = build_classifier(
            backbone,
            outputs,
            PooledConfig(measurements=2 if problem != name else 0),
            problem=problem,
            survival_edges=EDGES if problem == "survival" else None,
        )
        for key, value in more.items():
            setattr(models[name].config, key, value)
    with torch.no_grad():  # what is measured moves the answer by much
        models["measured"].classifier.weight[:, -2:] = torch.tensor([[1.0, -2.0]])
    for name, model in models.items():
        with new_artifact(root / name, CHECKPOINT) as partial:
            save_checkpoint(
                partial,
                model,
                tokens,
                metrics={"loss": 1.0},
                producer="test 0",
                config={},
                seed=0,
                inputs={"tokens": source(tokens)},
            )
    return root


def logits(wire, head, split):
    """One plain forward a row: the key and [n, C]."""
    model = load_checkpoint(wire / head).model
    tokens = open_split(open_tokens(wire / "tokens"), split)
    labels = read_labels(wire / "labels" / "died")["died"]
    labels = labels.filter(pl.col("subject_id").is_in(tokens.subject_id.tolist()))
    row = np.searchsorted(tokens.subject_id, labels["subject_id"].to_numpy())
    visible = visible_tokens(tokens, row, labels["prediction_time"].dt.epoch("us").to_numpy())
    context = model.config.max_position_embeddings
    found = []
    with torch.inference_mode():
        for each, seen in zip(row, visible, strict=True):
            batch = pack(tokens, newest(tokens, [each], [seen], context))
            found.append(classify(model, batch)[0].numpy())
    return labels, np.array(found, np.float64)


def test_a_binary_head_gives_predictions_at_the_threshold_of_tuning(wire, tmp_path):
    done = predict(
        wire / "binary", wire / "tokens", wire / "labels" / "died", tmp_path / "p", EXACT
    )
    assert verify(tmp_path / "p") == []
    assert load_manifest(tmp_path / "p").contract == PREDICTIONS.tag
    (path,) = (tmp_path / "p" / "died").glob("*.parquet")
    PredictionSchema.validate(pq.read_table(path))
    labels, z = logits(wire, "binary", "held_out")
    found = read_predictions(tmp_path / "p", {"died": labels})["died"]
    (predicted,) = found.values()
    p = 1 / (1 + np.exp(-z[:, 0]))
    np.testing.assert_allclose(predicted.probability, p, atol=1e-6)
    tuned, zt = logits(wire, "binary", "tuning")
    pt, yt = 1 / (1 + np.exp(-zt[:, 0])), tuned["boolean_value"].to_numpy()
    beside = pl.read_parquet(tmp_path / "p" / "tuning" / "died" / "tuning.parquet")
    assert beside.select("subject_id", "boolean_value").equals(
        tuned.select("subject_id", "boolean_value")
    )
    np.testing.assert_allclose(beside["predicted_boolean_probability"], pt, atol=1e-6)
    best = max(f1_score(yt, pt >= t - 1e-7) for t in pt)
    assert f1_score(yt, pt >= done.thresholds["died"] - 1e-7) == pytest.approx(best)
    np.testing.assert_array_equal(
        predicted.decided, predicted.probability >= done.thresholds["died"] - 1e-7
    )


def test_a_survival_head_gives_the_risk_by_the_end_of_each_interval(wire, tmp_path):
    out = tmp_path / "p"
    predict(wire / "survival", wire / "tokens", wire / "labels" / "died", out, EXACT)
    assert verify(out) == []
    assert load_manifest(out).contract == RISKS.tag
    schema = pq.read_schema(next(out.rglob("*.parquet")))
    RISKS.check({f.name: str(f.type) for f in schema}, where="risks")
    labels, z = logits(wire, "survival", "held_out")
    found = read_risks(out, "died", labels)
    left = np.cumprod(1 - 1 / (1 + np.exp(-z)), axis=1)
    np.testing.assert_allclose(found.risk, 1 - left, atol=1e-6)
    assert found.days.tolist() == list(EDGES[1:])


def test_each_label_of_a_multi_label_head_is_a_task_that_ehrshots_reader_takes(wire, tmp_path):
    done = predict(wire / "multilabel", wire / "tokens", wire / "labels", tmp_path / "p", EXACT)
    assert load_manifest(tmp_path / "p").contract == PREDICTIONS.tag
    labels, z = logits(wire, "multilabel", "held_out")
    told = read_labels(wire / "labels")
    held_out = {
        task: told[task].join(labels.select(KEY), on=KEY, how="semi", maintain_order="left")
        for task in told
    }
    assert done.rows == {"other": 15, "died": 18} == {t: held_out[t].height for t in done.rows}
    found = read_predictions(tmp_path / "p", held_out)
    for i, task in enumerate(("other", "died")):
        (predicted,) = found[task].values()
        p = 1 / (1 + np.exp(-z[: held_out[task].height, i]))
        np.testing.assert_allclose(predicted.probability, p, atol=1e-6)
        called = predicted.probability >= done.thresholds[task] - 1e-7
        np.testing.assert_array_equal(predicted.decided, called)


def test_classes_come_with_probabilities_and_numbers_in_their_unit(wire, tmp_path):
    for head, task, contract in (
        ("multiclass", "stage", CLASSES),
        ("regression", "weight", NUMBERS),
    ):
        predict(wire / head, wire / "tokens", wire / task, tmp_path / head, EXACT)
        assert verify(tmp_path / head) == []
        schema = pq.read_schema(tmp_path / head / task / "held_out.parquet")
        assert load_manifest(tmp_path / head).contract == contract.tag
        contract.check({f.name: str(f.type) for f in schema}, where=head)
    _, z = logits(wire, "multiclass", "held_out")
    found = pl.read_parquet(tmp_path / "multiclass/stage/held_out.parquet")
    assert found["class"].to_list() == ["i", "ii", "iii"] * len(z)
    p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    np.testing.assert_allclose(found["predicted_probability"], p.reshape(-1), atol=1e-6)
    _, z = logits(wire, "regression", "held_out")
    found = pl.read_parquet(tmp_path / "regression/weight/held_out.parquet")
    np.testing.assert_allclose(found["predicted_value"], 50 + 8 * z[:, 0], atol=1e-5)


def test_measurements_of_a_csv_file_are_scaled_and_those_missing_are_the_mean(wire, toys, tmp_path):
    """Rows that see the same tokens, but were measured differently, are told apart."""
    path, subject = tmp_path / "died.csv", 103
    path.write_text(
        "patient,at,died,hba1c,sodium\n"
        f"{subject},{toys.day(200)},0,7.5,150\n{subject},{toys.day(201)},1,,135\n"
        f"{subject},{toys.day(202)},1,6,140\n"
    )
    args = ["--checkpoint", wire / "measured", "--tokens", wire / "tokens", "--labels", path]
    named = ["labels.subject=patient", "labels.time=at", "labels.value=died", "precision=fp32"]
    settings = [x for setting in named for x in ("-s", setting)]
    out = tmp_path / "p"
    done = CliRunner().invoke(main, ["predict", *map(str, args), "--out", str(out), *settings])
    assert done.exit_code == 0, done.output
    p = pl.read_parquet(out / "died/held_out.parquet")["predicted_boolean_probability"].to_numpy()
    z = np.log(p / (1 - p))
    # (150 - 140) / 5 - 2 (7.5 - 6) / 0.5; (135 - 140) / 5; 0
    np.testing.assert_allclose(z - z[2], [2.0 - 6.0, -1.0, 0.0], atol=1e-4)
    path.write_text(path.read_text().replace("hba1c", "glucose"))
    again = ["predict", *map(str, args), "--out", str(tmp_path / "q"), *settings]
    done = CliRunner().invoke(main, again)
    assert done.exit_code == 2
    assert "has no column hba1c; it has patient" in done.output


def test_what_is_recorded_after_a_prediction_time_moves_no_prediction(wire, toys, tmp_path):
    labels = read_labels(wire / "labels" / "died")["died"].filter(
        pl.col("prediction_time") == toys.day(10)
    )
    cut = [
        toys.Record(r.subject, [(d, t) for d, t in r.events if d <= 10], r.split)
        for r in toys.records(24)
    ]
    toys.tokens(tmp_path / "cut", cut)
    (tmp_path / "early").mkdir()
    pq.write_table(labels.to_arrow(), tmp_path / "early" / "labels.parquet")
    found = []
    for name, tokens in (("whole", wire / "tokens"), ("less", tmp_path / "cut")):
        predict(wire / "binary", tokens, tmp_path / "early", tmp_path / name, EXACT)
        found.append(pl.read_parquet(tmp_path / name / "early" / "held_out.parquet"))
    assert found[0].equals(found[1])


@pytest.mark.parametrize(
    ("head", "labels", "message"),
    [
        ("token", "labels/died", "has a token head, of which nothing says what its outputs mean"),
        ("multiclass", "labels/died", "task died has class 0, but the head tells apart i, ii"),
        ("regression", "stage", "task stage has categorical_value; numbers are in float_value"),
        ("binary", "labels", "holds labels of 2 tasks"),
        ("multilabel", "labels/died", "has no labels of other, which the head of"),
        ("measured", "labels/died", "has no measurement sodium, hba1c, which the head of"),
        ("unnamed", "labels/died", "reads 2 measurements, but its configuration names 0"),
    ],
)
def test_what_cannot_be_predicted_is_one_line(head, labels, message, wire, tmp_path):
    args = ["--checkpoint", wire / head, "--tokens", wire / "tokens", "--labels", wire / labels]
    done = CliRunner().invoke(main, ["predict", *map(str, args), "--out", str(tmp_path / "p")])
    assert done.exit_code == 2
    assert message in done.output
    assert len(done.output.strip().splitlines()) == 1
    assert not (tmp_path / "p").exists()


def test_without_tuning_rows_nothing_is_called_positive_or_negative(wire, toys, tmp_path):
    toys.labels(tmp_path / "l", {"died": [(103, toys.day(10), True)]})
    done = predict(wire / "binary", wire / "tokens", tmp_path / "l" / "died", tmp_path / "p", EXACT)
    assert (done.rows, done.thresholds) == ({"died": 1}, {"died": None})
    assert (
        pl.read_parquet(tmp_path / "p/died/held_out.parquet")[
            "predicted_boolean_value"
        ].null_count()
        == 1
    )
