import json

import pytest
import torch
from safetensors.torch import save_file
from transformers.activations import ACT2FN

from ehr_models.checkpoint import load_checkpoint, require_same_vocabulary, save_checkpoint
from ehr_models.data.tokens import open_tokens
from ehr_models.heads.token import hidden_states, token_logits
from ehr_tracking.checkpoints import CheckpointStore
from ehr_tracking.contracts import CHECKPOINT, ContractError
from ehr_tracking.manifest import load_manifest, seal, source


def save(directory, model, tokens, **changes):
    directory.mkdir(parents=True, exist_ok=True)
    options = {"producer": "test 0", "config": {"a": 1}, "seed": 7, "metrics": {"loss": 1.25}}
    inputs = {"tokens": source(tokens)}
    save_checkpoint(directory, model, tokens, **{**options, "inputs": inputs, **changes})
    return directory


def answers(model, batch):
    with torch.no_grad():
        return token_logits(model, hidden_states(model, batch))


def test_the_directory_holds_the_contract_and_no_pickle(make_model, tokens_dir, tmp_path):
    def state(directory):
        save_file({"x": torch.ones(2)}, directory / "optimizer.safetensors")

    directory = save(tmp_path / "c", make_model("behrt"), tokens_dir, training_state=state)
    names = {p.relative_to(directory).as_posix() for p in directory.rglob("*") if p.is_file()}
    assert names == {
        *(
            "config.json",
            "model.safetensors",
            "behrt.py",
            "encoder.py",
            "embeddings.py",
            "modeling.py",
            "pooling.py",
            "losses.py",
        ),
        *("vocab.parquet", "tokenizer.json", "metrics.json", "manifest.json"),
        "training_state/optimizer.safetensors",
    }
    for name in ("vocab.parquet", "tokenizer.json"):
        assert (directory / name).read_bytes() == (tokens_dir / name).read_bytes()
    assert json.loads((directory / "metrics.json").read_text()) == {"loss": 1.25}
    assert load_manifest(directory).seed == 7


def test_a_run_means_its_best_checkpoint(make_model, tokens_dir, tmp_path, batch):
    store = CheckpointStore(tmp_path / "run" / "checkpoints", keep=3)
    models = [make_model("gpt2"), make_model("gpt2", layers=1)]
    for step, (model, score) in enumerate(zip(models, (1.0, 2.0), strict=True)):
        with store.save(step, score=score) as directory:
            save(directory, model, tokens_dir)
    loaded = load_checkpoint(tmp_path / "run")
    assert loaded.directory.name == "step-00000000"
    assert torch.equal(answers(loaded.model, batch), answers(models[0], batch))


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


def test_another_head_is_refused(make_model, tokens_dir, tmp_path):
    directory = save(tmp_path / "c", make_model("bert"), tokens_dir)
    assert load_checkpoint(directory, head="token").head == "token"
    with pytest.raises(ContractError, match="holds a model with a token head, not with a pooled"):
        load_checkpoint(directory, head="pooled")


def test_what_is_no_checkpoint_is_refused(tokens_dir, tmp_path):
    with pytest.raises(ContractError, match="holds tokens/1"):
        load_checkpoint(tokens_dir)
    with pytest.raises(ContractError, match="no such directory"):
        load_checkpoint(tmp_path / "nowhere")


def test_a_foreign_architecture_is_named(make_model, tokens_dir, tmp_path):
    directory = save(tmp_path / "c", make_model("bert"), tokens_dir)
    config = json.loads((directory / "config.json").read_text())
    for change, message in (
        (
            {"architectures": ["BertModel"]},
            "architecture 'BertModel' is none of kind bert: BertFor",
        ),
        ({"model_type": "t5"}, "model_type 't5' is no kind of the zoo: behrt, "),
    ):
        (directory / "config.json").write_text(json.dumps({**config, **change}))
        seal(directory, CHECKPOINT, producer="test 0", config={})
        with pytest.raises(ContractError, match=message):
            load_checkpoint(directory)


def test_a_checkpoint_keeps_the_activation_of_its_config(make_model, tokens_dir, tmp_path):
    model = make_model("gpt2")
    model.config.activation_function = "gelu_new"  # as GPT-2 was built before
    loaded = load_checkpoint(save(tmp_path / "c", model, tokens_dir)).model
    assert isinstance(loaded.transformer.h[0].mlp.act, type(ACT2FN["gelu_new"]))
    built = make_model("gpt2").transformer.h[0].mlp.act
    assert isinstance(built, type(ACT2FN["gelu_pytorch_tanh"]))
