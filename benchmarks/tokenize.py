"""Events per second: ours, MEDS on disk to sealed tokens, beside a MEDS_transforms pipeline.

    uv run python benchmarks/tokenize.py [--quick]

Both run on the same files in one go, each as the processes that a user would start, fit included.
Theirs is the usual pre-processing of seven stages on one worker (polars threads as it likes); it
ends with normalised values and code indices, one file a shard, and neither lays out sequences nor
seals anything. Ours runs with one thread. Data: the MIMIC-IV demo as it is, and repeated with new
subject ids; where it is absent, a synthetic cohort.
"""

import sys

sys.path.pop(0)  # this folder: `import tokenize` of the standard library must not find this file

import argparse
import json
import os
import resource
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import polars as pl

from ehr_tracking.report import text_table

SCRIPTS = Path(sys.executable).parent
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


def main() -> None:
    """Measure, print a table, and end with one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="The smallest data set only.")
    parser.add_argument("--repeat", type=int, default=20, help="Copies of the demo (full run).")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        name, meds = data_set(root)
        rows = [measure(name, meds, root)]
        if not args.quick:
            rows.append(measure(f"{name} x{args.repeat}", repeated(meds, root, args.repeat), root))
    print(text_table([{k: v for k, v in row.items() if "cpu" not in k} for row in rows]))
    print(json.dumps({"benchmark": "tokenize", "cores": os.cpu_count(), "rows": rows}))


def data_set(root: Path) -> tuple[str, Path]:
    """The MIMIC-IV demo, else a synthetic cohort."""
    beside = Path(__file__).parents[2] / "shared" / "data"
    demo = Path(os.environ.get("EHR_REAL_DATA", beside)) / "meds" / "mimic-iv-demo"
    if demo.is_dir():
        return "mimic-iv-demo", demo
    run(SCRIPTS / "ehr-tokenize", "synth", "--num-patients", 2000, "--out", root / "synthetic")
    return "synthetic 2000", root / "synthetic"


def repeated(meds: Path, root: Path, times: int) -> Path:
    """The data set several times over, each copy with subject ids of its own."""
    out = root / "repeated"
    for path in sorted((meds / "data").glob("**/*.parquet")):
        target = out / path.relative_to(meds)
        target.parent.mkdir(parents=True, exist_ok=True)
        copies(path, times).write_parquet(target)
    shutil.copytree(meds / "metadata", out / "metadata")
    splits = Path("metadata/subject_splits.parquet")
    copies(meds / splits, times).write_parquet(out / splits)
    return out


def copies(path: Path, times: int) -> pl.DataFrame:
    """A table several times over."""
    frame = pl.read_parquet(path)
    shift = 10 ** len(str(frame["subject_id"].max()))
    return pl.concat(frame.with_columns(pl.col("subject_id") + i * shift) for i in range(times))


def measure(name: str, meds: Path, root: Path) -> dict[str, object]:
    """Ours, theirs, ours again (so that a busy moment does not decide), and ours in process."""
    from ehr_tokenize.driver import tokenize

    events = sum(
        pl.scan_parquet(p).select(pl.len()).collect().item()
        for p in (meds / "data").glob("**/*.parquet")
    )
    tokens, work = root / "tokens", root / "work"
    command = [SCRIPTS / "ehr-tokenize", "--meds", meds, "--out", tokens, "--overwrite"]
    pipeline = root / "pipeline.yaml"
    pipeline.write_text(PIPELINE.format(meds=meds, out=work), encoding="utf-8")
    ours = [timed(lambda: run(*command))]
    shutil.rmtree(work, ignore_errors=True)
    theirs = timed(lambda: run(SCRIPTS / "MEDS_transform-pipeline", pipeline))
    ours += [timed(lambda: run(*command)) for _ in range(2)]
    inside = min(timed(lambda: tokenize(meds, tokens, overwrite=True))[0] for _ in range(3))
    wall, cpu = sorted(ours)[len(ours) // 2]
    return {
        "data": name,
        "events": events,
        "ours_seconds": round(wall, 3),
        "ours_events_per_second": round(events / wall),
        "ours_in_process_seconds": round(inside, 3),
        "ours_in_process_events_per_second": round(events / inside),
        "theirs_seconds": round(theirs[0], 3),
        "theirs_events_per_second": round(events / theirs[0]),
        "ratio": round(theirs[0] / wall, 2),
        "ratio_in_process": round(theirs[0] / inside, 2),
        "ours_cpu_seconds": round(cpu, 3),
        "theirs_cpu_seconds": round(theirs[1], 3),
        "ratio_cpu": round(theirs[1] / cpu, 2),
    }


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Wall and CPU seconds of the processes that some work starts."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    work()
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def run(*command: object) -> None:
    """Run a command; its output only matters where it fails."""
    path = f"{SCRIPTS}:{os.environ['PATH']}"  # a pipeline calls its stages by bare name
    done = subprocess.run(
        [str(c) for c in command], capture_output=True, text=True, check=False,
        env=os.environ | {"PATH": path},
    )  # fmt: skip
    if done.returncode:
        sys.exit(f"{command[0]} failed:\n{done.stderr[-3000:]}")


if __name__ == "__main__":
    main()
