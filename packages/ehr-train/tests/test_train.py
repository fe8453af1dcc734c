import json
import shutil
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml

from ehr_models.checkpoint import load_checkpoint
from ehr_models.data.batch import pack
from ehr_models.data.store import open_split
from ehr_models.data.tokens import open_tokens
from ehr_models.data.windows import newest
from ehr_models.heads.config import PooledConfig
from ehr_models.heads.pooled import build_classifier, classify
from ehr_models.kinds.bert import BertModelConfig
from ehr_models.kinds.llama import LlamaModelConfig
from ehr_tracking.checkpoints import resolve
from ehr_tracking.config import load_config
from ehr_tracking.contracts import BOS_ID, SPECIALS
from ehr_tracking.errors import UserError
from ehr_tracking.manifest import load_manifest, sha256, verify
from ehr_tracking.outputs import held
from ehr_tracking.runs import read_log
from ehr_train.config import (
    CheckpointConfig,
    DataConfig,
    OptimConfig,
    TrainConfig,
    TrainedConfig,
    ValidationConfig,
)
from ehr_train.objectives import CLM, Classification
from ehr_train.plan import plan
from ehr_train.run import train

from .conftest import CODES, TINY, tiny_config, write_tokens


def log(run):
    return read_log(run / "metrics.jsonl")


def weights(run):
    return sha256(resolve(run) / "model.safetensors")


def regular(first, n):
    """Subjects whose visit number v has the code v: visit, age and the code before tell it."""
    return [
        {
            "subject_id": first + i,
            "token": [BOS_ID, *(len(SPECIALS) + v for v in range(i % 40, i % 40 + 12))],
            "time": [None, *(30 * v for v in range(i % 40, i % 40 + 12))],
        }
        for i in range(n)
    ]


@pytest.mark.parametrize("kind", ["mlm", "clm"])
def test_a_run_learns_and_leaves_a_whole_artifact(tmp_path, kind):
    tokens = write_tokens(tmp_path / "t", {"train": regular(0, 120), "tuning": regular(500, 40)})
    optim = OptimConfig(lr=2e-2, steps=60)
    config = tiny_config(kind, optim=optim, validation=ValidationConfig(every=20))
    before = torch.random.get_rng_state()
    run = train(tokens, tmp_path / "run", config)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert verify(run) == []
    records = log(run)
    assert [r["step"] for r in records] == list(range(1, 61))
    # who only counts codes stays above log 40 = 3.7
    assert records[0]["loss"] == pytest.approx(np.log(CODES + len(SPECIALS)), abs=0.3)
    assert records[-1]["val_loss"] < 2.0
    assert [r["step"] for r in records if "val_loss" in r] == [20, 40, 60]
    assert set(load_manifest(run).inputs) == {"tokens"}
    for name in ("SUMMARY.txt", "report.html", "environment.json", "plots/loss.png"):
        assert (run / name).stat().st_size > 100
    assert load_config(TrainConfig, run / "config.yaml") == config
    checkpoint = load_checkpoint(run, head="token")
    assert checkpoint.manifest.inputs.keys() == {"tokens"}


def test_the_same_run_twice_gives_the_same_bits_and_another_seed_others(tokens, tmp_path):
    runs = [
        train(tokens, tmp_path / name, tiny_config(seed=seed, model=model))
        for name, seed, model in [
            ("a", 0, replace(tiny_config().model, dropout=0.1)),
            ("b", 0, replace(tiny_config().model, dropout=0.1)),
            ("c", 1, replace(tiny_config().model, dropout=0.1)),
        ]
    ]
    a, b, c = ((r / "metrics.jsonl").read_bytes() for r in runs)
    assert a == b != c
    assert sha256(resolve(runs[0]) / "manifest.json") == sha256(resolve(runs[1]) / "manifest.json")
    assert weights(runs[0]) != weights(runs[2])


def test_many_small_passes_equal_one_large_one(tokens, tmp_path):
    runs = [
        train(
            tokens,
            tmp_path / str(micro),
            tiny_config(data=DataConfig(context=32, batch_tokens=400, micro_tokens=micro)),
        )
        for micro in (32, 400)
    ]
    small, large = ([r["loss"] for r in log(run)] for run in runs)
    assert small == pytest.approx(large, abs=1e-5)
    assert len({*small}) == 12


