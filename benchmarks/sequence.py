"""How much of the world of sequences do counts see, and how much the features that carry its risks?

    uv run python benchmarks/sequence.py [--patients 8000] [--seed 0] [--folder DIR] [--quick]

Trees on the plain count features of `ehr-eval counts` (configs/counts/plain.yaml), and a logistic regression on features made by hand from
the written events (order, recency, slope, what was given after what), are fitted on all train rows and
judged on the held-out ones by `ehr-eval ehrshot`, beside the best possible. Prints the table of
docs/synthetic.md: AUROC, and in brackets how far from chance to the best possible that is.
"""

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import meds
import numpy as np
import polars as pl
from sklearn.metrics import roc_auc_score

from ehr_tracking.arrow.features import write_features
from ehr_tracking.contracts import FEATURES
from ehr_tracking.manifest import new_artifact, seal

Record = list[tuple[datetime, str, float | None]]
"""Time, code, value of a subject's dated events."""
DRUGS = [f"MEDICATION//ATC//{x}" for x in ("C03CA01", "C07AB02", "C01BD01")]
DOSE, TREATMENT = "MEDICATION//ATC//N02AA01", "MEDICATION//ATC//J01DD04"
FLARE, FINDING = "DIAGNOSIS//ICD10CM//E11.65", "DIAGNOSIS//ICD10CM//J18.9"
LEVEL = "LAB//LOINC//718-7//g/dL"
PLAIN = ("-c", Path(__file__).parents[1] / "configs/counts/plain.yaml")
"""Counts alone: recency and trends would see what this world hides from counting."""
PROTOCOL = ["ks=[-1]", "replicates=1", "replicates_all=1", "bootstraps=0"]


def main() -> None:
    """Make the world, fit both, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--patients", type=int, default=8000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="Keep everything there.")
    parser.add_argument("--quick", action="store_true", help="1,000 subjects and fewer trees.")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        here = args.folder or Path(folder)
        patients = 1000 if args.quick else args.patients
        for line in table(here, patients, args.seed, quick=args.quick):
            print(line)


def table(here: Path, patients: int, seed: int, *, quick: bool) -> Iterator[str]:
    """The lines of a Markdown table."""
    world, counts, stated = here / "meds", here / "counts", here / "stated"
    size = ("--num-patients", patients, "--seed", seed)
    run("ehr-tokenize", "synth", "--world", "sequence", *size, "--risks", "--out", world)
    labels = world / "labels"
    run("ehr-eval", "counts", "--meds", world, "--labels", labels, "--out", counts, *PLAIN)
    write_stated(world, stated)
    few = "{kind: gbm, learning_rate: [0.1], max_depth: [3], num_leaves: [10], rounds: 50}"
    for name, features, head in (
        ("trees", counts, few if quick else "{kind: gbm}"),
        ("logistic", stated, "{kind: lr, c: [1.0, 100.0, 10000.0]}"),
    ):
        how = [x for s in (*PROTOCOL, f"heads={{only: {head}}}") for x in ("-s", s)]
        given = ("--labels", labels, "--features", f"{name}={features}", "--workers", 1)
        run("ehr-eval", "ehrshot", *given, "--out", here / name, *how, "-s", f"baseline={name}")
    yield "| task | rows | positive | AUROC best | trees on counts | stated features |"
    yield "|---|---|---|---|---|---|"
    found = {name: aurocs(here / name) for name in ("trees", "logistic")}
    shares = []
    for task, rows in best(world).items():
        auroc = float(roc_auc_score(rows["boolean_value"], rows["best_risk"]))
        both = [found[name][task] for name in ("trees", "logistic")]
        shares.append([(x - 0.5) / (auroc - 0.5) for x in both])
        cells = [f"{x:.3f} ({s:.0%})" for x, s in zip(both, shares[-1], strict=True)]
        positive = int(rows["boolean_value"].sum())
        yield f"| `{task}` | {rows.height:,} | {positive:,} | {auroc:.3f} | {' | '.join(cells)} |"
    yield f"| mean | | | | {' | '.join(f'{x:.0%}' for x in np.mean(shares, axis=0))} |"


def run(program: str, *words: object) -> None:
    """One of our commands."""
    path = Path(sys.executable).with_name(program)
    subprocess.run([path, *map(str, words)], check=True, stdout=subprocess.DEVNULL)


def best(world: Path) -> dict[str, pl.DataFrame]:
    """The held-out rows of each task with the best possible risk."""
    splits = pl.read_parquet(world / meds.subject_splits_filepath).filter(split="held_out")
    files = sorted((world / "risks").glob("*.parquet"))
    return {p.stem: pl.read_parquet(p).join(splits, on="subject_id") for p in files}


def aurocs(results: Path) -> dict[str, float]:
    """Of each task."""
    rows = pl.read_parquet(results / "results.parquet").filter(metric="auroc", replicate=0)
    return dict(rows.select("task", "value").iter_rows())


def write_stated(world: Path, out: Path) -> None:
    """Features by hand of every discharge, as `features/1`."""
    events = pl.concat(pl.read_parquet(p) for p in sorted((world / "data").rglob("*.parquet")))
    splits = pl.read_parquet(world / meds.subject_splits_filepath)
    keys, vectors = [], []
    for (subject,), rows in events.drop_nulls("time").group_by("subject_id", maintain_order=True):
        record: Record = list(rows.select("time", "code", "numeric_value").iter_rows())
        for i, (time, code, _) in enumerate(record):
            if code.startswith("HOSPITAL_DISCHARGE"):
                keys.append((subject, time))
                vectors.append(stated(record[: i + 1]))
    index = pl.DataFrame(
        keys, {"subject_id": pl.Int64, "prediction_time": pl.Datetime("us")}, orient="row"
    ).join(splits, on="subject_id", how="left", maintain_order="left")
    with new_artifact(out, FEATURES) as partial:
        written = write_features(partial, np.array(vectors, np.float32), index.to_arrow())
        seal(
            partial, FEATURES, producer="benchmarks/sequence.py", config={}, seed=0, inputs={}, rows=written
        )  # fmt: skip


def stated(past: Record) -> list[float]:
    """Order, recency, speed and response at the end of a record, on several scales."""
    now, last = past[-1][0], {code: time for time, code, _ in past}
    hours = {code: (now - time) / timedelta(hours=1) for code, time in last.items()}
    a, b, c = (hours[drug] for drug in DRUGS)
    pairs = [float(a > b), float(b > c), float(a > c)]
    together = [float(sum(pairs) == n) for n in range(4)]
    fresh = [np.exp(-hours[DOSE] / scale) for scale in (1, 2, 4, 8, 16)]
    recent = [np.exp(-hours[FLARE] / 24 / scale) for scale in (15, 30, 60, 120, 240)]
    values = [(time, value) for time, code, value in past if code == LEVEL][-3:]
    at = [(time - now) / timedelta(hours=1) for time, _ in values]
    slope = np.polyfit(at, [value for _, value in values], 1)[0]
    falling = [np.tanh(-slope / scale) for scale in (0.1, 0.2, 0.3, 0.5, 1.0)]
    delay = hours[FINDING] - hours[TREATMENT]
    in_time = [float(0 < delay <= limit) for limit in (1, 2, 3, 4, 6)]
    late = 1 - in_time[2]
    mixed = [late * (1 + x) / 2 for x in falling] + [sum(pairs) / 3 * x for x in fresh]
    return [*pairs, *together, *fresh, *recent, *falling, *in_time, *mixed]


if __name__ == "__main__":
    main()
