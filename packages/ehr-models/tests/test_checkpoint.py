import json
import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import save_file

from ehr_models.checkpoint import load_checkpoint, require_same_vocabulary, save_checkpoint
from ehr_models.data.tokens import open_tokens
from ehr_models.heads import build_classifier, classify, hidden_states, token_logits
from ehr_tracking.checkpoints import CheckpointStore
from ehr_tracking.contracts import CHECKPOINT, ContractError
from ehr_tracking.manifest import load_manifest, seal, source, verify


def save(directory, model, tokens, **changes):
    directory.mkdir(parents=True, exist_ok=True)
    options = {"producer": "test 0", "config": {"a": 1}, "seed": 7, "metrics": {"loss": 1.25}}
    inputs = {"tokens": source(tokens)}
    save_checkpoint(directory, model, tokens, **{**options, "inputs": inputs, **changes})
    return directory


def answers(model, batch):
    with torch.no_grad():
        if hasattr(model, "classifier"):
            return classify(model, batch)
        return token_logits(model, hidden_states(model, batch))


@pytest.mark.parametrize("labels", [None, 3])
def test_round_trip_to_the_last_bit(model, batch, tokens_dir, tmp_path, labels):
    objective = "clm" if model.config.model_type in {"gpt2", "llama"} else "mlm"
    if labels:
        model, objective = build_classifier(model, labels, "max"), "classification"
    directory = save(tmp_path / "c", model, tokens_dir)
    assert verify(directory) == []
    loaded = load_checkpoint(directory)
    assert type(loaded.model) is type(model)
    assert not loaded.model.training
    assert torch.equal(answers(model, batch), answers(loaded.model, batch))
    assert loaded.objective == objective
    assert loaded.vocab_size == 90
    assert loaded.source == source(directory)
    assert loaded.manifest.inputs["tokens"] == source(tokens_dir)
    require_same_vocabulary(loaded, open_tokens(tokens_dir))


def test_the_directory_holds_the_contract_and_no_pickle(make_model, tokens_dir, tmp_path):
    def state(directory):
        save_file({"x": torch.ones(2)}, directory / "optimizer.safetensors")

    directory = save(tmp_path / "c", make_model("behrt"), tokens_dir, training_state=state)
    names = {p.relative_to(directory).as_posix() for p in directory.rglob("*") if p.is_file()}
    assert names == {
        *("config.json", "model.safetensors", "behrt.py", "embeddings.py", "pooled.py"),
        *("vocab.parquet", "tokenizer.json", "metrics.json", "manifest.json"),
        "training_state/optimizer.safetensors",
    }
    for name in ("vocab.parquet", "tokenizer.json"):
        assert (directory / name).read_bytes() == (tokens_dir / name).read_bytes()
    assert json.loads((directory / "metrics.json").read_text()) == {"loss": 1.25}
    assert load_manifest(directory).seed == 7


def test_the_same_model_gives_the_same_bytes(make_model, tokens_dir, tmp_path):
    a, b = (save(tmp_path / n, make_model("behrt"), tokens_dir) for n in "ab")
    assert (a / "manifest.json").read_bytes() == (b / "manifest.json").read_bytes()
    assert str(tmp_path) not in (a / "config.json").read_text()
    again = save(tmp_path / "again", load_checkpoint(a).model, tokens_dir)
    assert (a / "manifest.json").read_bytes() == (again / "manifest.json").read_bytes()


def test_a_run_means_its_best_checkpoint(make_model, tokens_dir, tmp_path, batch):
    store = CheckpointStore(tmp_path / "run" / "checkpoints", keep=3)
    models = [make_model("gpt2"), make_model("gpt2", layers=1)]
    for step, (model, score) in enumerate(zip(models, (1.0, 2.0), strict=True)):
        with store.save(step, score=score) as directory:
            save(directory, model, tokens_dir)
    loaded = load_checkpoint(tmp_path / "run")
    assert loaded.directory.name == "step-00000000"
    assert torch.equal(answers(loaded.model, batch), answers(models[0], batch))


def test_a_classifier_can_begin_from_a_directory(make_model, tokens_dir, tmp_path, batch):
    model = make_model("llama")
    directory = save(tmp_path / "c", model, tokens_dir)
    classifier = build_classifier(directory, 1, "last", dropout=0.1)
    with torch.no_grad():
        assert torch.equal(hidden_states(model, batch), hidden_states(classifier, batch))
    assert classifier.config.classifier_dropout == 0.1


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "behrt.py", "vocab.parquet"])
def test_a_changed_file_is_refused(make_model, tokens_dir, tmp_path, name):
    directory = save(tmp_path / "c", make_model("behrt"), tokens_dir)
    path = directory / name
    path.write_bytes(path.read_bytes()[:-1] + b"X")
    with pytest.raises(ContractError, match=f"{name} was changed"):
        load_checkpoint(directory)


