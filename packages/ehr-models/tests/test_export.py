"""What a model is given to others with: the same answers, and a card of what manifests know."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from click.testing import CliRunner
from transformers import AutoModelForCausalLM

from ehr_models.adapters.config import AdapterConfig
from ehr_models.adapters.inject import adapt
from ehr_models.checkpoint import load_adapter, load_checkpoint, save_checkpoint
from ehr_models.cli import main
from ehr_tracking.checkpoints import CheckpointStore
from ehr_tracking.contracts import RESULTS
from ehr_tracking.manifest import load_manifest, seal, sha256, source, verify

CONFIG = {
    "model": {"kind": "gpt2", "size": "tiny"},
    "objective": {"kind": "clm"},
    "data": {"context": 64, "batch_tokens": 1024},
    "optim": {"lr": 0.004},
}


def train(run, model, tokens, **more):
    """What a run of ehr-train leaves of three steps."""
    run.mkdir()
    (run / "environment.json").write_text(json.dumps({"cores": 2, "packages": {"torch": "2.0"}}))
    steps = ({"step": n, "loss": 1.0, "tokens": 1000 * n} for n in (1, 2, 3, 4))
    (run / "metrics.jsonl").write_text("".join(json.dumps(s) + "\n" for s in steps))
    laps = ({"step": n, "seconds": 1200.0} for n in (1, 2, 3, 4))
    (run / "timings.jsonl").write_text("".join(json.dumps(lap) + "\n" for lap in laps))
    with CheckpointStore(run / "checkpoints").save(3, score=0.5) as directory:
        save_checkpoint(
            directory, model, tokens, metrics={"val_loss": 0.5}, producer="ehr-train 9", config=CONFIG, seed=11,
            inputs={"tokens": source(tokens)}, training_state=lambda d: (d / "state.json").write_text("{}"),
            **more,
        )  # fmt: skip
    return run / "checkpoints" / "step-00000003"


@pytest.fixture
def tokens(tokens_with_words):
    return tokens_with_words(["A", "B", "C"])


@pytest.fixture
def results(tmp_path):
    """Two tasks of two models."""
    directory = tmp_path / "results"
    directory.mkdir()
    told = {"head": "lr", "n": 80, "positives": 8, "reason": None, "selected": None}
    rows = [
        {"task": task, "model": model, "k": k, "replicate": replicate, "metric": "auroc", "value": value,
         "lower": value - 0.1, "upper": value + 0.1, **told}
        for task, model, k, replicate, value in (
            ("death", "ours", -1, -1, 0.75), ("death", "ours", -1, 0, 0.11), ("death", "ours", 8, -1, 0.22),
            ("death", "counts", -1, -1, 0.33), ("long_stay", "ours", -1, -1, 0.85),
        )
    ]  # fmt: skip
    types = {"double": pa.float64(), "int64": pa.int64(), "string": pa.string()}
    schema = pa.schema([(c.name, types[c.dtype]) for c in RESULTS.columns if c.name in rows[0]])
    pq.write_table(pa.Table.from_pylist(rows, schema), directory / "results.parquet")
    seal(directory, RESULTS, producer="ehr-eval 9", config={})
    return directory


def run(*words, code=0):
    done = CliRunner().invoke(main, [str(word) for word in words])
    assert done.exit_code == code, done.output
    return done


def card_of(directory):
    """Its front matter, and its text."""
    _, front, text = (directory / "README.md").read_text().split("---\n", 2)
    return yaml.safe_load(front), text


def test_an_export_answers_alike_and_holds_what_others_need_alone(
    make_model, tokens, tmp_path, batch
):
    model = make_model("gpt2_moe")
    train(tmp_path / "run", model, tokens)
    run("export", "--checkpoint", tmp_path / "run", "--out", tmp_path / "export")
    out = tmp_path / "export"
    assert verify(out) == []
    assert not (out / "training_state").exists()
    ids = batch.input_ids[None, :8]
    theirs = AutoModelForCausalLM.from_pretrained(out, trust_remote_code=True)
    with torch.no_grad():
        torch.testing.assert_close(theirs(ids).logits, model(ids).logits)
    assert load_checkpoint(out).kind.name == "gpt2_moe"
    assert load_manifest(out).inputs["checkpoint"].contract == "checkpoint/1"


def test_the_card_tells_what_manifests_know(make_model, tokens, results, tmp_path):
    model = make_model("gpt2")
    checkpoint = train(tmp_path / "run", model, tokens)
    (tmp_path / "card.yaml").write_text(
        "licence: apache-2.0\ncontacts: [someone@example.org]\nlimits: [Adults alone.]\nversion: 1.1.0\n"
        "changelog: {1.0.0: First., 1.1.0: Longer.}\n"
    )
    out = tmp_path / "export"
    run("export", "--checkpoint", tmp_path / "run", "--out", out, "--card", tmp_path / "card.yaml",
        "--results", f"ours={results}", "-s", "title=A model")  # fmt: skip
    front, text = card_of(out)
    assert front["license"] == "apache-2.0"
    parameters = sum(p.numel() for p in model.parameters())
    for told in (
        "# A model",
        f"`{sha256(tokens / 'manifest.json')}`",
        "10 tokens: 7 special, 3 code",
        f"{parameters:,} parameters",
        "| steps | 3 |",
        "| tokens seen | 3,000 |",
        "| hours | 1.00 |",
        "| seed | 11 |",
        "| hardware | cores 2 |",
        "| val_loss | 0.5 |",
        "| death | lr | auroc | 0.750 | 0.650 to 0.850 | 80 |",
        "- Adults alone.",
        "- someone@example.org",
        "- 1.1.0: Longer.",
    ):
        assert told in text, told
    assert "0.110" not in text  # one draw
    assert "0.330" not in text  # another model
    described = json.loads((out / "metadata.json").read_text())
    assert described["schema"] == "ehr-models-export/1"
    assert (described["version"], described["licence"]) == ("1.1.0", "apache-2.0")
    assert described["packages"] == {"torch": "2.0"}
    assert described["model"]["parameters"] == parameters
    assert described["model"]["checkpoint"] == sha256(checkpoint / "manifest.json")
    assert described["data"]["inputs"]["tokens"]["fingerprint"] == sha256(tokens / "manifest.json")
    assert described["training"]["config"] == CONFIG
    values = [m["value"] for r in front["model-index"][0]["results"] for m in r["metrics"]]
    assert values == [0.75, 0.85]


@pytest.mark.parametrize(
    ("least", "told"),
    [
        (None, "Whether rare codes were left out of the vocabulary is not known"),
        (1, "**No minimum of subjects per code was set**"),
        (20, "Every code in the vocabulary is of at least 20 subjects."),
    ],
)
def test_the_card_says_whether_rare_codes_were_left_out(least, told, make_model, tokens, tmp_path):
    config = {} if least is None else {"config": {"vocabulary": {"min_subjects": least}}}
    (tokens / "tokenizer.json").write_text(json.dumps(config))
    train(tmp_path / "run", make_model("gpt2"), tokens)
    done = run("export", "--checkpoint", tmp_path / "run", "--out", tmp_path / "export")
    assert told in card_of(tmp_path / "export")[1]
    assert ("no minimum of subjects" in done.output) == (least != 20)
    described = json.loads((tmp_path / "export" / "metadata.json").read_text())
    assert described["tokenizer"]["min_subjects"] == least


def test_an_adapter_is_given_without_its_base(make_model, tokens, tmp_path):
    base = train(tmp_path / "base", make_model("gpt2"), tokens)
    model = make_model("gpt2")
    adapt(model, AdapterConfig(kind="lora"))
    train(tmp_path / "run", model, tokens, base=base)
    run("export", "--checkpoint", tmp_path / "run", "--out", tmp_path / "export", "--base", base)
    out = tmp_path / "export"
    front, text = card_of(out)
    assert front["library_name"] == "peft"
    assert sha256(base / "manifest.json") in text
    assert not (out / "model.safetensors").exists()
    again = load_adapter(out, base=base).model
    with torch.no_grad():
        found, expected = again(torch.tensor([[5, 9]])).logits, model(torch.tensor([[5, 9]])).logits
    torch.testing.assert_close(found, expected)


def test_an_export_can_be_exported_again(make_model, tokens, tmp_path):
    train(tmp_path / "run", make_model("bert"), tokens)
    run("export", "--checkpoint", tmp_path / "run", "--out", tmp_path / "one")
    run(
        "export", "--checkpoint", tmp_path / "one", "--out", tmp_path / "two", "-s", "title=Another"
    )
    assert card_of(tmp_path / "two")[1].startswith("\n# Another\n")
    assert "AutoModelForMaskedLM" in card_of(tmp_path / "two")[1]


def test_what_is_wrong_is_one_line_and_nothing_is_written(make_model, tokens, results, tmp_path):
    train(tmp_path / "run", make_model("gpt2"), tokens)
    out = tmp_path / "export"
    start = ["export", "--checkpoint", tmp_path / "run", "--out", out]
    for options, message in (
        (["--results", f"x={results}"], "it has no model x; it has counts, ours"),
        (["--results", f"x={tokens}"], "holds tokens/1"),
        (["-s", "license=mit"], "license"),
        (["-s", "version=2.0.0"], "changelog says nothing of version 2.0.0"),
        (["-s", "version=two"], "version"),
        (["--card", tmp_path / "none.yaml"], "no such config file"),
    ):
        said = run(*start, *options, code=2).stderr
        assert message in said
        assert len(said.splitlines()) == 1
        assert not out.exists()
    run(*start)
    assert "--overwrite" in run(*start, code=2).stderr
    run(*start, "--overwrite")
