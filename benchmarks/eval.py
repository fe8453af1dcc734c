"""What an evaluation costs beside the plain way to do it: one run, ratios.

    uv run python benchmarks/eval.py [--quick] [--part NAME]

Each file in benchmarks/evaluation is a part and has `measure(quick)`: rows of a table, each with `case`, `ours` and
`theirs` (CPU seconds), `ratio` (theirs / ours), `target` (the ratio that is asked for, or None) and whatever shows that
both give the same. A part runs in a process of its own, on one thread. The last line is one JSON object.
"""

import sys
from pathlib import Path

# this folder holds a tokenize, which is not the standard library's
sys.path.pop(0)
sys.path.insert(0, str(Path(__file__).resolve().parent / "evaluation"))

import argparse
import json
import os
from concurrent.futures import ProcessPoolExecutor
from importlib import import_module
from multiprocessing import get_context
from typing import Any

FOLDER = Path(__file__).resolve().parent / "evaluation"
for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "POLARS_MAX_THREADS"):
    os.environ[name] = "1"  # read when the libraries are loaded


def main() -> None:
    """Measure each part, print its table, and end with one JSON object."""
    parts = sorted(path.stem for path in FOLDER.glob("*.py"))
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="Smaller, under a minute in all.")
    parser.add_argument("--part", choices=parts, action="append", help="One part; all without.")
    args = parser.parse_args()
    found = {part: in_own_process(part, quick=args.quick) for part in args.part or parts}
    print(json.dumps({"benchmark": "eval", "quick": args.quick, "parts": found}))


def in_own_process(part: str, *, quick: bool) -> list[dict[str, Any]]:
    """The rows of a part, printed as a table."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        rows = pool.submit(run, part, quick).result()
    from ehr_tracking.report import text_table

    print(f"{part}\n{text_table(rows)}\n", flush=True)
    return rows


def run(part: str, quick: bool) -> list[dict[str, Any]]:
    """In the process of its own."""
    rows: list[dict[str, Any]] = import_module(part).measure(quick=quick)
    return rows


if __name__ == "__main__":
    main()