def test_the_vocabulary_of_other_tokens_is_refused(make_model, make_tokens, tokens_dir, tmp_path):
    loaded = load_checkpoint(save(tmp_path / "c", make_model("bert"), tokens_dir))
    other = open_tokens(make_tokens(tmp_path / "other", seed=1))
    with pytest.raises(ContractError, match=r"another vocabulary than .*other; tokenise again"):
        require_same_vocabulary(loaded, other)


def test_another_task_is_refused(make_model, tokens_dir, tmp_path):
    directory = save(tmp_path / "c", make_model("bert"), tokens_dir)
    assert load_checkpoint(directory, task="mlm").objective == "mlm"
    with pytest.raises(ContractError, match="holds a model for mlm, not for classification"):
        load_checkpoint(directory, task="classification")


def test_what_is_no_checkpoint_is_refused(tokens_dir, tmp_path):
    with pytest.raises(ContractError, match="holds tokens/1"):
        load_checkpoint(tokens_dir)
    with pytest.raises(ContractError, match="no such directory"):
        load_checkpoint(tmp_path / "nowhere")


def test_a_foreign_architecture_is_named(make_model, tokens_dir, tmp_path):
    directory = save(tmp_path / "c", make_model("bert"), tokens_dir)
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({**config, "architectures": ["BertModel"]}))
    seal(directory, CHECKPOINT, producer="test 0", config={})
    with pytest.raises(ContractError, match="architecture 'BertModel' is none of the zoo"):
        load_checkpoint(directory)


ELSEWHERE = """
import json, sys
from pathlib import Path

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.startswith("ehr_"):
            raise ImportError(f"{name} is not installed here")

sys.meta_path.insert(0, Blocker())
import torch, transformers
from safetensors.torch import load_file, save_file

torch.set_num_threads(1)
root = Path(sys.argv[1])
for auto, names in json.loads(sys.argv[2]).items():
    for name in names:
        path = root / name
        model = getattr(transformers, auto).from_pretrained(path, trust_remote_code=True).eval()
        assert not type(model).__module__.startswith("ehr_")
        with torch.no_grad():
            out = model(**load_file(path.with_suffix(".inputs")))
        answer = out.last_hidden_state if auto == "AutoModel" else out.logits
        save_file({"answer": answer.contiguous()}, path.with_suffix(f".{auto}"))
assert not [m for m in sys.modules if m.startswith("ehr_")]
"""


@pytest.mark.slow
def test_checkpoints_load_where_no_package_of_ours_is(make_model, batch, tokens_dir, tmp_path):
    """Through AutoModel with the code beside them, with the same answers."""
    lengths = batch.cu_seqlens.diff().tolist()
    plan = {"AutoModel": [], "AutoModelForSequenceClassification": []}
    plan |= {"AutoModelForMaskedLM": [], "AutoModelForCausalLM": []}
    expected = {}
    for name in ("behrt", "behrt-original", "bert", "gpt2", "llama"):
        model = make_model(name)
        inputs = {"input_ids": batch.input_ids, "position_ids": batch.position_ids}
        if name.startswith("behrt"):
            inputs |= {n: getattr(batch, n) for n in ("age", "time", "visit", "segment")}
        elif name == "bert":
            inputs["token_type_ids"] = batch.segment
        inputs["attention_mask"] = torch.ones_like(batch.input_ids)
        padded = {
            n: torch.nn.utils.rnn.pad_sequence(v.split(lengths), batch_first=True)
            for n, v in inputs.items()
        }
        classifier = build_classifier(model, 3, "max")
        for one, label in ((model, name), (classifier, f"{name}-classifier")):
            save(tmp_path / label, one, tokens_dir)
            save_file(padded, tmp_path / f"{label}.inputs")
        causal = name in {"gpt2", "llama"}
        plan["AutoModelForCausalLM" if causal else "AutoModelForMaskedLM"].append(name)
        plan["AutoModel"].append(name)
        plan["AutoModelForSequenceClassification"].append(f"{name}-classifier")
        with torch.no_grad():
            states = hidden_states(model, batch)
            expected[name] = (states, token_logits(model, states), classify(classifier, batch))

    subprocess.run(
        [sys.executable, "-c", ELSEWHERE, str(tmp_path), json.dumps(plan)],
        check=True,
        cwd=tmp_path,
        env={**os.environ, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1"},
    )

    from safetensors.torch import load_file

    real = torch.nn.utils.rnn.pad_sequence(
        torch.ones_like(batch.input_ids, dtype=torch.bool).split(lengths), batch_first=True
    )
    for name, (states, logits, classes) in expected.items():
        head = next(a for a, names in plan.items() if name in names and "LM" in a)
        got = {a: load_file(tmp_path / f"{name}.{a}")["answer"] for a in ("AutoModel", head)}
        assert (got["AutoModel"][real] - states).abs().max() < 1e-5
        assert (got[head][real][:, :90] - logits).abs().max() < 1e-5
        path = tmp_path / f"{name}-classifier.AutoModelForSequenceClassification"
        assert (load_file(path)["answer"] - classes).abs().max() < 1e-5
