"""`ehr-train text`: language models on narratives."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pyarrow.parquet as pq
import pytest
import torch
import torch.nn.functional as F
from click.testing import CliRunner
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoTokenizer,
    PreTrainedTokenizerFast,
)

from ehr_models.checkpoint import load_adapter, load_checkpoint, save_checkpoint
from ehr_models.data.store import open_split
from ehr_models.data.tokens import open_tokens
from ehr_models.kinds import kind_of
from ehr_models.merge import merge_adapter
from ehr_tracking.checkpoints import CheckpointStore, resolve
from ehr_tracking.errors import UserError
from ehr_tracking.manifest import sha256
from ehr_train.cli import main
from ehr_train.config import TextConfig
from ehr_train.data.sampler import Position
from ehr_train.job import Job, sampler
from ehr_train.model import load_or_build
from ehr_train.objectives.asker import Asker
from ehr_train.objectives.label_words import PROMPT
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
KINDS = {"encoder": ("classification", "mlm"), "decoder": ("classification", "clm", "label_words")}
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
    for kind in KINDS["encoder" if name in ENCODERS else "decoder"]:
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
    if kind == "mlm":
        answers = torch.full((len(batch.input_ids),), -100)
        answers[question.targets["rows"]] = question.targets["answers"]
        laid = answers.split(batch.cu_seqlens.diff().tolist())
        labels = torch.nn.utils.rnn.pad_sequence(laid, batch_first=True, padding_value=-100)
        return model(input_ids=ids, attention_mask=real, labels=labels).loss
    answers = ids.masked_fill(real == 0, -100)
    if kind == "clm":
        return model(input_ids=ids, attention_mask=real, labels=answers).loss
    logits = model(input_ids=ids, attention_mask=real).logits[
        torch.arange(len(rows)), real.sum(1) - 1
    ]
    return F.cross_entropy(logits, question.targets["answers"])


def test_only_the_last_piece_of_a_record_ends_it(told, models, tmp_path):
    corpus = write_narratives(tmp_path / "corpus", told, labels=False)
    config = load(None, (*FEW, "objective.kind=clm"))
    where = {"model": str(models("Llama")), "revision": None, "task": None, "device": "cpu"}
    tokens = open_split(
        open_tokens(prepare(corpus, tmp_path / "run", config, **where).tokens, texts=True), "train"
    )
    ends = tokens.token[tokens.offsets[1:] - 1] == 1
    assert ends.tolist() == [False, True] * (len(tokens) // 2)
    assert (tokens.token == 1).sum() == ends.sum()


def test_a_model_is_kept_in_its_own_type_and_trained_in_fp32(narratives, models, tmp_path):
    half = AutoModelForCausalLM.from_pretrained(models("Llama"), dtype=torch.bfloat16)
    half.save_pretrained(shutil.copytree(models("Llama"), tmp_path / "half"))
    config = load(None, (*FEW, "objective.kind=label_words"))
    where = {"model": str(tmp_path / "half"), "revision": None, "task": None, "device": "cpu"}
    kept = prepare(narratives, tmp_path / "run", config, **where).init
    given, written = (load_file(d / "model.safetensors") for d in (tmp_path / "half", kept))
    assert all(torch.equal(written[name], tensor) for name, tensor in given.items())
    assert {tensor.dtype for tensor in written.values()} == {torch.bfloat16}
    loaded = load_checkpoint(kept).model
    assert {p.dtype for p in loaded.parameters()} == {loaded.config.dtype} == {torch.float32}


def test_an_encoder_goes_on_with_its_pretraining_and_then_classifies(
    told, narratives, models, tmp_path
):
    corpus = write_narratives(tmp_path / "corpus", told, labels=False)
    out = tmp_path / "pretrained"
    run(
        *("--narratives", corpus, "--model", models("Bert"), "--out", out),
        *settings("objective.kind=mlm"),
    )
    theirs = AutoModelForMaskedLM.from_pretrained(resolve(out))
    config = load(None, FEW)
    where = {"model": str(out), "revision": None, "task": None, "device": "cpu"}
    ready = prepare(narratives, tmp_path / "run", config, **where)
    job = Job(tokens=ready.tokens, out=tmp_path, init=ready.init, labels=ready.labels, device="cpu")
    tokens = job.open_tokens()
    objective = config.objective.fitted(job.train_examples(ready.config, tokens))
    body = load_or_build(ready.init, ready.config, objective, tokens, None).base_model
    for name, tensor in theirs.base_model.state_dict().items():
        assert torch.equal(body.state_dict()[name], tensor)


ALONE = """
import sys
sys.modules.update(dict.fromkeys(("ehr_models", "ehr_train", "ehr_tracking", "ehr_eval", "ehr_tokenize")))
import json, torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer
classifier, generator, text, prompt = sys.argv[1:]
tokenizer = AutoTokenizer.from_pretrained(classifier)
model = AutoModelForSequenceClassification.from_pretrained(classifier)
inputs = tokenizer(text, return_tensors="pt", max_length=48, truncation=True)
outputs = model(**inputs)
yes = outputs.logits.softmax(-1)[0, 1].item()
prediction = outputs.logits.argmax(-1).item()
tokenizer = AutoTokenizer.from_pretrained(generator)
model = AutoModelForCausalLM.from_pretrained(generator)
inputs = tokenizer([text + prompt], return_tensors="pt")
words = [tokenizer(prompt + word)["input_ids"][-1] for word in (" no", " yes")]
said = model(**inputs).logits[0, -1, words].softmax(-1)[1].item()
told = tokenizer.decode(model.generate(**inputs, max_new_tokens=4, do_sample=False)[0])
print(json.dumps([yes, prediction, said, told]))
"""
"""The seed's inference on one text, where no package of ours is to be had."""


