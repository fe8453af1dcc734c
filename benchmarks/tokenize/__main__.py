"""MEDS on disk to sealed tokens on disk, fit included, beside two other ways to do it, in one go.

    uv run python benchmarks/tokenize [--quick]

All are run on the same files, as the processes that a user would start:

- ours: `ehr-tokenize --meds ... --out ...`, one thread;
- stages: a MEDS_transforms pipeline of seven stages on one worker (polars threads as it likes), as
  many start their models from; it ends with normalised values and code indices, one file a shard,
  and neither lays out sequences nor seals anything;
- loop: the tokens that ours writes, made subject by subject in Python (`subject_loop.py`); that
  both agree is checked here.

Data: the MIMIC-IV demo as it is, and 20 and 80 times with new subject ids (100 files); where it is
absent, a synthetic cohort. Beside the ratios: memory, the time that merely reading the four columns
takes, the exponent with which our time grows, and the time of the event API.
"""

import argparse
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import polars as pl
import pyarrow.parquet as pq

from ehr_tracking.report import text_table

SCRIPTS = Path(sys.executable).parent
COLUMNS = ["subject_id", "time", "code", "numeric_value"]
COPIES = (1, 20, 80)
PIPELINE = """
input_dir: {meds}
output_dir: {out}
polling_time: 1
stages:
  - filter_subjects: {{min_events_per_subject: 1}}
  - add_time_derived_measurements:
      age: {{DOB_code: MEDS_BIRTH, age_code: AGE, age_unit: years}}
      time_of_day: {{time_of_day_code: TIME_OF_DAY, endpoints: [6, 12, 18, 24]}}
  - fit_outlier_detection:
      _base_stage: aggregate_code_metadata
      aggregations: [values/n_occurrences, values/sum, values/sum_sqd]
  - occlude_outliers: {{stddev_cutoff: 4.5}}
  - fit_normalization:
      _base_stage: aggregate_code_metadata
      aggregations: [code/n_occurrences, code/n_subjects, values/n_occurrences, values/sum, values/sum_sqd]
  - fit_vocabulary_indices
  - normalization
"""


class Cost(NamedTuple):
    """Of one process."""

    wall: float
    cpu: float
    peak_mb: float


