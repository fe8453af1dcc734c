"""Real tokens per second: ours, packed, beside Hugging Face's Trainer on padded batches.

    uv run python benchmarks/train.py [--quick]                 beside Trainer
    uv run python benchmarks/train.py --against DIR|COMMIT      this version beside another, in turns
    uv run python benchmarks/train.py --large [TOKENS]          memory and start on a large split

Beside Trainer, all train the same GPT-2 (no dropout) on the same records (log-normal lengths, median 120, cut to the
context), in bf16 where the machine has it, one contender after the other in a process of its own.
Padding counts for nobody. Trainer runs as it comes, and once over batches grouped by length. A step of
ours holds as many real tokens as one of Trainer's does on average. On a CPU every process has one
thread, and figures are also given per CPU second, which other work on the machine disturbs less; on a
GPU only wall time counts. Libraries are loaded once, before the processes fork.

The other version trains in processes of its own, one thread each, on the same tokens; rounds alternate.
The large split is written, measured and deleted (16 bytes a token, and as much for its store).
"""

import sys
from pathlib import Path

# this folder holds a tokenize, which is not the standard library's
sys.path.pop(0)
sys.path.insert(0, str(Path(__file__).resolve().parent / "training"))

import argparse
import json
import os
import resource
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import redirect_stdout
from multiprocessing import get_context
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # NumPy and torch read it when they are loaded

import numpy as np

CONTEXT, VOCABULARY, BATCH = 1024, 4096, 16
CONTENDERS = ("trainer padded", "trainer by length", "ours")
TWO = "ours, 2 processes"
GROUP = 2_000 // (4 * BATCH)
"""Batches that Trainer sorts by length at a time, with as many records as here."""


def main() -> None:
    """Measure, print a table, and end with one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="A smaller model and fewer steps.")
    parser.add_argument(
        "--against", metavar="DIR|COMMIT", help="Another version of this repository."
    )
    parser.add_argument("--rounds", type=int, default=5, help="Of each version (5).")
    parser.add_argument(
        "--large",
        type=int,
        nargs="?",
        const=500_000_000,
        metavar="TOKENS",
        help="Measure a run on a split of so many tokens (500 million).",
    )
    args = parser.parse_args()
    print(json.dumps({"machine": machine()}))
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        if args.large:
            import large

            print(json.dumps({"benchmark": "large", **large.measure(scratch, args.large)}))
        elif args.against:
            beside_another(scratch, args.against, rounds=args.rounds, quick=args.quick)
        else:
            beside_trainer(scratch, quick=args.quick)


def machine() -> dict[str, Any]:
    """What decides how fast a CPU is here: its flags, and its peaks in matrix products, one thread."""
    return in_own_process(_machine)


def _machine() -> dict[str, Any]:
    import torch

    from ehr_train.speed import matmul_peak

    torch.set_num_threads(1)
    kept = ("avx2", "avx512_bf16", "avx512_vnni", "amx_bf16", "amx_tile")
    flags = {k: bool(v) for k, v in torch.cpu.get_capabilities().items() if k in kept}
    cpu = torch.device("cpu")
    peaks = {p: round(matmul_peak(cpu, p) / 1e9, 1) for p in ("fp32", "bf16")}
    return {"flags": flags, "matmul_gflops": peaks}


def beside_another(scratch: Path, against: str, *, rounds: int, quick: bool) -> None:
    """Print how fast this version and another are."""
    import versions

    from ehr_tracking.report import text_table

    data = in_own_process(write_tokens, scratch / "tokens")
    rows = versions.compare(data, scratch, against, rounds=rounds, quick=quick)
    print(text_table(rows))
    print(json.dumps({"benchmark": "versions", "against": against, "rounds": rounds, "rows": rows}))


def beside_trainer(scratch: Path, *, quick: bool) -> None:
    """Print how fast this version and Hugging Face's Trainer are."""
    import transformers

    _ = transformers.GPT2LMHeadModel, transformers.Trainer  # loaded when they are first named
    data = in_own_process(write_tokens, scratch / "tokens")
    names = [*CONTENDERS, TWO] if _places() > 1 else CONTENDERS
    figures = {name: in_own_process(measure, name, data, quick) for name in names}
    report(figures, quick=quick)


def report(figures: dict[str, dict[str, Any]], *, quick: bool) -> None:
    """Print the table and the JSON."""
    from ehr_tracking.report import text_table

    key = "tokens_per_second" if _device() == "cuda" else "tokens_per_cpu_second"
    ours = figures["ours"][key]
    rows = [
        {"contender": name, **found, "ours / it": found[key] and round(ours / found[key], 2)}
        for name, found in figures.items()
    ]
    print(text_table(rows))
    result = {
        "benchmark": "train",
        "quick": quick,
        "device": _device(),
        "precision": our_config(quick=quick).precision,
        "figures": figures,
        "ratio_padded": ours / figures["trainer padded"][key],
        "ratio_by_length": ours / figures["trainer by length"][key],
        "ratio_padded_wall": figures["ours"]["tokens_per_second"]
        / figures["trainer padded"]["tokens_per_second"],
        "speedup_2_processes": figures[TWO]["tokens_per_second"]
        / figures["ours"]["tokens_per_second"]
        if TWO in figures
        else None,
        "target_ratio_padded": 1.5,
    }
    print(json.dumps(result))


