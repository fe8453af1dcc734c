"""What models and heads go by, against axioms, other ways to the same number, and Shapley values by brute force."""

import itertools
import math
from dataclasses import replace

import lightgbm
import numpy as np
import polars as pl
import pytest
import torch
from click.testing import CliRunner
from scipy import sparse
from scipy.special import logit

from ehr_eval.cli import main
from ehr_eval.explain.asked import next_code
from ehr_eval.explain.config import GradientsConfig
from ehr_eval.explain.gradients import explain_gradients
from ehr_eval.explain.integrate import integrated_gradients
from ehr_eval.features.config import FeaturesConfig
from ehr_eval.features.extract import extract_features
from ehr_eval.features.read import read_features
from ehr_eval.heads.gbm import LightGBMConfig, boosted_trees
from ehr_eval.heads.lr import LogisticRegressionConfig, logistic_regressions
from ehr_eval.heads.select import fit_predict
from ehr_models.checkpoint import load_checkpoint, save_checkpoint
from ehr_models.data.batch import pack
from ehr_models.data.store import open_split
from ehr_models.data.tokens import open_tokens
from ehr_models.data.windows import newest
from ehr_models.heads.config import PooledConfig
from ehr_models.heads.pooled import build_classifier, class_logits, classify
from ehr_models.heads.token import hidden_states, token_logits
from ehr_models.kinds.behrt import BehrtModelConfig
from ehr_models.kinds.chrono import ChronoModelConfig
from ehr_models.kinds.gpt2 import Gpt2ModelConfig
from ehr_models.registry import build
from ehr_models.vocabulary import read_vocabulary
from ehr_tracking.contracts import CHECKPOINT
from ehr_tracking.manifest import load_manifest, new_artifact, source, verify

TINY = {"size": "tiny", "hidden": 32, "layers": 2, "heads": 2}
MODELS = {"gpt2": Gpt2ModelConfig(**TINY), "behrt": BehrtModelConfig(**TINY), "chrono": ChronoModelConfig(**TINY)}  # fmt: skip
SUBJECT = 104


@pytest.fixture(scope="module")
def wire(tmp_path_factory, toys):
    """Tokens, labels, and of each kind a pretrained and a fine-tuned checkpoint, of random weights."""
    root = tmp_path_factory.mktemp("explain")
    records = toys.records(24, seed=3)
    tokens = toys.tokens(root / "tokens", records)
    rows = [(r.subject, toys.day(d), (r.subject + d) % 3 == 0) for r in records for d in (10, 25, 70)]  # fmt: skip
    toys.labels(root / "labels", {"died": rows})
    for kind, config in MODELS.items():
        torch.manual_seed(0)
        model = build(config, toys.vocab)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=0.05)
        pooled = PooledConfig(pooling="mean")
        tuned = build_classifier(model, 1, pooled, problem="binary")
        for name, of in ((kind, model), (f"{kind}-tuned", tuned)):
            with new_artifact(root / name, CHECKPOINT) as partial:
                save_checkpoint(
                    partial, of, tokens, metrics={}, producer="test 0", config={}, seed=0,
                    inputs={"tokens": source(tokens)},
                )  # fmt: skip
    return root


def window_of(tokens, subject):
    split = next(s for n in open_tokens(tokens).splits if subject in (s := open_split(open_tokens(tokens), n)).subject_id)  # fmt: skip
    row = int(np.flatnonzero(split.subject_id == subject)[0])
    n = int(split.offsets[row + 1] - split.offsets[row])
    return split, newest(split, [row], [n], 512)


@pytest.mark.parametrize("kind", MODELS)
def test_attributions_add_up_to_what_the_head_says_beyond_the_baseline(
    wire, tmp_path, kind
) -> None:
    done = explain_gradients(wire / f"{kind}-tuned", wire / "tokens", tmp_path / "why", SUBJECT)
    model = load_checkpoint(wire / f"{kind}-tuned").model
    split, window = window_of(wire / "tokens", SUBJECT)
    with torch.inference_mode():
        says = float(classify(model, pack(split, window))[0, 0])
    assert done.found.output == pytest.approx(says, abs=1e-5)
    beyond = done.found.output - done.found.baseline
    assert abs(beyond) > 1e-4
    assert done.table["attribution"].sum() == pytest.approx(beyond, rel=0.01)
    special = done.table.filter(pl.col("token").str.starts_with("["))
    assert special["attribution"].to_list() == [0.0] * special.height
    assert not verify(tmp_path / "why")


