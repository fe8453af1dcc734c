"""When a run is saved, with what it may go on otherwise, and what it says of itself."""

from dataclasses import replace
from datetime import datetime

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from click.testing import CliRunner

from ehr_tracking.config import to_dict
from ehr_tracking.contracts import SHOTS
from ehr_tracking.errors import UserError
from ehr_tracking.manifest import seal, sha256, verify
from ehr_tracking.runs import read_log
from ehr_train.cli import main
from ehr_train.config import CheckpointConfig, DataConfig, OptimConfig, ValidationConfig
from ehr_train.objectives import Classification
from ehr_train.optim import learning_rate
from ehr_train.run import train

from .conftest import tiny_config


def weights(run, step):
    return sha256(run / "checkpoints" / f"step-{step:08d}" / "model.safetensors")


@pytest.fixture(scope="module")
def config():
    return tiny_config(
        optim=OptimConfig(lr=3e-3, steps=14),
        validation=ValidationConfig(every=100),
        checkpoint=CheckpointConfig(every=None),
    )


@pytest.fixture(scope="module")
def plain(tokens, tmp_path_factory, config):
    return train(tokens, tmp_path_factory.mktemp("plain") / "run", config)


def test_each_trigger_saves_where_it_says_and_changes_no_weight(tokens, tmp_path, config, plain):
    often = CheckpointConfig(every=6, tokens=1000, epochs=1, keep_every=5, keep=1)
    run = train(tokens, tmp_path / "run", replace(config, checkpoint=often))
    log = read_log(run / "metrics.jsonl")
    expected = {14: {"end", "best"}}
    for before, now, after in zip([{"tokens": 0}, *log], log, [*log[1:], None], strict=False):
        why = expected.setdefault(now["step"], set())
        why |= {"steps"} if now["step"] in (5, 6, 10, 12) else set()
        why |= {"tokens"} if now["tokens"] // 1000 > before["tokens"] // 1000 else set()
        why |= {"epochs"} if after and after["epoch"] > now["epoch"] else set()
    saves = read_log(run / "saves.jsonl")
    assert {s["step"]: {*s["why"]} for s in saves} == {n: w for n, w in expected.items() if w}
    assert sum("epochs" in s["why"] for s in saves) >= 2
    kept = sorted(path.name[-2:] for path in (run / "checkpoints").glob("step-*"))
    assert kept == ["05", "10", "14"]
    assert [s["why"] for s in read_log(plain / "saves.jsonl")] == [["best", "end"]]
    assert weights(run, 14) == weights(plain, 14)
    assert f"saving                {len(saves)} times" in (run / "SUMMARY.txt").read_text()


def test_a_finished_run_goes_on_with_what_may_change_and_keeps_what_was(
    tokens, tmp_path, config, plain
):
    run = tmp_path / "run"
    train(tokens, run, config)
    longer = OptimConfig(lr=1e-3, steps=18, weight_decay=0.2)
    changed = replace(config, optim=longer)
    said = (
        r"begun otherwise: optim\.lr: 0\.003 -> 0\.001; optim\.steps: 14 -> 18; .*--allow-changes"
    )
    with pytest.raises(UserError, match=said):
        train(tokens, run, changed, resume=True)
    with pytest.raises(UserError, match=r"otherwise: seed: 0 -> 1 \(stays: every draw[^;]*$"):
        train(tokens, run, replace(changed, seed=1), resume=True, allow_changes=True)
    with pytest.raises(UserError, match=r"batch_tokens: 400 -> 300 \(stays: the position in an ep"):
        other = replace(changed, data=replace(config.data, batch_tokens=300))
        train(tokens, run, other, resume=True, allow_changes=True)
    with pytest.raises(UserError, match=r"has done 14 steps: it cannot end after 9$"):
        fewer = replace(config, optim=replace(longer, steps=9))
        train(tokens, run, fewer, resume=True, allow_changes=True)
    assert verify(run) == []
    train(tokens, run, changed, resume=True, allow_changes=True)
    log, before = (read_log(path / "metrics.jsonl") for path in (run, plain))
    assert log[:14] == before
    assert [r["lr"] for r in log[14:]] == [learning_rate(n, 18, longer) for n in range(14, 18)]
    (record,) = read_log(run / "changes.jsonl")
    assert record["step"] == 14
    assert record["changes"]["optim.steps"] == [14, 18]
    assert verify(run) == []
    for report in ("SUMMARY.txt", "report.html"):
        assert "behind step 14" in (run / report).read_text()
    sealed = (run / "manifest.json").read_bytes()
    train(tokens, run, changed, resume=True, allow_changes=True)
    assert (run / "manifest.json").read_bytes() == sealed


def test_a_dry_run_over_shots_counts_the_runs_of_all_draws(tokens, tmp_path, plain):
    rows = [
        {
            **{"task": "t", "k": k, "replicate": 0, "split": split, "order": i},
            **{"subject_id": first + i, "boolean_value": i % 2 == 0},
            "prediction_time": datetime(1971, 1, 1),  # noqa: DTZ001 -- as MEDS has it
        }
        for k in (2, 5)
        for split, first in (("train", 1000), ("tuning", 2000))
        for i in range(2 * k)
    ]
    shots = tmp_path / "shots"
    shots.mkdir()
    table = pa.Table.from_pylist(rows)
    at = table.schema.get_field_index("prediction_time")
    table = table.set_column(at, "prediction_time", table.column(at).cast(pa.timestamp("us")))
    pq.write_table(table, shots / "shots.parquet")
    seal(shots, SHOTS, producer="test 0", config={})
    recipe = tmp_path / "c.yaml"
    three = DataConfig(context=32, loader="exact", batch_records=3, micro_tokens=150)
    config = tiny_config(objective=Classification(), data=three, optim=OptimConfig(epochs=2))
    recipe.write_text(yaml.safe_dump(to_dict(config)))
    given = [
        "--tokens",
        tokens,
        "--out",
        tmp_path / "out",
        "--shots",
        shots,
        "-c",
        recipe,
        "--dry-run",
    ]
    planned, refused = (
        CliRunner().invoke(main, [str(a) for a in (*given, *more)])
        for more in (("--init", plain), ())
    )
    assert planned.exit_code == 0, planned.output
    figures = dict(line.split() for line in planned.output.splitlines() if len(line.split()) == 2)
    # 4 and 10 rows, three a step, twice
    assert (figures["runs"], figures["steps"], figures["steps_of_all"]) == ("2", "4", "12")
    assert refused.stderr == "Error: --shots needs --init, and has its own labels\n"
    assert not (tmp_path / "out").exists()


def test_changes_are_allowed_to_a_run_that_goes_on_alone():
    for given in ([], ["--resume", "--folds", "2"], ["--resume", "--shots", "s"]):
        said = CliRunner().invoke(main, ["--tokens", "t", "--out", "o", "--allow-changes", *given])
        assert said.exit_code == 2
        assert "--allow-changes is for one run that goes on" in said.stderr