def _device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _places() -> int:
    """GPUs, or cores where there are none: a process each."""
    import torch

    return torch.cuda.device_count() or os.cpu_count() or 1


def records() -> list[np.ndarray]:
    """The token ids of each record, [BOS] first."""
    rng = np.random.default_rng(0)
    lengths = np.exp(rng.normal(np.log(120), 1.0, 2_000)).astype(int).clip(8, CONTEXT)
    chance = 1 / np.arange(1, VOCABULARY - 6)
    ids = rng.choice(np.arange(7, VOCABULARY), int(lengths.sum()), p=chance / chance.sum())
    ids[np.concatenate([[0], np.cumsum(lengths)[:-1]])] = 5
    return np.split(ids, np.cumsum(lengths)[:-1])


def write_tokens(directory: Path) -> Path:
    """The records as a token data set."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from ehr_tracking.contracts import SPECIALS, TOKENS
    from ehr_tracking.manifest import seal

    (directory / "train").mkdir(parents=True)
    names = [*SPECIALS, *(f"C{i}" for i in range(len(SPECIALS), VOCABULARY))]
    vocabulary = pa.table({"id": pa.array(range(VOCABULARY), pa.int32()), "token": names})
    pq.write_table(vocabulary, directory / "vocab.parquet")
    (directory / "tokenizer.json").write_text("{}")
    rows = records()
    times = [[None, *range(len(r) - 1)] for r in rows]
    columns = {
        "subject_id": pa.array(range(len(rows)), pa.int64()),
        "token": pa.array(rows, pa.list_(pa.uint16())),
        "time": pa.array(times, pa.list_(pa.timestamp("us"))),
        "age": pa.array([np.zeros(len(r)) for r in rows], pa.list_(pa.float32())),
        "visit": pa.array([np.zeros(len(r)) for r in rows], pa.list_(pa.uint16())),
    }
    pq.write_table(pa.table(columns), directory / "train" / "0.parquet")
    seal(directory, TOKENS, producer="benchmark", config={})
    return directory


def in_own_process(function: Callable[..., Any], *args: Any) -> Any:  # noqa: ANN401 -- any function
    """Call a function in a fork of this process; what it prints goes to stderr."""
    with ProcessPoolExecutor(1, mp_context=get_context("fork")) as pool:
        return pool.submit(_to_stderr, function, *args).result()


def _to_stderr(function: Callable[..., Any], *args: Any) -> Any:  # noqa: ANN401 -- any function
    with redirect_stdout(sys.stderr):
        return function(*args)


def measure(contender: str, data: Path, quick: bool) -> dict[str, Any]:
    """Train for some steps; tokens per second, wall and CPU, and the peak of memory."""
    print(f"... {contender}")
    more = 10 if _device() == "cuda" else 1
    warmup = 1 if quick else 2
    padded, packed = (4, 8) if quick else (12, 48)
    if contender == TWO:
        return measure_two(data, warmup, packed * more, quick=quick)
    laps = Laps()
    if contender == "ours":
        train_ours(data, warmup + packed * more, laps, quick=quick)
    else:
        grouped = contender == "trainer by length"
        # its sampler goes from long to short within a group: a whole group is to be measured
        steps = GROUP if grouped else padded * more
        train_theirs(warmup + steps, laps, grouped=grouped, quick=quick)
    return laps.figures(warmup)


class Laps:
    """Time and real tokens of the steps after the warmup."""

    def __init__(self) -> None:
        self.marks: list[tuple[int, float, float]] = []

    def mark(self, tokens: int) -> None:
        """A step ended; `tokens` have been trained on since the start."""
        if _device() == "cuda":
            import torch

            torch.cuda.synchronize()
        self.marks.append((tokens, time.perf_counter(), time.process_time()))

    def figures(self, warmup: int) -> dict[str, Any]:
        """From the end of so many steps to the end."""
        tokens, wall, cpu = (
            b - a for a, b in zip(self.marks[warmup - 1], self.marks[-1], strict=True)
        )
        return {
            "tokens": int(tokens),
            "tokens_per_second": round(tokens / wall, 1),
            "tokens_per_cpu_second": round(tokens / cpu, 1),
            "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        }


def our_config(*, quick: bool) -> Any:  # noqa: ANN401 -- TrainConfig, imported late
    """The same model, precision and tokens a step."""
    from ehr_models.kinds.gpt2 import Gpt2ModelConfig
    from ehr_models.precision import resolve_precision
    from ehr_train.config import DataConfig, OptimConfig, TrainConfig
    from ehr_train.objectives import CLM

    mean = int(np.mean([len(r) for r in records()]))
    return TrainConfig(
        model=Gpt2ModelConfig(size="tiny" if quick else "small", dropout=0, attention_dropout=0),
        objective=CLM(),
        data=DataConfig(context=CONTEXT, batch_tokens=BATCH * mean, micro_tokens=8192),
        optim=OptimConfig(lr=1e-4, epochs=50),
        precision=resolve_precision("auto", _device()),
    )


def train_ours(data: Path, steps: int, laps: Laps, *, quick: bool) -> None:
    """The trainer's own steps, one process."""
    from ehr_train.data.loader import Ahead
    from ehr_train.data.sampler import Position
    from ehr_train.job import Job
    from ehr_train.loop import Trainer
    from ehr_train.run import write_start
    from ehr_train.speed import keep_freed_memory

    out = data.parent / "ours"
    out.mkdir()
    job = Job(tokens=data, out=out, init=None, labels=None, device=_device(), steps=steps)
    config = our_config(quick=quick)
    write_start(out, config, job.resolved(None)[1])
    keep_freed_memory()
    trainer = Trainer(job)
    tokens = 0
    with Ahead(trainer.prepared(Position()), config.data.ahead) as ready:
        for _, prepared in zip(range(steps), ready, strict=False):
            tokens += trainer.step(prepared).tokens
            laps.mark(tokens)


