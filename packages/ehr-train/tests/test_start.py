"""What a run decides, and refuses, when it begins or goes on."""

import json
import sys
from dataclasses import replace

import pytest
import torch
import yaml
from click.testing import CliRunner

from ehr_models.kinds.gpt2 import Gpt2ModelConfig
from ehr_models.precision import resolve_precision
from ehr_tracking.config import load_config, to_dict
from ehr_tracking.errors import UserError
from ehr_train.cli import main
from ehr_train.compiling import pays
from ehr_train.config import LogConfig, TextConfig, TrainConfig
from ehr_train.plan import plan
from ehr_train.run import train

from .conftest import tiny_config, write_tokens


@pytest.mark.parametrize(
    ("kind", "objective"), [("behrt", "mlm"), ("bert", "mlm"), ("gpt2", "clm"), ("llama", "clm")]
)
def test_the_objective_follows_the_kind_where_none_is_named(kind, objective):
    config = load_config(TrainConfig, overrides=[f"model.kind={kind}"])
    assert config.objective.kind == objective


def test_an_objective_that_is_named_stays(tokens):
    assert TrainConfig().objective.kind == "mlm"
    assert TrainConfig(model=Gpt2ModelConfig()).objective.kind == "clm"
    named = load_config(TrainConfig, overrides=["model.kind=gpt2", "objective.kind=mlm"])
    with pytest.raises(UserError, match="kind gpt2 cannot be pretrained with objective mlm"):
        plan(tokens, named)


@pytest.mark.parametrize(
    ("units", "precision"),
    [({}, "fp32"), ({"avx512_bf16": True}, "fp32"), ({"avx512_bf16": 1, "amx_bf16": 1}, "bf16")],
)
def test_auto_takes_bf16_where_the_host_has_amx(monkeypatch, units, precision):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: units)
    assert resolve_precision("auto", "cpu") == precision
    assert resolve_precision("fp32", "cpu") == "fp32"


def test_compiling_without_a_compiler_is_refused_in_one_line(tokens, tmp_path, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    for call in (
        lambda: train(tokens, tmp_path / "run", tiny_config(compile=True)),
        lambda: plan(tokens, tiny_config(compile=True)),
    ):
        with pytest.raises(UserError, match=r"there is no no-such-compiler; install it.*CXX"):
            call()
    assert not (tmp_path / "run").exists()


def test_auto_compiles_long_runs_on_a_gpu_where_there_is_a_compiler(tokens, tmp_path, monkeypatch):
    config = tiny_config(compile="auto")
    monkeypatch.setenv("CC", sys.executable)
    assert pays(config, "cuda", 1000)
    assert not pays(config, "cuda", 999)
    assert not pays(config, "cpu", 1000)
    unsloth = replace(config, text=TextConfig(framework="unsloth"))
    assert not pays(unsloth, "cuda", 1000)
    monkeypatch.setenv("CC", "no-such-compiler")
    assert not pays(config, "cuda", 1000)
    run = train(tokens, tmp_path / "run", config, device="cpu")
    assert load_config(TrainConfig, run / "config.yaml").compile is False
    assert train(tokens, run, config, device="cpu", resume=True) == run  # auto is what it was


def test_a_resumed_run_may_change_what_changes_no_result_and_decides_nothing_again(
    tokens, tmp_path, monkeypatch
):
    config = tiny_config(precision="auto")
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    run = train(tokens, tmp_path / "run", config)
    before = (run / "metrics.jsonl").read_bytes()
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": True})
    for path in (run / "manifest.json", run / "report.html"):
        path.unlink()
    (run / "metrics.jsonl").write_bytes(b"".join(before.splitlines(True)[:10]))
    (latest,) = (run / "checkpoints").glob("step-00000012")
    latest.rename(tmp_path / "last")
    scores = dict.fromkeys((p.name for p in (run / "checkpoints").glob("step-*")), None)
    pointers = {"latest": max(scores), "best": None, "scores": scores}
    (run / "checkpoints" / "pointers.json").write_text(json.dumps(pointers))
    changed = replace(config, data=replace(config.data, ahead=0), log=LogConfig(every=3))
    train(tokens, run, changed, resume=True)
    now = yaml.safe_load((run / "config.yaml").read_text())
    assert (now["precision"], now["data"]["ahead"], now["log"]["every"]) == ("fp32", 0, 3)
    assert (run / "metrics.jsonl").read_bytes() == before
    with pytest.raises(
        UserError, match=r"begun otherwise: data\.micro_tokens: 150 -> 99\. Go on so"
    ):
        train(tokens, run, replace(config, data=replace(config.data, micro_tokens=99)), resume=True)


def test_a_dry_run_refuses_what_the_run_refuses(tokens, tmp_path):
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("x")
    empty = write_tokens(tmp_path / "empty", {"train": [], "tuning": []})
    recipe = tmp_path / "c.yaml"
    recipe.write_text(yaml.safe_dump(to_dict(tiny_config())))
    for given, out in ((tokens, mine), (empty, tmp_path / "run")):
        said = [
            CliRunner().invoke(
                main, ["--tokens", str(given), "--out", str(out), "-c", str(recipe), *dry]
            )
            for dry in ([], ["--dry-run"])
        ]
        assert [r.exit_code for r in said] == [2, 2]
        assert said[0].stderr == said[1].stderr
        assert len(said[0].stderr.splitlines()) == 1
    assert not (tmp_path / "run").exists()