def test_what_a_model_cannot_see_adds_nothing(wire) -> None:
    model = load_checkpoint(wire / "gpt2").model
    split, window = window_of(wire / "tokens", SUBJECT)
    found = integrated_gradients(
        model, split, window, lambda states, batch: states[batch.cu_seqlens[:-1].long() + 4, 0], GradientsConfig()
    )  # fmt: skip
    assert np.abs(found.value[:5]).max() > 1e-3
    assert not found.value[5:].any()


def test_attributions_are_those_of_a_plain_sum_along_the_path(wire) -> None:
    model = load_checkpoint(wire / "gpt2-tuned").model
    split, window = window_of(wire / "tokens", SUBJECT)
    batch = pack(split, window)
    end = model.get_input_embeddings()(batch.input_ids).detach()
    start = torch.where(batch.input_ids[:, None] < 7, end, torch.zeros_like(end))
    total, points = torch.zeros_like(end), 200
    for k in range(points):
        x = (start + (k + 0.5) / points * (end - start)).requires_grad_()
        states = model.base_model(
            inputs_embeds=x[None], position_ids=batch.position_ids[None]
        ).last_hidden_state[0]
        total += torch.autograd.grad(class_logits(model, states, batch)[0, 0], x)[0] / points
    found = integrated_gradients(
        model, split, window, lambda s, b: class_logits(model, s, b)[:, 0], GradientsConfig(baseline="zero")
    )  # fmt: skip
    expected = ((end - start) * total).sum(dim=1).numpy()
    np.testing.assert_allclose(found.value, expected, atol=2e-3 * np.abs(expected).max())


def test_a_linear_head_says_what_it_says_of_the_features(wire, tmp_path) -> None:
    config = FeaturesConfig(precision="fp32")
    features = tmp_path / "f"
    extract_features(wire / "gpt2", wire / "tokens", wire / "labels", features, config)
    found = read_features(features)
    labels = pl.read_parquet(wire / "labels/died/labels.parquet")
    rows = found.index.join(labels, on=["subject_id", "prediction_time"]).sort("row")
    x = found.matrix
    parts = [(x[i := p["row"].to_numpy()], p["boolean_value"].to_numpy()) for s in ("train", "tuning") for p in [rows.filter(split=s)]]  # fmt: skip
    subject, moment, row = (
        rows.filter(split="held_out").select("subject_id", "prediction_time", "row").row(-1)
    )
    del i
    says = fit_predict(LogisticRegressionConfig(), *parts, x[[row]]).probability[0]
    done = explain_gradients(
        wire / "gpt2", wire / "tokens", tmp_path / "why", subject, GradientsConfig(most_steps=2048), at=moment,
        features=features, labels=wire / "labels",
    )  # fmt: skip
    assert done.found.output == pytest.approx(float(logit(says)), rel=1e-3)
    assert done.found.missed < 0.05 * abs(done.found.output - done.found.baseline)


def test_a_code_that_comes_next(wire, tmp_path) -> None:
    done = CliRunner().invoke(main, ["explain", "gradients", "--checkpoint", str(wire / "gpt2"), "--tokens", str(wire / "tokens"), "--subject", str(SUBJECT), "--code", "NONE", "--out", str(tmp_path / "why")])  # fmt: skip
    assert done.exit_code == 2
    assert "no token of the vocabulary is of code NONE" in done.output
    loaded = load_checkpoint(wire / "gpt2")
    words = read_vocabulary(wire / "tokens")
    words = [replace(w, code="LAB") if w.id in (9, 11) else w for w in words]
    target, _ = next_code(loaded, "LAB", words)
    split, window = window_of(wire / "tokens", SUBJECT)
    batch = pack(split, window)
    with torch.inference_mode():
        states = hidden_states(loaded.model, batch)
        told = token_logits(loaded.model, states[-1:]).softmax(-1)[0]
        assert float(target(states, batch)[0].exp()) == pytest.approx(
            float(told[9] + told[11]), rel=1e-4
        )


