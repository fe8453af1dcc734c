"""A run on a split of a billion tokens: what it holds in memory, when it begins, how long it waits for data."""

import json
import os
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np

SHARD = 25_000_000
"""Tokens of one shard; all shards hold the same records under other subjects."""
VOCABULARY = 4096
COMMAND = [sys.executable, "-c", "from ehr_train.cli import main; main()"]
SETTINGS = [
    *("model.size=tiny", "data.context=512", "optim.epochs=10", "validation.every=1000000"),
    *("checkpoint.every=1000000", "precision=fp32", "data.batch_tokens=4096"),
]
STEPS = 30
_POLL = 0.02


def write_split(directory: Path, tokens: int) -> Path:
    """A sealed token data set with so many tokens in its train split.

    Lengths are log-normal (median 300, at most 8,000), row groups hold about half a million tokens.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    from ehr_tracking.contracts import BOS_ID, SPECIALS, TOKENS
    from ehr_tracking.manifest import seal

    (directory / "train").mkdir(parents=True)
    names = [*SPECIALS, *(f"C{i}" for i in range(len(SPECIALS), VOCABULARY))]
    vocabulary = pa.table({"id": pa.array(range(VOCABULARY), pa.int32()), "token": names})
    pq.write_table(vocabulary, directory / "vocab.parquet")
    (directory / "tokenizer.json").write_text("{}")

    rng = np.random.default_rng(0)
    size = min(tokens, SHARD)
    lengths = _lengths(size // 100)
    lengths = lengths[: max(1, int(np.searchsorted(np.cumsum(lengths), size)))]
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    total = int(offsets[-1])
    token = rng.integers(len(SPECIALS), VOCABULARY, total, dtype=np.uint16)
    token[offsets[:-1]] = BOS_ID
    place = np.arange(total) - np.repeat(offsets[:-1], lengths)
    static = place < 3
    times = pa.array(place * 3_600_000_000, pa.int64(), mask=static).cast(pa.timestamp("us"))
    columns = {
        "token": pa.array(token),
        "time": times,
        "age": pa.array((place / 24).astype(np.float32)),
        "visit": pa.array((place // 20).clip(0, 60_000).astype(np.uint16)),
    }
    lists = {n: pa.ListArray.from_arrays(offsets.astype(np.int32), v) for n, v in columns.items()}
    group = max(1, len(lengths) * 500_000 // total)
    for shard in range(-(-tokens // SHARD)):
        subject = np.arange(len(lengths)) + shard * len(lengths)
        pq.write_table(
            pa.table({"subject_id": pa.array(subject), **lists}),
            directory / "train" / f"{shard:04d}.parquet",
            row_group_size=group,
            compression="zstd",
            use_dictionary=False,
        )
    seal(directory, TOKENS, producer="benchmark", config={}, workers=2)
    return directory


def watch(data: Path, out: Path, steps: int) -> dict[str, float]:
    """Run the command until it has made so many steps, and end it.

    Returns:
        Seconds to the first step, by the clock and of processors (which other work on the machine
        disturbs less), the peaks of memory of the process in MB (all, and that without
        files: anonymous), and the share of the time of all further steps that they waited for data.
    """
    settings = [part for s in SETTINGS for part in ("-s", s)]
    begin = time.perf_counter()
    process = subprocess.Popen(
        [*COMMAND, "--tokens", str(data), "--out", str(out), "--device", "cpu", *settings],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    first, used, peak, anonymous = 0.0, 0.0, 0.0, 0.0
    log = out / "metrics.jsonl"
    while process.poll() is None:
        lines = log.read_bytes().count(b"\n") if log.exists() else 0
        if lines and not first:
            first, used = time.perf_counter() - begin, _processor_seconds(process.pid)
        if lines >= steps:
            break
        status = _status(process.pid)
        peak = max(peak, status.get("VmHWM", 0))
        anonymous = max(anonymous, status.get("RssAnon", 0))
        time.sleep(_POLL)
    else:
        if process.returncode:
            raise RuntimeError(f"the run ended with code {process.returncode}")
    process.kill()
    process.wait()
    timings = [json.loads(line) for line in (out / "timings.jsonl").read_text().splitlines()[1:]]
    seconds = sum(t["seconds"] for t in timings)
    share = sum(t["waited"] for t in timings) / seconds if seconds else 0.0
    memory = {"peak_mb": peak / 1024, "anonymous_mb": anonymous / 1024}
    return {"seconds": first, "cpu_seconds": used, **memory, "loader_share": share}


def _processor_seconds(pid: int) -> float:
    """Of a process and its threads."""
    values = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(values[11]) + int(values[12])) / os.sysconf("SC_CLK_TCK")


def _status(pid: int) -> dict[str, int]:
    """The figures of a process, in kB."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return {}
    split = (line.split() for line in lines if line.endswith(" kB"))
    return {name.rstrip(":"): int(value) for name, value, _ in split}


