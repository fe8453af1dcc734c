"""What a step waits for, and when its figures are written."""

from dataclasses import replace
from itertools import islice

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from ehr_tracking.errors import UserError
from ehr_tracking.runs import read_log
from ehr_train.config import DataConfig, LogConfig, OptimConfig, SkipConfig
from ehr_train.data.loader import Ahead
from ehr_train.data.sampler import Position
from ehr_train.job import Job
from ehr_train.loop import Trainer
from ehr_train.run import train
from ehr_train.start import write_start

from .conftest import tiny_config


class Reads(TorchDispatchMode):
    """Counts what would make the host wait for a GPU: single values that are read."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


def trainer(tokens, out, config) -> Trainer:
    out.mkdir()
    job = Job(tokens=tokens, out=out, init=None, labels=None, device="cpu", steps=12)
    write_start(out, config, job.resolved(None)[1], "cpu")
    return Trainer(job)


@pytest.mark.parametrize("kind", ["mlm", "clm"])
def test_a_step_reads_nothing_from_the_device(tokens, tmp_path, kind):
    t = trainer(tokens, tmp_path / "run", tiny_config(kind))
    steps = list(islice(t.prepared(Position()), 3))
    with torch.random.fork_rng(), Reads() as reads:
        done = [t.step(step) for step in steps]
        assert reads.count == 0
        assert all(bool(torch.isfinite(d.figures).all()) for d in done)
        assert reads.count > 0


def test_steps_made_ahead_are_those_made_inline_also_from_a_position_on(tokens, tmp_path):
    t = trainer(tokens, tmp_path / "run", tiny_config())
    inline = list(islice(t.prepared(Position()), 40))
    assert inline[-1].position.epoch > 1
    for begin in (0, 13):
        position = inline[begin - 1].position if begin else Position()
        with Ahead(t.prepared(position), 3) as ready:
            for a, b in zip(islice(ready, 40 - begin), inline[begin:], strict=True):
                assert (a.position, a.tokens, len(a.passes)) == (
                    b.position,
                    b.tokens,
                    len(b.passes),
                )
                for p, q in zip(a.passes, b.passes, strict=True):
                    assert torch.equal(p.batch.input_ids, q.batch.input_ids)
                    assert p.targets.keys() == q.targets.keys()
                    assert all(torch.equal(p.targets[n], q.targets[n]) for n in p.targets)


def test_neither_the_loader_nor_rare_writing_changes_a_figure(tokens, tmp_path):
    config = tiny_config()
    data = replace(config.data, ahead=0)
    runs = [
        train(tokens, tmp_path / "usual", config),
        train(tokens, tmp_path / "inline", replace(config, data=data)),
        train(tokens, tmp_path / "rare", replace(config, log=LogConfig(every=1000))),
    ]
    logs = [(run / "metrics.jsonl").read_bytes() for run in runs]
    assert logs[0] == logs[1] == logs[2]
    for run in runs:
        timings = read_log(run / "timings.jsonl")
        assert [r["step"] for r in timings] == list(range(1, 13))
        assert all(0 <= r["waited"] <= r["seconds"] + 1e-3 for r in timings)
        assert "waiting for data" in (run / "SUMMARY.txt").read_text()


def test_a_loss_that_is_no_number_is_found_late_but_named_rightly_and_not_saved(tokens, tmp_path):
    found = []
    for every in (1, 7):
        config = tiny_config(
            optim=OptimConfig(lr=1e30, steps=50, warmup=3, skip=SkipConfig(in_a_row=0)),
            data=DataConfig(context=32, batch_tokens=400, micro_tokens=150),
            log=LogConfig(every=every),
        )
        run = tmp_path / str(every)
        with pytest.raises(UserError, match=r"^step \d+: the loss is") as error:
            train(tokens, run, config)
        step = int(str(error.value).split(":")[0].split()[1])
        assert [r["step"] for r in read_log(run / "metrics.jsonl")] == list(range(1, step))
        saved = [int(p.name[5:]) for p in (run / "checkpoints").glob("step-*")]
        assert all(s < step for s in saved)
        found.append(step)
    assert found[0] == found[1]