@pytest.mark.parametrize(
    ("model", "kind"), [(BertModelConfig(**TINY), "mlm"), (LlamaModelConfig(**TINY), "clm")]
)
def test_other_architectures_train_as_well(tokens, tmp_path, model, kind):
    optim = OptimConfig(lr=1e-2, steps=30)
    run = train(tokens, tmp_path / "run", tiny_config(kind, model=model, optim=optim))
    losses = [r["loss"] for r in log(run)]
    assert np.mean(losses[-5:]) < np.mean(losses[:5]) - 0.05


def test_bf16_computes_otherwise_but_learns_the_same(tokens, tmp_path):
    full = train(tokens, tmp_path / "full", tiny_config())
    half = train(tokens, tmp_path / "half", tiny_config(precision="bf16"))
    assert weights(full) != weights(half)
    assert [r["loss"] for r in log(half)] == pytest.approx([r["loss"] for r in log(full)], abs=0.02)
    tensors = load_checkpoint(half).model.state_dict()
    assert {t.dtype for t in tensors.values()} == {torch.float32}


def test_early_stopping_ends_a_run_that_gets_no_better(tokens, tmp_path):
    config = tiny_config(
        optim=OptimConfig(lr=1e-12, steps=500),
        validation=ValidationConfig(every=2, patience=3),
    )
    run = train(tokens, tmp_path / "run", config)
    validated = [r["val_loss"] for r in log(run) if "val_loss" in r]
    assert log(run)[-1]["step"] < 500
    best = int(np.argmin(validated))
    assert len(validated) == best + 1 + 3


def test_a_loss_that_is_no_number_ends_the_run_and_names_the_step(tokens, tmp_path):
    config = tiny_config(optim=OptimConfig(lr=1e30, steps=50, warmup=0))
    with pytest.raises(UserError, match=r"^step \d+: the loss is nan.*lower optim\.lr"):
        train(tokens, tmp_path / "run", config)
    assert not (tmp_path / "run" / "manifest.json").exists()


def test_without_a_tuning_split_there_is_no_validation(tmp_path):
    subjects = [{"subject_id": 1, "token": [BOS_ID, *range(7, 40)], "time": [None, *range(33)]}]
    lonely = write_tokens(tmp_path / "t", {"train": subjects})
    run = train(lonely, tmp_path / "run", tiny_config())
    assert not any("val_loss" in r for r in log(run))
    assert "no tuning subjects" in (run / "SUMMARY.txt").read_text()
    with pytest.raises(UserError, match="patience needs a tuning split"):
        train(lonely, tmp_path / "b", tiny_config(validation=ValidationConfig(patience=1)))


# --- fine-tuning


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    """Positive where code 20 came up to the prediction time; it comes for many only later."""
    root = tmp_path_factory.mktemp("task")
    rng = np.random.default_rng(0)
    splits, rows = {}, []
    for split, n, first in (("train", 80, 0), ("tuning", 40, 1000)):
        splits[split] = []
        for i in range(n):
            code = rng.integers(21, 60, 20)
            where = int(rng.integers(0, 20)) if i % 4 else 25
            if where < 20:
                code[where] = 20
            splits[split].append(
                {
                    "subject_id": first + i,
                    "token": [BOS_ID, *code.tolist()],
                    "time": [None, *range(20)],
                }
            )
            rows.append((first + i, 9 * 86_400_000_000, where <= 9))
    tokens = write_tokens(root / "t", splits)
    labels = root / "labels" / "toy"
    labels.mkdir(parents=True)
    subject, time, value = zip(*rows, strict=True)
    table = {
        "subject_id": pa.array(subject, pa.int64()),
        "prediction_time": pa.array(time, pa.timestamp("us")),
        "boolean_value": pa.array(value),
        "integer_value": pa.nulls(len(rows), pa.int64()),
    }
    pq.write_table(pa.table(table), labels / "0.parquet")
    return tokens, labels


def finetune_config(**changes) -> TrainConfig:
    objective = {"pooling": "max"} | changes.pop("objective", {})
    return tiny_config(
        objective=Classification(**objective),
        optim=OptimConfig(lr=1e-2, steps=80),
        data=DataConfig(context=32, batch_tokens=512, micro_tokens=512),
        validation=ValidationConfig(every=20),
        **changes,
    )