def order(subjects: int) -> dict[str, float]:
    """What the order of the steps of so many subjects costs; of their tokens there are the offsets alone."""
    from ehr_models.data.tokens import Tokens
    from ehr_train.data.examples import whole_records
    from ehr_train.data.sampler import Position, Sampler

    offsets = np.concatenate([[0], np.cumsum(_lengths(subjects))])
    each, none = np.broadcast_to(np.uint32(3), subjects), np.zeros(0, np.uint8)
    tokens = Tokens(np.broadcast_to(np.int64(0), subjects), offsets, each, *[none] * 5)

    def sampler() -> Sampler:
        made = Sampler(whole_records(tokens), 512, "random", 16_384, 0)
        next(made.steps(Position()))
        return made

    begin = time.process_time()
    made = sampler()
    first = time.process_time()
    steps = made.steps_an_epoch
    counted = time.process_time()
    next(made.steps(Position(3, made.blocks // 2, 99)))
    resumed = time.process_time()
    tracemalloc.start()
    sampler()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return {
        "subjects": subjects,
        "tokens": int(offsets[-1]),
        "cpu_seconds_to_first_step": round(first - begin, 2),
        "cpu_seconds_to_count_an_epoch": round(counted - first, 2),
        "cpu_seconds_to_a_step_within_epoch_3": round(resumed - counted, 2),
        "share_of_budget_filled": round(made.tokens / steps / made.batch, 5),
        "peak_memory_mb": round(peak / 1e6, 1),
    }


def _lengths(subjects: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    return np.exp(rng.normal(np.log(300), 1.0, subjects)).astype(np.int64).clip(3, 8_000)


def measure(scratch: Path, tokens: int) -> dict[str, Any]:
    """A large split beside a small one: what the size costs."""
    small = write_split(scratch / "small", 200_000)
    begin = time.perf_counter()
    large = write_split(scratch / "large", tokens)
    written = time.perf_counter() - begin
    base = watch(small, scratch / "base", STEPS)
    cold = watch(large, scratch / "cold", STEPS)
    warm = watch(large, scratch / "warm", STEPS)
    store = sum(p.stat().st_size for p in (scratch / ".large.store").rglob("*.safetensors"))
    figures: dict[str, Any] = {
        "tokens": tokens,
        "seconds_to_write_the_split": round(written, 1),
        "store_bytes_per_token": round(store / tokens, 1),
        "small_split": {k: round(v, 4) for k, v in base.items()},
    }
    for name, found in (("store_built", cold), ("store_there", warm)):
        figures[name] = {
            "seconds_to_first_step": round(found["seconds"], 1),
            "cpu_seconds_to_first_step": round(found["cpu_seconds"], 1),
            "cpu_seconds_above_small": round(found["cpu_seconds"] - base["cpu_seconds"], 1),
            "peak_mb": round(found["peak_mb"]),
            "peak_above_small_mb": round(found["peak_mb"] - base["peak_mb"]),
            "anonymous_above_small_mb": round(found["anonymous_mb"] - base["anonymous_mb"]),
            "loader_share": round(found["loader_share"], 4),
        }
    figures["order"] = [order(subjects) for subjects in (2_000_000, 20_000_000)]
    return figures