def measure_two(data: Path, warmup: int, steps: int, *, quick: bool) -> dict[str, Any]:
    """The whole command on two processes; its own log has the times."""
    from dataclasses import replace

    from ehr_tracking.runs import read_log
    from ehr_train.config import OptimConfig
    from ehr_train.run import train

    config = our_config(quick=quick)
    config = replace(config, optim=OptimConfig(lr=1e-4, steps=warmup + steps))
    run = train(data, data.parent / "two", config, nproc=2)
    laps = read_log(run / "timings.jsonl")[warmup:-1]  # the last one saves a checkpoint
    seconds = sum(lap["seconds"] for lap in laps)
    tokens = sum(lap["seconds"] * lap["tokens_per_second"] for lap in laps)
    return {
        "tokens": int(tokens),
        "tokens_per_second": round(tokens / seconds, 1),
        "tokens_per_cpu_second": None,
        "peak_mb": round(max(lap["memory_mb"] for lap in laps)),
    }


def train_theirs(steps: int, laps: Laps, *, grouped: bool, quick: bool) -> None:
    """Hugging Face's Trainer."""
    import torch
    from transformers import (
        GPT2Config,
        GPT2LMHeadModel,
        Trainer,
        TrainerCallback,
        TrainingArguments,
    )

    from ehr_models.kinds.gpt2 import SIZES

    ours = our_config(quick=quick)
    size = SIZES[ours.model.size]
    config = GPT2Config(
        vocab_size=VOCABULARY, n_positions=CONTEXT, n_embd=size.hidden, n_layer=size.layers,
        n_head=size.heads, n_inner=size.intermediate, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0, bos_token_id=5, eos_token_id=6,
    )  # fmt: skip
    seen = [0]

    def collate(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        longest = max(len(r["input_ids"]) for r in rows)
        ids = torch.zeros(len(rows), longest, dtype=torch.int64)
        mask = torch.zeros_like(ids)
        for i, row in enumerate(rows):
            n = len(row["input_ids"])
            ids[i, :n], mask[i, :n] = torch.as_tensor(row["input_ids"]), 1
        seen.append(int(mask.sum()))
        return {
            "input_ids": ids,
            "attention_mask": mask,
            "labels": ids.masked_fill(mask == 0, -100),
        }

    class Mark(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ANN401, ARG002
            laps.mark(sum(seen[: state.global_step + 1]))

    arguments = TrainingArguments(
        output_dir=tempfile.mkdtemp(), per_device_train_batch_size=BATCH, max_steps=steps,
        bf16=ours.precision == "bf16", use_cpu=_device() == "cpu", optim="adamw_torch_fused", learning_rate=1e-4,
        train_sampling_strategy="group_by_length" if grouped else "random",
        report_to=[], save_strategy="no", logging_strategy="no", disable_tqdm=True,
        dataloader_pin_memory=False,
    )  # fmt: skip
    rows = [{"input_ids": r.tolist()} for r in records()]
    Trainer(
        GPT2LMHeadModel._from_config(config, attn_implementation="sdpa"),
        arguments,
        data_collator=collate,
        train_dataset=rows,
        callbacks=[Mark()],
    ).train()


if __name__ == "__main__":
    main()
