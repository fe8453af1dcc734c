"""Who trains: each for some steps, and what that took."""

import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import redirect_stdout
from dataclasses import replace
from itertools import chain, islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from records import CONTEXT, SCALES, VOCABULARY, Scale, batches, mean_tokens

MODELS = {
    "gpt2 4 x 128": ("gpt2", "tiny"),
    "gpt2 6 x 256": ("gpt2", "small"),
    "behrt 6 x 512": ("behrt", "large"),
    "gpt2 12 x 768": ("gpt2", "base"),
    "llama 4 x 128": ("llama", "tiny"),
}
OURS, TWO, APART = "ours", "ours, 2 processes", "ours, twice apart"
LONG, LONG_TWO = "ours, long steps", "ours, long steps, 2 processes"
BASE = {TWO: OURS, APART: OURS, LONG_TWO: LONG}
"""What two processes are held against."""
AS_LONG = 4
"""Of how many batches a long step is: about 12,000 tokens."""
PADDED, GROUPED = "trainer padded", "trainer by length"
WARMUP = {PADDED: 2, GROUPED: 2, OURS: 2, TWO: 10, APART: 2, LONG: 2, LONG_TWO: 10}
"""The same for all, but for two processes: their shares of a step come in more sizes, for each of which
kernels are compiled once."""
STEPS = {PADDED: 2, GROUPED: 5, OURS: 10, TWO: 20, APART: 20, LONG: 6, LONG_TWO: 10}
"""On a CPU, behind the warmup. Trainer's batches grouped by length are as many shares of one group."""


def in_own_process(function: Callable[..., Any], *args: Any) -> Any:  # noqa: ANN401 -- any function
    """Call a function in a fork of this process; what it prints goes to stderr."""
    with ProcessPoolExecutor(1, mp_context=get_context("fork")) as pool:
        return pool.submit(_to_stderr, function, *args).result()


def _to_stderr(function: Callable[..., Any], *args: Any) -> Any:  # noqa: ANN401 -- any function
    with redirect_stdout(sys.stderr):
        return function(*args)


def device() -> str:
    """The GPU where there is one."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def scale() -> Scale:
    """How much there is to do on it."""
    return SCALES[device()]


class Laps:
    """Time and real tokens of the steps after the warmup; a GPU is waited for at its end and at the last."""

    def __init__(self, warmup: int, steps: int) -> None:
        self.warmup, self.steps = warmup, steps
        self.marks: list[tuple[float, ...]] = []

    def mark(self, tokens: int, waited: float = 0.0) -> None:
        """A step ended; `tokens` were trained on, and `waited` seconds were, since the start."""
        if device() == "cuda" and len(self.marks) + 1 in (self.warmup, self.warmup + self.steps):
            torch.cuda.synchronize()
        self.marks.append((tokens, time.perf_counter(), time.process_time(), waited))

    def figures(self) -> dict[str, float]:
        """Of the steps behind the warmup."""
        begin, end = self.marks[self.warmup - 1], self.marks[-1]
        tokens, wall, cpu, waited = (b - a for a, b in zip(begin, end, strict=True))
        return {
            "tokens": tokens,
            "wall": tokens / wall,
            "cpu": tokens / cpu,
            "waited": waited / wall,
            "peak_mb": _peak_mb(),
        }


def _peak_mb() -> float:
    """Of the GPU, or of this process."""
    if device() == "cuda":
        return torch.cuda.max_memory_allocated() / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def our_config(model: str, batches: int = 1) -> Any:  # noqa: ANN401 -- TrainConfig, imported late
    """The same model and precision as Trainer has, and as many real tokens a step as so many batches of it."""
    from ehr_models.precision import resolve_precision
    from ehr_tracking.config import load_config
    from ehr_train.config import TrainConfig

    kind, size = MODELS[model]
    on_gpu = device() == "cuda"
    overrides = [
        f"model.kind={kind}", f"model.size={size}", "model.dropout=0", "model.attention_dropout=0",
        f"data.context={CONTEXT}", f"data.batch_tokens={batches * mean_tokens(scale())}", f"data.micro_tokens={65536 if on_gpu else 8192}",
        f"compile={str(on_gpu).lower()}", "optim.lr=1e-4", "optim.epochs=50", f"precision={resolve_precision('auto', device())}",
    ]  # fmt: skip
    return load_config(TrainConfig, None, overrides)


def measure(contender: str, model: str, data: Path, number: int, steps: int) -> dict[str, float]:
    """One turn of one contender.

    Args:
        contender: Its name.
        model: A name of `MODELS`.
        data: Token data set.
        number: Of the round: each has other records.
        steps: Behind the warmup.
    """
    print(f"... {number}: {model}, {contender}")
    long = AS_LONG if contender in (LONG, LONG_TWO) else 1
    if contender in (TWO, LONG_TWO):
        return two(our_config(model, long), data, number, WARMUP[contender], steps)
    if contender == APART:
        return apart(model, data, number, steps)
    laps = Laps(steps if device() == "cuda" else WARMUP[contender], steps)
    if contender in (OURS, LONG):
        ours(our_config(model, long), data, number, laps)
    else:
        trainer(model, number, laps, grouped=contender == GROUPED)
    return laps.figures()


def ours(config: Any, data: Path, number: int, laps: Laps) -> None:  # noqa: ANN401 -- TrainConfig
    """The trainer's own steps, one process."""
    from ehr_train.data.loader import Ahead
    from ehr_train.data.sampler import Position
    from ehr_train.job import Job
    from ehr_train.loop import Trainer
    from ehr_train.speed import keep_freed_memory
    from ehr_train.start import write_start

    out = Path(tempfile.mkdtemp(dir=data.parent))
    steps = laps.warmup + laps.steps
    job = Job(tokens=data, out=out, init=None, labels=None, device=device(), steps=steps)
    write_start(out, config, job.resolved(None)[1], device())
    keep_freed_memory()
    learner = Trainer(job)
    tokens, waited = 0, 0.0
    order = learner.prepared(Position(epoch=number))
    if device() == "cuda":  # all sizes are known, as Trainer's are
        order = chain(islice(order, laps.warmup), learner.prepared(Position(epoch=number)))
    with Ahead(order, config.data.ahead) as ready:
        for _, prepared in zip(range(steps), ready, strict=False):
            waited += ready.waited
            tokens += learner.step(prepared).tokens
            laps.mark(tokens, waited)