def shapley(value, d):
    """[d] by definition: the mean over all orders of what each player adds."""
    found = np.zeros(d)
    for j in range(d):
        rest = [i for i in range(d) if i != j]
        for size in range(d):
            weight = math.factorial(size) * math.factorial(d - size - 1) / math.factorial(d)
            for held in itertools.combinations(rest, size):
                found[j] += weight * (value({*held, j}) - value({*held}))
    return found


def walk(node, x, known):
    """What a tree says where only some features are known: else both ways, by their training rows."""
    if "leaf_value" in node:
        return node["leaf_value"]
    left, right = node["left_child"], node["right_child"]
    if node["split_feature"] in known:
        return walk(left if x[node["split_feature"]] <= node["threshold"] else right, x, known)
    n = [child.get("internal_count", child.get("leaf_count")) for child in (left, right)]
    return (n[0] * walk(left, x, known) + n[1] * walk(right, x, known)) / sum(n)


def test_tree_shap_is_shapley_by_brute_force(monkeypatch) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 4)).astype(np.float32)
    y = x[:, 0] * x[:, 1] + x[:, 2] > 0.1
    boosters = []
    train = lightgbm.train
    monkeypatch.setattr(lightgbm, "train", lambda *a, **k: boosters.append(train(*a, **k)) or boosters[-1])  # fmt: skip
    config = LightGBMConfig(max_depth=(3,), learning_rate=(0.3,), num_leaves=(6,), rounds=3)
    (fit,) = boosted_trees(config, x, y)
    trees = [t["tree_structure"] for t in boosters[0].dump_model()["tree_info"]]
    for row in x[:3]:
        expected = shapley(lambda known, row=row: sum(walk(t, row, known) for t in trees), 4)
        found = fit.shap(row[None])[0]
        np.testing.assert_allclose(found[:-1], expected, atol=1e-6)
        assert found.sum() == pytest.approx(float(logit(fit.predict(row[None])[0])), abs=1e-6)


@pytest.mark.parametrize("make", [np.asarray, sparse.csr_matrix])
def test_shap_of_a_regression_is_shapley_by_brute_force_and_adds_up(make) -> None:
    rng = np.random.default_rng(1)
    x = rng.poisson(1.0, size=(80, 5)).astype(np.float32)
    x[:, 4] = 0  # never there: says nothing
    y = x @ [1, -1, 0.5, 0, 0] + rng.normal(size=80) > 0.5
    (fit,) = logistic_regressions(LogisticRegressionConfig(c=(1.0,)), make(x), y)
    found, mean = fit.shap(make(x[:4])), x.mean(axis=0)
    for row, told in zip(x[:4], found, strict=True):

        def value(known, row=row):
            mixed = np.where([i in known for i in range(5)], row, mean)
            return float(logit(fit.predict(mixed[None].astype(np.float64))[0]))

        np.testing.assert_allclose(told[:-1], shapley(value, 5), atol=1e-6)
    np.testing.assert_allclose(found.sum(axis=1), logit(fit.predict(make(x[:4]))), atol=1e-6)


def test_shap_of_counts_names_nobody_unless_asked(tmp_path, toys) -> None:
    labels, features = toys.tasks(tmp_path / "toy")
    index = read_features(features["model"]).index
    held_out = set(index.filter(split="held_out")["subject_id"])
    words = ["explain", "shap", "--labels", labels / "told", "--features", f"model={features['model']}", "-s", "least=4"]  # fmt: skip
    for asked in ((), ("--subject", min(held_out))):
        out = tmp_path / f"out{len(asked)}"
        done = CliRunner().invoke(main, [str(w) for w in (*words, *asked, "--out", out)])
        assert done.exit_code == 0, done.output
        importance = pl.read_parquet(out / "importance.parquet")
        assert (
            importance.group_by("head").agg(pl.col("feature").first())["feature"].to_list()
            == ["column 0"] * 2
        )
        assert importance.filter(feature="column 0")["direction"].min() > 0.5
        single = pl.read_parquet(out / "subjects.parquet")
        assert set(single["subject_id"]) == set(asked[1:])
        assert ("Subject" in (out / "report.html").read_text()) == bool(asked)
        assert load_manifest(out).config["task"] == "told"
    train = min(index.filter(split="train")["subject_id"])
    bad = CliRunner().invoke(
        main, [str(w) for w in (*words, "--subject", train, "--out", tmp_path / "bad")]
    )
    assert bad.exit_code == 2
    assert "has no held-out row" in bad.output
