"""Runs that train an adapter: what they learn, keep, refuse, and go on from."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ehr_models.adapters.config import AdapterConfig
from ehr_models.checkpoint import load_adapter, load_checkpoint
from ehr_models.data.batch import pack
from ehr_models.data.store import open_split
from ehr_models.data.tokens import open_tokens
from ehr_models.data.windows import newest
from ehr_models.heads.pooled import classify
from ehr_tracking.checkpoints import resolve
from ehr_tracking.config import ConfigError, load_config
from ehr_tracking.contracts import ADAPTER, CHECKPOINT, HELD_OUT
from ehr_tracking.errors import UserError
from ehr_tracking.lineage import lineage_lines
from ehr_tracking.manifest import load_manifest, source, verify
from ehr_tracking.runs import read_log
from ehr_train.config import OptimConfig, TrainConfig
from ehr_train.objectives import Classification
from ehr_train.plan import plan
from ehr_train.run import train

from .conftest import tiny_config
from .test_labels import write_labels
from .test_resume import outcome, turn_back


@pytest.fixture(scope="module")
def base(tokens, tmp_path_factory):
    return train(tokens, tmp_path_factory.mktemp("adapters") / "base", tiny_config())


@pytest.fixture(scope="module")
def labels(tokens, tmp_path_factory):
    """Whether the first code is of the lower half."""
    rows = [open_split(open_tokens(tokens), split) for split in ("train", "tuning", HELD_OUT)]
    subjects = [int(s) for r in rows for s in r.subject_id]
    first = [int(r.token[start + 2]) for r in rows for start in r.offsets[:-1]]
    return write_labels(
        tmp_path_factory.mktemp("labels") / "low" / "0.parquet",
        subjects,
        [400] * len(subjects),
        [code < 36 for code in first],
    )


def tuned_config(kind="lora", **changes):
    adapter = AdapterConfig(kind=kind, rank=4, dropout=0.1)
    return tiny_config(
        **{
            "objective": Classification(pooling="bigru"),
            "adapter": adapter,
            "optim": OptimConfig(lr=3e-3, steps=6),
            **changes,
        }
    )


@pytest.fixture(scope="module")
def tuned(tokens, base, labels):
    return train(tokens, base.parent / "tuned", tuned_config(), init=base, labels=labels)


def scores(model, tokens):
    rows = open_split(open_tokens(tokens), "tuning")
    batch = pack(
        rows, newest(rows, range(len(rows.subject_id)), rows.offsets[1:] - rows.offsets[:-1], 32)
    )
    with torch.no_grad():
        return classify(model, batch)


def test_a_run_trains_adapter_and_head_alone_and_keeps_them_alone(tokens, base, labels, tuned):
    assert verify(tuned) == []
    assert len(read_log(tuned / "metrics.jsonl")) == 6
    kept = resolve(tuned)
    manifest = load_manifest(kept)
    assert manifest.contract == ADAPTER.tag
    assert manifest.inputs == {
        "tokens": source(tokens),
        "labels": load_manifest(tuned).inputs["labels"],
        "base": source(resolve(base)),
    }
    assert {f for f in manifest.files if "/" in f} == {
        "training_state/optimizer.safetensors",
        "training_state/state.json",
    }
    loaded = load_adapter(tuned).model
    learnt = [p for p in loaded.parameters() if p.requires_grad]
    count = sum(p.numel() for p in learnt)
    # rank 4 on 4 matrices of 16 x 16 in 2 layers; a GRU of 8 either way; the linear layer
    assert count == 2 * 4 * 4 * 32 + 2 * 3 * 8 * (16 + 8 + 2) + 17
    planned = plan(tokens, tuned_config(), init=base, labels=labels)
    assert planned["trained"] == count
    assert planned["parameters"] == sum(p.numel() for p in loaded.parameters())
    full = tiny_config(objective=Classification(pooling="bigru"))
    assert planned["flops"] < plan(tokens, full, init=base, labels=labels)["flops"]


def test_what_is_kept_answers_as_the_run_did(tokens, tuned):
    merged, unmerged = load_checkpoint(tuned, head="pooled").model, load_adapter(tuned).model
    assert (scores(merged, tokens) - scores(unmerged, tokens)).abs().max() < 1e-5
    best = resolve(tuned)
    step = int(best.name.partition("-")[2])
    logged = next(r for r in read_log(tuned / "metrics.jsonl") if r["step"] == step)
    rows = open_split(open_tokens(tokens), "tuning")
    happened = torch.tensor([float(rows.token[s + 2] < 36) for s in rows.offsets[:-1]])
    loss = torch.nn.functional.binary_cross_entropy_with_logits(
        scores(merged, tokens)[:, 0], happened
    )
    assert loss.item() == pytest.approx(logged["val_loss"], abs=1e-5)


def test_its_lineage_leads_through_the_base(tokens, base, tuned):
    lines = lineage_lines(resolve(tuned), [base.parent])
    (line,) = [line for line in lines if "base: checkpoint/1" in line]
    assert f"{resolve(base)} (verified)" in line
    assert any(
        line.startswith("│") or line.startswith("   ") for line in lines
    )  # and to its tokens


def test_a_run_that_is_resumed_ends_bit_identical(tokens, base, labels, tuned):
    run = Path(shutil.copytree(tuned, base.parent / "resumed"))
    before = outcome(run)
    (run / "manifest.json").unlink()
    turn_back(run)
    train(tokens, run, tuned_config(), init=base, labels=labels, resume=True)
    after = outcome(run)
    assert (after["latest"], after["log"]) == (before["latest"], before["log"])


@pytest.mark.dist
@pytest.mark.slow
def test_two_processes_resume_bit_identical(tokens, base, labels):
    """With weights in 4 bits, which every process has to hold alike."""
    run, config = base.parent / "two", tuned_config("qlora")
    train(tokens, run, config, init=base, labels=labels, nproc=2)
    before = outcome(run)
    (run / "manifest.json").unlink()
    turn_back(run)
    train(tokens, run, config, init=base, labels=labels, nproc=2, resume=True)
    after = outcome(run)
    assert (after["latest"], after["log"]) == (before["latest"], before["log"])


def test_pretraining_goes_on_with_an_adapter_and_from_one(tokens, base, tmp_path):
    optim = OptimConfig(lr=3e-3, steps=2)
    config = tiny_config(adapter=AdapterConfig(rank=2, targets="all"), optim=optim, seed=3)
    run = train(tokens, tmp_path / "on", config, init=base)
    kept = {n: p for n, p in load_adapter(run).model.named_parameters() if p.requires_grad}
    assert kept
    assert all("lora_" in name for name in kept)
    assert all(p.any() for p in kept.values())  # those of lora_B were zero at first
    whole = train(tokens, tmp_path / "whole", tiny_config(optim=OptimConfig(steps=1)), init=run)
    assert load_manifest(resolve(whole)).contract == CHECKPOINT.tag
    assert load_manifest(whole).inputs["init"].contract == ADAPTER.tag
    with pytest.raises(ConfigError, match=r"is an adapter itself: .* ehr-models merge"):
        train(tokens, tmp_path / "again", config, init=run)


def test_what_cannot_be_adapted_is_refused_in_one_line(tokens, base, labels, tuned, tmp_path):
    with pytest.raises(ConfigError, match="adapter needs --init"):
        train(tokens, tmp_path / "run", tiny_config(adapter=AdapterConfig()))
    with pytest.raises(ConfigError, match=r"an adapter says what is trained: leave out"):
        load_config(
            TrainConfig,
            None,
            ["objective.kind=classification", "adapter.rank=4", "trained.backbone=frozen"],
        )
    with pytest.raises(ConfigError, match=r"adapter\.targets: wq is no linear module"):
        config = tuned_config(adapter=AdapterConfig(rank=2, targets=("wq",)))
        train(tokens, tmp_path / "run", config, init=base, labels=labels)
    assert not (tmp_path / "run").exists()
    moved, run = tmp_path / "base", tmp_path / "run"
    shutil.copytree(base, moved)
    config = tuned_config(optim=OptimConfig(lr=3e-3, steps=3))
    train(tokens, run, config, init=moved, labels=labels)
    (run / "manifest.json").unlink()
    shutil.rmtree(resolve(moved))
    with pytest.raises(UserError, match="is gone, and the run holds an adapter of it alone"):
        train(tokens, run, config, init=moved, labels=labels, resume=True)
    with pytest.raises(UserError, match=r"adapter: {'kind': 'lora'.*} -> None"):
        train(tokens, run, replace(config, adapter=None), init=moved, labels=labels, resume=True)