@pytest.fixture(scope="module")
def bert(narratives, models, tmp_path_factory):
    """A run and its predictions."""
    out = tmp_path_factory.mktemp("bert")
    shown = run(
        *("--narratives", narratives, "--model", models("Bert"), "--out", out / "run"),
        *("--predictions", out / "predictions", *settings()),
    )
    assert "wrote" in shown
    return out


def test_what_is_written_is_read_and_told_alike_without_this_project(
    bert, told, narratives, models, tmp_path
):
    corpus = write_narratives(tmp_path / "corpus", told, labels=False, task="records")
    adapter = ("adapter.kind=rslora", "adapter.rank=4", "adapter.targets=all")
    run(
        *("--narratives", corpus, "--model", models("Llama"), "--out", tmp_path / "pretrained"),
        *settings("objective.kind=clm", *adapter),
    )
    merge_adapter(tmp_path / "pretrained", tmp_path / "merged")
    run(
        *("--narratives", narratives, "--model", tmp_path / "merged", "--out", tmp_path / "words"),
        *("--predictions", tmp_path / "predictions"),
        *settings("objective.kind=label_words", *adapter),
    )
    merge_adapter(tmp_path / "words", tmp_path / "answers")
    rows = [
        pq.read_table(out / "predictions/sepsis/held_out.parquet").to_pylist()
        for out in (bert, tmp_path)
    ]
    assert [r["subject_id"] for r in rows[0]] == [s for s in range(30) if s % 5 == 4 for _ in "ab"]
    text = told[2 * rows[0][0]["subject_id"]]
    words = (resolve(bert / "run"), tmp_path / "answers", text, PROMPT)
    done = subprocess.run(
        [sys.executable, "-c", ALONE, *words], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    yes, prediction, said, generated = json.loads(done.stdout.splitlines()[-1])
    probabilities = [table[0]["predicted_boolean_probability"] for table in rows]
    assert [yes, said] == pytest.approx(probabilities, abs=1e-5)
    assert prediction == (yes > 0.5)
    assert generated.startswith(f"<s>{text}{PROMPT}")


def test_a_run_that_was_stopped_ends_bit_identical(bert, narratives, models, tmp_path):
    shutil.copytree(bert / "run", tmp_path / "run")
    shutil.copytree(bert / ".text", tmp_path / ".text")
    (tmp_path / "run/manifest.json").unlink()
    first, last = sorted((tmp_path / "run/checkpoints").glob("step-*"))
    shutil.rmtree(last)
    assert json.loads((first / "training_state/state.json").read_text())["step"] == 2
    words = ("--narratives", narratives, "--model", models("Bert"), "--out", tmp_path / "run")
    run(*words, *settings(), "--resume")
    ends = [CheckpointStore(out / "run/checkpoints").latest() for out in (bert, tmp_path)]
    whole, resumed = (sha256(end / "model.safetensors") for end in ends)
    assert whole == resumed


class FastLanguageModel:
    """What unsloth documents of its own, by transformers and peft: without a GPU there is no other."""

    @staticmethod
    def from_pretrained(model_name, max_seq_length, dtype, load_in_4bit, device_map):
        assert (max_seq_length, load_in_4bit) == (48, False)
        found = AutoModelForCausalLM.from_pretrained(model_name, dtype=dtype, device_map=device_map)
        return found, AutoTokenizer.from_pretrained(model_name)

    @staticmethod
    def get_peft_model(model, *, use_gradient_checkpointing, random_state, **options):
        torch.manual_seed(random_state)
        assert use_gradient_checkpointing is False
        return get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **options))


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")
def test_a_model_that_unsloth_opens_learns_as_any_other_and_is_saved_as_an_adapter(
    narratives, models, tmp_path, monkeypatch
):
    adapter = ("adapter.kind=rslora", "adapter.rank=4", "adapter.targets=all")
    config = load(None, (*FEW, "objective.kind=label_words", *adapter))
    where = {"model": str(models("Llama")), "revision": None, "task": None, "device": "cpu"}
    ready = prepare(narratives, tmp_path / "run", config, **where)
    job = Job(tokens=ready.tokens, out=tmp_path, init=ready.init, labels=ready.labels, device="cpu")
    config = replace(ready.config, text=TextConfig(framework="unsloth"))
    monkeypatch.setitem(
        sys.modules, "unsloth", SimpleNamespace(FastLanguageModel=FastLanguageModel)
    )
    tokens = job.open_tokens()
    examples = job.train_examples(config, tokens)
    objective = config.objective.fitted(examples)
    model = load_or_build(ready.init, config, objective, tokens, None).train()
    _, windows = next(sampler(config, examples).steps(Position()))
    question = Asker(objective, examples, tokens.vocab_size, 0).ask(windows, 0)
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad == ("lora_" in name)
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    total, count = Learner(model, objective)(question)["loss"]
    loss = total.item() / count
    assert loss == pytest.approx(padded_loss(model, question, "label_words").item(), rel=1e-4)
    saved = tmp_path / "saved"
    saved.mkdir()
    save_checkpoint(
        saved, model, ready.tokens, metrics={}, producer="test 0", config={}, seed=0, inputs={},
        base=ready.init,
    )  # fmt: skip
    for again in (
        load_adapter(saved).model,
        load_or_build(ready.init, config, objective, tokens, saved),
    ):
        total, count = Learner(again.train(), objective)(question)["loss"]
        assert total.item() / count == pytest.approx(loss, rel=1e-5)


