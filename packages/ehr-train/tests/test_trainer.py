"""Hugging Face's Trainer, fed the same batches, padded."""

from dataclasses import replace
from itertools import islice

import pytest
import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import GPT2LMHeadModel, Trainer, TrainingArguments

from ehr_train.config import DataConfig, OptimConfig
from ehr_train.data.sampler import Position

from .conftest import tiny_config
from .test_step import trainer

STEPS = 8


def padded(step):
    """All windows of a step as rows, each with its next tokens as labels where we ask for them."""
    rows, labels = [], []
    for question in step.passes:
        asked = torch.full_like(question.batch.input_ids, -100)
        asked[question.targets["rows"] + 1] = question.targets["answers"]
        lengths = question.batch.cu_seqlens.diff().tolist()
        rows += question.batch.input_ids.split(lengths)
        labels += asked.split(lengths)
    mask = pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
    return {
        "input_ids": pad_sequence(rows, batch_first=True),
        "attention_mask": mask,
        "labels": pad_sequence(labels, batch_first=True, padding_value=-100),
    }


def test_the_losses_are_those_of_trainer_over_the_same_windows(tokens, tmp_path):
    optim = OptimConfig(
        lr=3e-3, schedule="constant", warmup=0, weight_decay=0, clip=0.5, steps=STEPS
    )
    config = tiny_config("clm", optim=optim)
    config = replace(
        config,
        model=replace(config.model, dropout=0.0),
        data=DataConfig(context=32, batch_tokens=400, micro_tokens=150),
    )
    ours = trainer(tokens, tmp_path / "ours", config)
    steps = list(islice(ours.prepared(Position()), STEPS))
    model = GPT2LMHeadModel(ours.model.config)
    model.load_state_dict(ours.model.state_dict())
    theirs = Trainer(
        model,
        TrainingArguments(
            output_dir=str(tmp_path / "theirs"), max_steps=STEPS, per_device_train_batch_size=1,
            train_sampling_strategy="sequential", use_cpu=True, optim="adamw_torch_fused",
            learning_rate=3e-3, lr_scheduler_type="constant", weight_decay=0.0, max_grad_norm=0.5,
            adam_beta1=0.9, adam_beta2=0.98, adam_epsilon=1e-8,
            logging_steps=1, report_to=[], save_strategy="no", disable_tqdm=True, dataloader_pin_memory=False,
        ),
        data_collator=lambda rows: rows[0],
        train_dataset=[padded(step) for step in steps],
    )  # fmt: skip
    theirs.train()
    log = [line for line in theirs.state.log_history if "loss" in line]
    figures = [ours.step(step).figures for step in steps]
    assert len(log) == STEPS
    assert [f[0].item() for f in figures] == pytest.approx([r["loss"] for r in log], abs=1e-4)
    assert [f[1].item() for f in figures] == pytest.approx([r["grad_norm"] for r in log], rel=1e-3)
    for name, p in model.named_parameters():
        torch.testing.assert_close(ours.model.get_parameter(name), p, atol=1e-4, rtol=0)
