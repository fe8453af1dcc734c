"""Perplexity by position beside transformers' own forward, one window and one subject at a time."""

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from click.testing import CliRunner
from transformers import AutoModelForCausalLM

from ehr_eval.cli import main
from ehr_eval.perplexity import measure
from ehr_eval.perplexity import run as run_module
from ehr_eval.perplexity.config import PerplexityConfig
from ehr_eval.perplexity.run import run_perplexity
from ehr_models.checkpoint import save_checkpoint
from ehr_models.kinds import KINDS
from ehr_models.registry import build
from ehr_tracking.contracts import PERPLEXITY, UNK_ID
from ehr_tracking.errors import UserError
from ehr_tracking.manifest import read_manifest, verify

CONTEXT, STRIDE = 12, 3
PREFIX = 2  # [BOS] and a static token, of all records of `toys`


@pytest.fixture(scope="module")
def made(tmp_path_factory, toys):
    root = tmp_path_factory.mktemp("perplexity")
    records = toys.records(32, longest=30)
    for record in records[::3]:
        record.events[1] = (record.events[1][0], UNK_ID)
    tokens = toys.tokens(root / "tokens", records)
    for name, kind, seed in (("one", "gpt2", 0), ("two", "llama", 1), ("all", "behrt", 2)):
        torch.manual_seed(seed)
        sizes = {"size": "tiny", "hidden": 16, "layers": 2, "heads": 2, "intermediate": 32}
        model = build(KINDS[kind].config(**sizes), toys.vocab)
        with torch.no_grad():
            for weight in model.parameters():
                weight.mul_(3)  # far from one answer for all
        (root / name).mkdir()
        save_checkpoint(
            root / name, model, tokens, metrics={}, producer="test 0", seed=0, inputs={},
            config={"data": {"context": CONTEXT}},
        )  # fmt: skip
    held_out = [r.columns()["token"] for r in records if r.split == "held_out"]
    return root, held_out


def expected(path, records, context, stride):
    """Loss of each (subject, position), from windows cut by hand and read one at a time."""
    model = AutoModelForCausalLM.from_pretrained(path, trust_remote_code=False).eval()
    found = {}
    for row, ids in enumerate(records):
        stop, before = min(len(ids), context), 0
        while True:
            shown = (
                ids[:stop] if not before else ids[:PREFIX] + ids[stop - (context - PREFIX) : stop]
            )
            with torch.no_grad():
                logits = model(input_ids=torch.tensor([shown])).logits[0, :, :40]
            log_p = torch.log_softmax(logits.double(), -1)
            for position in range(max(before, PREFIX), stop):
                place = len(shown) - (stop - position)
                if ids[position] != UNK_ID:
                    found[row, position] = -float(log_p[place - 1, ids[position]])
            if stop == len(ids):
                break
            before, stop = stop, min(stop + stride, len(ids))
    return found


@pytest.mark.parametrize(("name", "context"), [("one", None), ("two", None), ("one", 256)])
def test_losses_are_those_of_transformers_in_strided_windows(made, tmp_path, name, context):
    root, records = made
    config = PerplexityConfig(
        stride=STRIDE, context=context, smooth=1, least_subjects=2, precision="fp32"
    )
    found = run_perplexity({name: root / name}, root / "tokens", tmp_path / "out", config)
    losses = expected(root / name, records, context or CONTEXT, STRIDE)
    assert max(map(len, records)) > CONTEXT + 2 * STRIDE
    assert found[0]["tokens"] == len(losses)
    assert found[0]["loss"] == pytest.approx(np.mean([*losses.values()]), abs=1e-5)
    assert found[0]["perplexity"] == pytest.approx(np.exp(np.mean([*losses.values()])), rel=1e-5)

    rows = pq.read_table(tmp_path / "out" / "perplexity.parquet").to_pylist()
    assert rows[0]["position"] is None
    by_place = {}
    for (_, position), loss in losses.items():
        by_place.setdefault(position, []).append(np.exp(loss))
    wanted = {p: np.median(v) for p, v in sorted(by_place.items()) if len(v) >= 2}
    assert {r["position"]: r["perplexity"] for r in rows[1:]} == pytest.approx(wanted, rel=1e-4)
    assert [r["subjects"] for r in rows[1:]] == [len(by_place[p]) for p in wanted]
    same = [r["perplexity"] for r in rows[1:]]
    assert [r["smoothed"] for r in rows[1:]] == pytest.approx(same, rel=1e-9)
    assert verify(tmp_path / "out") == []


def test_two_models_share_a_table_and_a_page_and_others_are_refused(made, tmp_path, monkeypatch):
    root, _ = made
    command = ["perplexity", "--tokens", str(root / "tokens"), "--out", str(tmp_path / "out")]
    both = [f"--checkpoint={n}={root / n}" for n in ("one", "two")]
    settings = ["-s", "stride=4", "-s", "least_subjects=1", "-s", "subjects=5"]
    done = CliRunner().invoke(main, [*command, *both, *settings])
    assert done.exit_code == 0, done.output
    table = pq.read_table(tmp_path / "out" / "perplexity.parquet")
    assert set(table["checkpoint"].to_pylist()) == {"one", "two"}
    overall = [r for r in table.to_pylist() if r["position"] is None]
    assert [r["subjects"] for r in overall] == [5, 5]
    page = (tmp_path / "out" / "report.html").read_text()
    assert "data:image/png" in page
    assert "one" in page
    manifest = read_manifest(tmp_path / "out", PERPLEXITY, reader="test")
    assert {"tokens", "checkpoint.one", "checkpoint.two"} == manifest.inputs.keys()
    monkeypatch.setattr(
        run_module, "losses", None
    )  # nothing is read before all are known to be right
    with pytest.raises(UserError, match="does not foretell the next token"):
        run_perplexity({"one": root / "one", "all": root / "all"}, root / "tokens", tmp_path / "no")
    assert not (tmp_path / "no").exists()


def test_an_interrupted_run_goes_on_with_the_passes_that_are_left(made, tmp_path, monkeypatch):
    root, _ = made
    monkeypatch.setattr(measure, "_PASSES", 2)
    config = PerplexityConfig(stride=STRIDE, batch_tokens=24, precision="fp32")
    both = {name: root / name for name in ("one", "two")}
    of_pass, read = measure._of_pass, []

    def counted(*given):
        read.append(given)
        return of_pass(*given)

    monkeypatch.setattr(measure, "_of_pass", counted)
    run_perplexity(both, root / "tokens", tmp_path / "whole", config)
    each, left = divmod(len(read), 2)
    assert (each > 4, left) == (True, 0)

    def interrupted(*given):
        if len(read) == each + 3:  # in the second part of the second model
            raise KeyboardInterrupt
        return counted(*given)

    read.clear()
    monkeypatch.setattr(measure, "_of_pass", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_perplexity(both, root / "tokens", tmp_path / "again", config)
    assert not (tmp_path / "again").exists()
    read.clear()
    monkeypatch.setattr(measure, "_of_pass", counted)
    run_perplexity(both, root / "tokens", tmp_path / "again", config)
    assert len(read) == each - 2
    whole, again = ((tmp_path / n / "manifest.json").read_bytes() for n in ("whole", "again"))
    assert whole == again
    assert {p.name for p in tmp_path.iterdir()} == {"whole", "again"}