def main() -> None:
    """Measure, print tables, and end with one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="The smallest data set only.")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        name, meds = data_set(root)
        rows = []
        for times in COPIES[:1] if args.quick else COPIES:
            data = meds if times == 1 else repeated(meds, root / f"x{times}", times)
            rows.append(measure(f"{name} x{times}", data, root))
            print(text_table([{k: v for k, v in rows[-1].items() if "cpu" not in k}]), flush=True)
        api = event_api(root / "tokens")
    growth = exponent(rows)
    print(json.dumps({
        "benchmark": "tokenize", "cores": os.cpu_count(), "rows": rows,
        "exponent": growth, "event_api_ms_per_100_events": api,
    }))  # fmt: skip


def data_set(root: Path) -> tuple[str, Path]:
    """The MIMIC-IV demo, else a synthetic cohort."""
    beside = Path(__file__).parents[3] / "shared" / "data"
    demo = Path(os.environ.get("EHR_REAL_DATA", beside)) / "meds" / "mimic-iv-demo"
    if demo.is_dir():
        return "mimic-iv-demo", demo
    run(SCRIPTS / "ehr-tokenize", "synth", "--num-patients", 2000, "--out", root / "synthetic")
    return "synthetic 2000", root / "synthetic"


def repeated(meds: Path, out: Path, times: int) -> Path:
    """The data set several times over, each copy with subject ids of its own.

    Train has a file for each copy, a smaller split one for every eight copies.
    """
    for path in sorted((meds / "data").glob("**/*.parquet")):
        frame = pl.read_parquet(path)
        each = 1 if "train" in path.parts or path.parent.name == "data" else 8
        for start in range(0, times, each):
            target = out / path.relative_to(meds).with_name(f"{path.stem}-{start}.parquet")
            target.parent.mkdir(parents=True, exist_ok=True)
            copies(frame, range(start, min(start + each, times))).write_parquet(target)
    shutil.copytree(meds / "metadata", out / "metadata")
    splits = Path("metadata/subject_splits.parquet")
    copies(pl.read_parquet(meds / splits), range(times)).write_parquet(out / splits)
    return out


def copies(frame: pl.DataFrame, numbers: range) -> pl.DataFrame:
    """A table several times over."""
    shift = 10**9
    return pl.concat(frame.with_columns(pl.col("subject_id") + i * shift) for i in numbers)


def measure(name: str, meds: Path, root: Path) -> dict[str, object]:
    """Ours before and after the others, so that a busy moment does not decide."""
    from ehr_tokenize.build.build import tokenize

    files = sorted((meds / "data").glob("**/*.parquet"))
    events = sum(pq.read_metadata(path).num_rows for path in files)
    tokens, work, loop_out = root / "tokens", root / "work", root / "loop"
    command = [SCRIPTS / "ehr-tokenize", "--meds", meds, "--out", tokens, "--overwrite"]
    pipeline = root / "pipeline.yaml"
    pipeline.write_text(PIPELINE.format(meds=meds, out=work), encoding="utf-8")
    for left in (work, loop_out):
        shutil.rmtree(left, ignore_errors=True)
    costs = [run(*command)]
    stages = run(SCRIPTS / "MEDS_transform-pipeline", pipeline)
    costs.append(run(*command))
    loop = run(sys.executable, Path(__file__).parent / "subject_loop.py", meds, loop_out)
    costs.append(run(*command))
    check_same(tokens, loop_out)
    ours = sorted(costs)[1]
    inside = min(seconds(lambda: tokenize(meds, tokens, overwrite=True)) for _ in range(2))
    reading = min(seconds(lambda: read(files)) for _ in range(3))
    return {
        "data": name,
        "files": len(files),
        "events": events,
        "ours_s": round(ours.wall, 2),
        "stages_s": round(stages.wall, 2),
        "loop_s": round(loop.wall, 2),
        "stages/ours": round(stages.wall / ours.wall, 1),
        "loop/ours": round(loop.wall / ours.wall, 1),
        "ours_in_process_s": round(inside, 2),
        "ours_events/s": round(events / ours.wall),
        "read_rows/s": round(events / reading),
        "read_share": round(reading / ours.wall, 3),
        "ours_peak_mb": round(ours.peak_mb),
        "stages_peak_mb": round(stages.peak_mb),
        "loop_peak_mb": round(loop.peak_mb),
        "ours_cpu_s": round(ours.cpu, 2),
        "stages_cpu_s": round(stages.cpu, 2),
        "loop_cpu_s": round(loop.cpu, 2),
        "stages/ours_cpu": round(stages.cpu / ours.cpu, 1),
        "loop/ours_cpu": round(loop.cpu / ours.cpu, 1),
        "stages/ours_in_process": round(stages.wall / inside, 1),
    }


def run(*command: object) -> Cost:
    """Run a command to its end; its output only matters where it fails."""
    path = f"{SCRIPTS}:{os.environ['PATH']}"  # a pipeline calls its stages by bare name
    with tempfile.TemporaryFile() as said:
        start = time.perf_counter()
        process = subprocess.Popen(
            [str(c) for c in command], stdout=said, stderr=said, env=os.environ | {"PATH": path}
        )
        _, status, used = os.wait4(process.pid, 0)  # with its own children, which it waited for
        wall = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            said.seek(0)
            sys.exit(f"{command[0]} failed:\n{said.read().decode()[-3000:]}")
    return Cost(wall, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024)


def seconds(work: Callable[[], object]) -> float:
    """Of a call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def read(files: list[Path]) -> None:
    """The four columns, one thread, and nothing else."""
    for path in files:
        with pq.ParquetFile(path, read_dictionary=["code"]) as file:
            for _ in file.iter_batches(1 << 20, columns=COLUMNS, use_threads=False):
                pass


def check_same(tokens: Path, loop: Path) -> None:
    """Both made the same tokens."""
    for path in loop.glob("*.parquet"):
        theirs = pq.read_table(path, columns=["subject_id", "token"])
        ours = pq.read_table(tokens / path.stem, columns=["subject_id", "token"])
        for name in ("subject_id", "token"):
            if ours[name].to_pylist() != theirs[name].to_pylist():
                sys.exit(f"{path.stem}: the tokens of the loop differ from ours")


def event_api(tokens: Path) -> float:
    """Milliseconds for 100 events, in a process that holds nothing of what was measured before."""
    command = [sys.executable, Path(__file__).parent / "event_api.py", tokens]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def exponent(rows: list[dict[str, object]]) -> float | None:
    """How our time in process grows: the b of time ~ events^b, from the first size to the last."""
    if len(rows) < 2:
        return None
    a, b = rows[0], rows[-1]
    grown = math.log(b["ours_in_process_s"] / a["ours_in_process_s"])
    return round(grown / math.log(b["events"] / a["events"]), 2)


if __name__ == "__main__":
    main()
