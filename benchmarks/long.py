"""What the longest records take: memory of training, features, perplexity and the analysis by length.

    uv run python benchmarks/long.py [--quick] [--tokens 16384] [--model llama-tiny] [--out DIR]

Records of that many tokens, whole in one window, in fp32 on a CPU: each command runs in a process of its own, and the
table has the largest memory of that process. What is there already under DIR is not made again.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl

from ehr_tracking.report import text_table

SPLIT = ("train", "train", "tuning", "held_out")
"""Of the subjects, in turns."""
_CODES = 200
_MAIN = "import sys; from {0}.cli import main; sys.argv[0] = '{1}'; main()"


def main() -> None:
    """Run the commands and print a table, and one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=16_384, help="Of a record (16384).")
    parser.add_argument("--model", default="llama-tiny", help="KIND-SIZE (llama-tiny).")
    parser.add_argument("--steps", type=int, default=4, help="Of training (4).")
    parser.add_argument(
        "--out", type=Path, help="Where it is made; a folder that goes if not given."
    )
    parser.add_argument("--quick", action="store_true", help="Records of 1,024 tokens, one step.")
    args = parser.parse_args()
    if args.quick:
        args.tokens, args.steps = 1024, 1
    with tempfile.TemporaryDirectory() as scratch:
        found = measure(args, args.out or Path(scratch))
    print(text_table(found))
    print(
        json.dumps({"benchmark": "long", "tokens": args.tokens, "model": args.model, "rows": found})
    )


def measure(args: argparse.Namespace, root: Path) -> list[dict[str, object]]:
    """A row a command: seconds and MB."""
    write_data(root, args.tokens)
    tokens, labels, meds = root / "tokens", root / "labels", root / "meds"
    once(tokens, "ehr-tokenize", "--meds", meds)
    kind, _, size = args.model.partition("-")
    length = f"data.context={args.tokens}"
    window = [length, f"data.batch_tokens={args.tokens}", f"data.micro_tokens={args.tokens}"]
    plan = [f"optim.steps={args.steps}", f"validation.every={args.steps}", "optim.epochs=null"]
    model = [f"model.kind={kind}", f"model.size={size}", f"model.max_positions={args.tokens}"]
    settings = [*window, *plan, *model, "objective.kind=clm"]
    train = ["ehr-train", "--tokens", tokens, "--device", "cpu", *said(settings)]
    run, read = root / args.model, ["--tokens", tokens, "--labels", labels]
    asked = ["--meds", meds, "--labels", labels, "--tokens", tokens]
    rows = [
        once(run, *train),
        once(root / f"{args.model}-recompute", *train, *said(["recompute=true"])),
        once(root / "features", "ehr-eval", "features", "--checkpoint", run, *read),
        once(root / "perplexity", "ehr-eval", "perplexity", f"--checkpoint={args.model}={run}", "--tokens", tokens,
             *said([f"stride={args.tokens // 2}", "least_subjects=1"])),
        once(root / "adopted", "ehr-eval", "adopt", root / "theirs.csv", "--labels", labels, "--meds", meds),
        once(root / "strata", "ehr-eval", "strata", *asked, f"--predictions=theirs={root / 'adopted'}",
             *said(["bootstraps=20"])),
    ]  # fmt: skip
    known = pl.read_parquet(root / "strata" / "rows.parquet").filter(measure="tokens")["value"]
    print(f"held-out rows know up to {known.cast(pl.Int64).max()} tokens")
    return [row for row in rows if row]


def said(settings: list[str]) -> list[str]:
    """As options of a command."""
    return [word for setting in settings for word in ("-s", setting)]


def once(out: Path, *words: object) -> dict[str, object]:
    """Run a command whose result is not there; seconds, and MB of its process."""
    if out.exists():
        return {}
    command, *rest = map(str, words)
    call = [sys.executable, "-c", _MAIN.format(command.replace("-", "_"), command)]
    began = time.perf_counter()
    process = subprocess.Popen([*call, *rest, "--out", str(out)], stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    if os.waitstatus_to_exitcode(status):
        sys.exit(f"{command} {out.name} failed")
    return {
        "what": out.name,
        "s": round(time.perf_counter() - began, 1),
        "MB": round(used.ru_maxrss / 1024),
    }


def write_data(root: Path, tokens: int) -> None:
    """Records of so many tokens in MEDS, labels in the middle and at their end, and somebody's probabilities."""
    if (root / "theirs.csv").exists():
        return
    rng, start = np.random.default_rng(0), datetime(2020, 1, 1)  # noqa: DTZ001 -- MEDS times have no zone
    events: list[tuple[object, ...]] = []
    labels: list[tuple[int, datetime, bool]] = []
    count = tokens - 2  # [BOS] and [EOS] stand about them
    for subject in range(8):
        code = rng.integers(0, _CODES, count).tolist()
        events += [(subject, start + timedelta(minutes=i), f"C//{c}") for i, c in enumerate(code)]
        labels += [
            (subject, start + timedelta(minutes=at), bool((subject // 4 + half) % 2))
            for half, at in enumerate((count // 2, count))
        ]
    people = [(subject, SPLIT[subject % 4]) for subject in range(8)]
    for path, rows, columns in (
        ("meds/data/0", events, ("subject_id", "time", "code")),
        ("meds/metadata/subject_splits", people, ("subject_id", "split")),
        ("labels/task/labels", labels, ("subject_id", "prediction_time", "boolean_value")),
    ):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        frame = pl.DataFrame(rows, list(columns), orient="row")
        frame.write_parquet(root / f"{path}.parquet")
    lines = [f"{s},{t.isoformat()},{rng.random():.3f}" for s, t, _ in labels]
    header = "subject_id,prediction_time,predicted_boolean_probability"
    (root / "theirs.csv").write_text("\n".join([header, *lines]) + "\n")


if __name__ == "__main__":
    main()