def test_fine_tuning_learns_what_was_visible(task, tmp_path):
    tokens, labels = task
    base = train(tokens, tmp_path / "base", tiny_config())
    config = finetune_config(objective={"pos_weight": "balanced"})
    run = train(tokens, tmp_path / "ft", config, init=base, labels=labels)
    best = max(r["val_auroc"] for r in log(run) if "val_auroc" in r)
    assert best > 0.95
    manifest = load_manifest(run)
    assert manifest.inputs.keys() == {"tokens", "init", "labels"}
    checkpoint = load_checkpoint(run, head="pooled")
    metrics = json.loads((checkpoint.directory / "metrics.json").read_text())
    assert metrics["val_auroc"] == best
    # the logged figure is that of the saved model, on exactly the visible prefix
    rows = open_split(open_tokens(tokens), "tuning")
    windows = newest(rows, np.arange(len(rows)), [11] * len(rows), 32)
    with torch.no_grad():
        logits = classify(checkpoint.model, pack(rows, windows))[:, 0]
    truth = np.array([20 in rows.token[a : a + 11] for a in rows.offsets[:-1]])
    pairs = logits[truth][:, None] - logits[~truth][None]
    assert ((pairs > 0) + (pairs == 0) / 2).mean().item() == pytest.approx(best)


def test_a_frozen_backbone_stays_as_it_was(task, tmp_path):
    tokens, labels = task
    base = train(tokens, tmp_path / "base", tiny_config())
    config = finetune_config(trained=TrainedConfig(backbone="frozen"))
    run = train(tokens, tmp_path / "ft", config, init=base, labels=labels)
    before = load_checkpoint(base).model.base_model.state_dict()
    after = load_checkpoint(run).model
    for name, value in after.base_model.state_dict().items():
        assert torch.equal(value, before[name]), name
    head = build_classifier(
        load_checkpoint(base).model, 1, PooledConfig(pooling="max"), problem="binary"
    )
    assert not torch.equal(after.classifier.weight, head.classifier.weight)
    figures = plan(tokens, config, init=base, labels=labels)
    assert figures["trained"] == TINY["hidden"] + 1


def test_pretraining_goes_on_from_a_checkpoint(tokens, tmp_path):
    base = train(tokens, tmp_path / "base", tiny_config(optim=OptimConfig(lr=1e-2, steps=40)))
    run = train(tokens, tmp_path / "more", tiny_config(), init=base)
    assert log(run)[0]["loss"] < log(base)[0]["loss"] - 0.1
    with pytest.raises(
        UserError, match="kind behrt cannot be pretrained with objective clm: it sees all"
    ):
        train(tokens, tmp_path / "x", tiny_config("clm"), init=base)
    assert not (tmp_path / "x").exists()


# --- refusals: one line each, nothing half-written


def test_bad_input_is_refused_and_leaves_nothing(tokens, task, tmp_path):
    other_tokens, labels = task
    base = train(other_tokens, tmp_path / "base", tiny_config())
    empty = write_tokens(tmp_path / "empty", {"train": [], "tuning": []})
    held = write_tokens(tmp_path / "held", {"held_out": []})
    long = tiny_config("clm", data=DataConfig(context=2000))
    cases = [
        ("no such directory", {"tokens": tmp_path / "none"}),
        ("has no one of the train split", {"tokens": empty}),
        ("has no split train; it has held_out", {"tokens": held}),
        ("another vocabulary", {"tokens": write_tokens(tmp_path / "v", other(3), 4), "init": base}),
        ("needs --labels", {"config": finetune_config()}),
        ("--labels are for objective.kind = classification, .*, not mlm", {"labels": labels}),
        ("none: no such directory", {"config": finetune_config(), "labels": tmp_path / "none"}),
        ("subjects that .* does not have", {"config": finetune_config(), "labels": labels}),
        ("cannot be pretrained with objective clm", {"config": tiny_config(objective=CLM())}),
        ("data.context = 2000, but the model takes 1024 positions", {"config": long}),
        ("has no manifest.json", {"init": tmp_path / "base" / "plots"}),
    ]
    for message, changes in cases:
        arguments = {"tokens": tokens, "config": tiny_config()} | changes
        with pytest.raises(UserError, match=message) as e:
            train(out=tmp_path / "run", **arguments)
        assert "\n" not in str(e.value)
        assert not (tmp_path / "run").exists(), message


