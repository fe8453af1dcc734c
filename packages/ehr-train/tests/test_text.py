"""`ehr-train text`: language models on narratives."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from click.testing import CliRunner

from ehr_models.kinds import kind_of
from ehr_train.cli import main
from ehr_train.data.sampler import Position
from ehr_train.job import Job, sampler
from ehr_train.model import load_or_build
from ehr_train.objectives.asker import Asker
from ehr_train.objectives.learner import Learner
from ehr_train.text.command import load
from ehr_train.text.run import prepare

from .language import (
    DECODERS,
    ENCODERS,
    byte_pairs,
    texts,
    word_pieces,
    write_model,
    write_narratives,
)

FEW = ("optim.steps=3", "optim.lr=1e-2", "data.context=48", "data.batch_tokens=512",
       "data.micro_tokens=256", "validation.every=2", "checkpoint.every=2", "precision=fp32")  # fmt: skip
KINDS = ("classification", "clm", "label_words")
PACKED = {"Bert", "ModernBert", "Llama", "Mistral", "Qwen2", "Qwen3", "Gemma", "Phi"}


@pytest.fixture(scope="session")
def told():
    return texts()


@pytest.fixture(scope="session")
def narratives(told, tmp_path_factory):
    return write_narratives(tmp_path_factory.mktemp("text") / "narratives", told)


@pytest.fixture(scope="session")
def models(told, tmp_path_factory):
    """Architecture -> its directory, made when asked for."""
    root, tokenizers = tmp_path_factory.mktemp("models"), {}

    def get(name: str) -> Path:
        of = word_pieces if name in ENCODERS else byte_pairs
        if of not in tokenizers:
            tokenizers[of] = of(told)
        return (
            root / name
            if (root / name).is_dir()
            else write_model(root / name, name, tokenizers[of])
        )

    return get


def run(*words: object, code: int = 0) -> str:
    done = CliRunner().invoke(main, ["text", *map(str, words)])
    assert done.exit_code == code, done.output + repr(done.exception)
    return done.output


def settings(*more: str) -> list[str]:
    return [word for item in (*FEW, *more) for word in ("-s", item)]


@pytest.mark.parametrize("name", [*ENCODERS, *DECODERS])
def test_a_step_of_each_workflow_learns_from_what_transformers_makes_of_padded_texts(
    name, narratives, models, tmp_path
):
    for kind in KINDS[: 1 if name in ENCODERS else 3]:
        config = load(None, (*FEW, f"objective.kind={kind}"))
        ready = prepare(
            narratives, tmp_path / "run", config, model=str(models(name)), revision=None, task=None,
            device="cpu",
        )  # fmt: skip
        job = Job(
            tokens=ready.tokens, out=tmp_path, init=ready.init, labels=ready.labels, device="cpu"
        )
        tokens = job.open_tokens()
        examples = job.train_examples(ready.config, tokens)
        objective = ready.config.objective.fitted(examples)
        model = load_or_build(ready.init, ready.config, objective, tokens, None).train()
        assert (kind_of(model.config).isolates == "spans") == (name in PACKED)
        asker = Asker(objective, examples, tokens.vocab_size, 0)
        _, windows = next(sampler(ready.config, examples).steps(Position()))
        question = asker.ask(windows, 0)
        total, count = Learner(model, objective)(question)["loss"]
        expected = padded_loss(model, question, kind)
        assert total.item() / count == pytest.approx(expected.item(), rel=1e-4)
        expected.backward()
        wanted = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
        model.zero_grad()
        (total / count).backward()
        for n, p in model.named_parameters():
            if n in wanted:
                torch.testing.assert_close(p.grad, wanted[n], atol=1e-5, rtol=1e-3)


def padded_loss(model, question, kind):
    """By the forward pass of transformers over padded rows, and its own losses."""
    batch = question.batch
    rows = batch.input_ids.split(batch.cu_seqlens.diff().tolist())
    pad = model.config.pad_token_id
    ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=pad)
    real = torch.nn.utils.rnn.pad_sequence([torch.ones_like(r) for r in rows], batch_first=True)
    if kind == "classification":
        labels = question.targets["labels"].long()
        return model(input_ids=ids, attention_mask=real, labels=labels).loss
    answers = ids.masked_fill(real == 0, -100)
    if kind == "clm":
        return model(input_ids=ids, attention_mask=real, labels=answers).loss
    logits = model(input_ids=ids, attention_mask=real).logits[
        torch.arange(len(rows)), real.sum(1) - 1
    ]
    return F.cross_entropy(logits, question.targets["answers"])