def two(
    config: Any,  # noqa: ANN401 -- TrainConfig
    data: Path,
    number: int,
    warmup: int,
    steps: int,
) -> dict[str, float]:
    """The whole command on two processes of one thread each; its own log has the times."""
    from ehr_tracking.runs import read_log
    from ehr_train.config import OptimConfig
    from ehr_train.run import train

    config = replace(config, seed=number, optim=OptimConfig(lr=1e-4, steps=warmup + steps + 1))
    run = train(data, Path(tempfile.mkdtemp(dir=data.parent)) / "two", config, nproc=2)
    laps = read_log(run / "timings.jsonl")[warmup:-1]  # the last one saves a checkpoint
    seconds = sum(lap["seconds"] for lap in laps)
    tokens = sum(lap["seconds"] * lap["tokens_per_second"] for lap in laps)
    peak = max(lap["memory_mb"] for lap in laps)
    return {"tokens": tokens, "wall": tokens / seconds, "peak_mb": peak}


def apart(model: str, data: Path, number: int, steps: int) -> dict[str, float]:
    """Two processes that know nothing of each other: what two cores can give at most."""
    with ProcessPoolExecutor(2, mp_context=get_context("fork")) as pool:
        both = [pool.submit(measure, OURS, model, data, number, steps) for _ in range(2)]
        found = [process.result() for process in both]
    return {
        "wall": sum(f["wall"] for f in found),
        "peak_mb": max(f["peak_mb"] for f in found),
    }


def trainer(model: str, number: int, laps: Laps, *, grouped: bool) -> None:
    """Hugging Face's Trainer over padded batches: same model, activation, precision and optimizer."""
    from torch.utils.data import SequentialSampler
    from transformers import Trainer, TrainerCallback, TrainingArguments

    from ehr_models.registry import build

    config, warmup, steps = our_config(model), laps.warmup, laps.steps
    net = build(config.model, VOCABULARY)
    net.set_attn_implementation("sdpa")
    seen: list[int] = []
    gathered = scale().gathered

    def collate(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        pad = torch.nn.utils.rnn.pad_sequence
        ids = pad([torch.as_tensor(r["input_ids"]) for r in rows], batch_first=True)
        real = pad(
            [torch.ones(len(r["input_ids"]), dtype=torch.int64) for r in rows], batch_first=True
        )
        seen.append(int(real.sum()))
        return {"input_ids": ids, "attention_mask": real, **_asked(model, ids, real)}

    class Mark(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ANN401, ARG002
            laps.mark(sum(seen[: gathered * state.global_step]))

    class Ordered(Trainer):  # type: ignore[misc]
        def _get_train_sampler(self, *_: Any) -> Any:  # noqa: ANN401 -- torch's
            return SequentialSampler(rows)  # they lie as its own sampler would have them

    arguments = TrainingArguments(
        output_dir=tempfile.mkdtemp(), per_device_train_batch_size=scale().batch, max_steps=warmup + steps,
        bf16=config.precision == "bf16", use_cpu=device() == "cpu", optim="adamw_torch_fused", learning_rate=1e-4,
        gradient_accumulation_steps=gathered, report_to=[], save_strategy="no", logging_strategy="no",
        disable_tqdm=True, dataloader_pin_memory=False, remove_unused_columns=False,
    )  # fmt: skip
    # a CPU's kernels are compiled for every new size of a batch: other records first. A GPU's are chosen for it,
    # for more than a batch takes, and the sizes of a long run soon come again: the same first
    seed = number if device() == "cuda" else -number
    first = batches(warmup * gathered, grouped=grouped, seed=seed, scale=scale())
    chosen = [*first, *batches(steps * gathered, grouped=grouped, seed=number, scale=scale())]
    rows: Any = [{"input_ids": r} for r in chosen]
    Ordered(net, arguments, data_collator=collate, train_dataset=rows, callbacks=[Mark()]).train()


def _asked(model: str, ids: torch.Tensor, real: torch.Tensor) -> dict[str, torch.Tensor]:
    """Labels of a padded batch, and what a BEHRT embeds beside its codes."""
    if MODELS[model][0] == "gpt2":
        return {"labels": ids.masked_fill(real == 0, -100)}
    chosen = (torch.rand(ids.shape) < 0.15) & (ids > 6)
    labels = ids.masked_fill(~chosen, -100)
    ids[chosen] = 4
    zeros = torch.zeros_like(ids)
    place = torch.arange(ids.shape[1]).expand_as(ids)
    return {"labels": labels, "age": zeros.float(), "time": place, "visit": zeros, "segment": zeros}


def places() -> int:
    """GPUs, or cores where there are none: a process each."""
    return torch.cuda.device_count() or os.cpu_count() or 1