def test_several_texts_of_a_subject_keep_their_labels_apart(bert, told):
    for split in ("held_out", "tuning/sepsis/tuning"):
        path = f"sepsis/{split}" if split == "held_out" else split
        for row in pq.read_table(bert / f"predictions/{path}.parquet").to_pylist():
            second = row["prediction_time"].microsecond
            assert row["boolean_value"] == ("sepsis" in told[2 * row["subject_id"] + second])


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (("objective.kind=classification",), "trains a decoder for clm or label_words, not class"),
        (("objective.kind=clm",), "trains an adapter of kind lora, rslora, qlora, without embed"),
        (("objective.kind=clm", "adapter.kind=dora"), "trains an adapter of kind lora"),
        (("objective.kind=clm", "adapter.kind=lora"), "needs unsloth: pip install unsloth"),
    ],
)
def test_what_unsloth_cannot_do_is_said_ahead_of_all_else(asked, message, tmp_path):
    config = load(None, (*FEW, "text.framework=unsloth", *asked))
    with pytest.raises(UserError, match=message):
        prepare(
            tmp_path / "none", tmp_path / "run", config, model="none", revision=None, task=None,
            device="cuda",
        )  # fmt: skip


def test_bad_input_is_one_line(told, narratives, models, tmp_path):
    corpus = write_narratives(tmp_path / "corpus", told, labels=False)
    well = write_narratives(tmp_path / "well", [t.replace("sepsis", "healthy") for t in told])
    torch.manual_seed(0)
    mute = PreTrainedTokenizerFast(tokenizer_object=word_pieces(told)._tokenizer)
    mute.save_pretrained(shutil.copytree(models("Bert"), tmp_path / "mute"))
    (tmp_path / "mute/tokenizer_config.json").write_text(
        '{"tokenizer_class": "PreTrainedTokenizerFast"}'
    )
    words = "objective.kind=label_words"
    for narrated, model, more, message in (
        (corpus, models("Bert"), (), "holds no labels, which objective classification learns from"),
        (well, models("Bert"), (), "all 36 train rows are negative"),
        (narratives, models("Bert"), ("text.long=refuse", "data.context=12"), "are longer than 12 tokens"),
        (narratives, models("Bert"), ("data.context=80",), "the model takes 64 positions"),
        (narratives, models("Bert"), ("objective.kind=clm",), "is an encoder"),
        (narratives, models("Llama"), ("objective.kind=mlm",), "is a decoder"),
        (narratives, tmp_path / "mute", (), "has no token to pad with"),
        (narratives, models("Bert"), ("text.framework=unsloth",), "unsloth needs a GPU"),
        (narratives, models("Llama"), (words, 'objective.words=[" no", " perhaps not"]'), "is not one token"),
        (narratives, "no/such-model", (), "hf download no/such-model"),
    ):  # fmt: skip
        out = ("--narratives", narrated, "--model", model, "--out", tmp_path / "run")
        shown = run(*out, *settings(*more), "--device", "cpu", code=2)
        assert message in shown
        assert not (tmp_path / "run").exists()
        assert sum(line.startswith("Error: ") for line in shown.splitlines()) == 1