def other(n):
    return {
        "train": [
            {"subject_id": i, "token": [BOS_ID, 7, 8, 9], "time": [None, 1, 2, 3]} for i in range(n)
        ]
    }


def test_an_existing_run_is_kept_unless_overwriting_succeeds(tokens, tmp_path):
    run = train(tokens, tmp_path / "run", tiny_config())
    before = sha256(run / "manifest.json")
    with pytest.raises(UserError, match="pass --overwrite"):
        train(tokens, run, tiny_config())
    with pytest.raises(UserError, match="cannot be pretrained"):
        train(tokens, run, tiny_config(objective=CLM()), overwrite=True)
    assert sha256(run / "manifest.json") == before
    train(tokens, run, tiny_config(seed=9), overwrite=True)
    assert load_manifest(run).seed == 9
    assert verify(run) == []
    assert sorted(p.name for p in tmp_path.iterdir()) == ["run"]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    with pytest.raises(UserError, match="not an artifact of ours"):
        train(tokens, tmp_path / "mine", tiny_config(), overwrite=True)


def test_one_process_at_a_time_writes_a_run(tokens, tmp_path):
    run = tmp_path / "run"
    with held(run):
        for how in ({}, {"overwrite": True}, {"resume": True}):
            with pytest.raises(UserError, match=r"another run is writing .*run; wait for it"):
                train(tokens, run, tiny_config(), **how)
    assert not run.exists()


def test_a_run_replaces_neither_what_it_reads_nor_what_is_no_run(tokens, tmp_path):
    base = train(tokens, tmp_path / "base", tiny_config())
    for init in (base, base / "checkpoints" / "step-00000012"):
        with pytest.raises(UserError, match=r"is an input of this very|holds the input"):
            train(tokens, base, tiny_config(), init=init, overwrite=True)
    copy = tmp_path / "tokens"
    shutil.copytree(tokens, copy)
    with pytest.raises(UserError, match="tokens is an input of this very command"):
        train(copy, copy, tiny_config(), overwrite=True)
    with pytest.raises(UserError, match=r"holds tokens/1 .*, which run shall not replace"):
        train(tokens, copy, tiny_config(), overwrite=True)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "config.yaml").write_text("years: of work")
    with pytest.raises(UserError, match="not an artifact of ours"):
        train(tokens, tmp_path / "mine", tiny_config(), overwrite=True)


def test_a_plan_says_what_the_run_then_does(tokens, tmp_path):
    config = tiny_config(optim=OptimConfig(epochs=3))
    figures = plan(tokens, config)
    run = train(tokens, tmp_path / "run", config)
    records = log(run)
    assert figures["steps"] == len(records)
    assert figures["examples"] == 60
    per_epoch = figures["steps_per_epoch"]
    assert figures["tokens_per_step"] == round(records[per_epoch - 1]["tokens"] / per_epoch)
    model = load_checkpoint(run).model
    assert figures["parameters"] == sum(p.numel() for p in model.parameters())


def test_the_defaults_and_every_given_key_survive_the_yaml(tmp_path):
    config = TrainConfig(checkpoint=CheckpointConfig(keep=5))
    (tmp_path / "c.yaml").write_text(yaml.safe_dump({"checkpoint": {"keep": 5}}))
    assert load_config(TrainConfig, tmp_path / "c.yaml") == config
    with pytest.raises(UserError, match=r"unknown key optim\.learning_rate"):
        load_config(TrainConfig, overrides=["optim.learning_rate=1"])
    with pytest.raises(UserError, match="give steps or epochs"):
        load_config(TrainConfig, overrides=["optim.steps=1", "optim.epochs=1"])
    with pytest.raises(UserError, match="must hold one window"):
        load_config(TrainConfig, overrides=["data.micro_tokens=100"])
    with pytest.raises(UserError, match="must not exceed 1"):
        load_config(TrainConfig, overrides=["objective.kind=mlm", "objective.random=0.3"])
