"""How near zero-shot risks come to the true ones, beside heads that saw labels and beside plain counts.

    uv run python benchmarks/zeroshot.py --out DIR [--world cohort] [--steps 400] [--samples 20]

In a synthetic world whose risks are known, one decoder that knows time is trained on next tokens, gaps and
queries. It is then asked the world's tasks at one time of each held-out subject: by each estimator on
futures, and by its query head; heads on its states, and on counts, learn from all labels. What is printed,
as Markdown, per way, means over tasks: the share of the way from chance to the best possible AUROC, mean
risk over the share of rows with the outcome, mean distance from the true risk, and tokens drawn a row. A
second table says how many tokens `mc` would need for each that `scope` and `reach` draw, at equal accuracy.

Whatever is there already under DIR is not made again.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
from decoders import COMMON, data, once
from scipy import stats
from scipy.special import logit
from sklearn.metrics import roc_auc_score

from ehr_eval.protocol.best import mean_share
from ehr_eval.tasks.files import read_task_file
from ehr_eval.tasks.library import of_collection

ESTIMATORS = ("mc", "scope", "reach", "direct")
OBJECTIVE = (
    "objective={kind: sum, parts: [{objective: {kind: clm}}, {objective: {kind: time}}, "
    "{objective: {kind: query, every: 16, queries: 16, codes: 8, shortest: 1, longest: 730}}]}"
)
KEY = ["subject_id", "prediction_time"]
HEADS = ("lr", "gbm")
EVAL = (
    "ks=[-1]",
    "replicates_all=1",
    "bootstraps=0",
    "heads={lr: {kind: lr, c: [1e-4, 1e-2, 1.0, 100.0]}, "
    "gbm: {kind: gbm, learning_rate: [0.1], max_depth: [3], num_leaves: [10], rounds: 50}}",
)


class Row(NamedTuple):
    """One way to a risk, over tasks."""

    way: str
    share: float
    ratio: float
    distance: float
    tokens: float


def main() -> None:
    """Make what is missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--world", default="cohort", help="cohort or sequence.")
    parser.add_argument("--patients", type=int, default=8000)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--samples", type=int, default=20)
    args = parser.parse_args()
    here = args.out / args.world
    data(here, args.world, args.patients)
    there = here / "zeroshot"
    trained = once(
        there / "run", "ehr-train", "--tokens", here / "tokens", "-s", OBJECTIVE,
        *settings("model={kind: chrono, size: tiny}", *COMMON, f"optim.steps={args.steps}"),
    )  # fmt: skip
    files = tasks(args.world)
    labels = once(
        there / "labels", "ehr-eval", "labels", "--meds", here / "meds",
        *(word for file in files for word in ("--task-file", file)), *settings("rows_per_subject=1", "transfer_hours=0"),
    )  # fmt: skip
    inputs = ("--checkpoint", trained, "--tokens", here / "tokens", "--labels", labels)
    asked = [word for file in files for word in ("--task", file)]
    for name in ESTIMATORS:
        once(
            there / name, "ehr-eval", "zeroshot", *inputs, *asked,
            "--estimator", name, "--samples", args.samples,
        )  # fmt: skip
    plain = [word for file in files if is_plain(file) for word in ("--task", file)]
    once(there / "query", "ehr-eval", "query", *inputs, *plain)
    few_shot(here, there, inputs, labels)
    names = [file.stem.removeprefix("sequence-") for file in files]
    for line in [*table(here, there, names), "", *gains(there, names, args.samples)]:
        print(line)


def settings(*values: str) -> list[str]:
    """As options."""
    return [word for value in values for word in ("-s", value)]


def tasks(world: str) -> list[Path]:
    """The files of a world's tasks."""
    return list(of_collection("sequence" if world == "sequence" else "core").values())


def is_plain(file: Path) -> bool:
    """Whether a task is what a query can ask: does something come within a horizon."""
    task = read_task_file(file)
    return task.horizon_days is not None and not (task.stop or task.given or task.window == "next")


def few_shot(here: Path, there: Path, inputs: tuple[str | Path, ...], labels: Path) -> None:
    """Heads on states and on counts."""
    states = once(there / "features", "ehr-eval", "features", *inputs)
    counts = once(
        there / "counts",
        "ehr-eval",
        "counts",
        "--meds",
        here / "meds",
        "--labels",
        labels,
        "-c",
        "configs/counts/plain.yaml",
    )
    once(
        there / "heads", "ehr-eval", "ehrshot", "--labels", labels,
        "--features", f"states={states}", "--features", f"counts={counts}", *settings(*EVAL),
    )  # fmt: skip


def table(here: Path, there: Path, names: list[str]) -> Iterator[str]:
    """Markdown: a row a way."""
    ways = {name: there / name for name in ESTIMATORS} | {"query head": there / "query/predictions"}
    risks = here / "meds" / "risks"
    rows = [
        over_tasks(way, {t: path / t / "held_out.parquet" for t in names}, risks)
        for way, path in ways.items()
    ]
    for model in ("states", "counts"):
        for head in HEADS:
            paths = {t: there / "heads/predictions" / t / model / f"{head}.parquet" for t in names}
            rows.append(over_tasks(f"{head} on {model}, all labels", paths, risks))
    yield "| way | share of the way | mean risk / outcomes | distance from the true risk | tokens a row |"
    yield "|---|---|---|---|---|"
    for row in rows:
        drawn = f"{row.tokens:,.0f}" if row.tokens else ""
        yield f"| {row.way} | {row.share:.3f} | {row.ratio:.2f} | {row.distance:.3f} | {drawn} |"


def gains(there: Path, names: list[str], samples: int) -> Iterator[str]:
    """Markdown: how many times the tokens of `mc` it takes for intervals as narrow as others have.

    Of a row with risk p, 100 futures of `mc` have the variance p (1 - p) / 100; that of the others is read
    off their intervals, which are of Student's t on the log-odds. Rows without an interval are left out.
    """
    yield "| task | scope | reach |"
    yield "|---|---|---|"
    for task in names:
        counted = pl.read_parquet(there / "mc" / task / "held_out.parquet").select(
            *KEY, mc="tokens"
        )
        cells = []
        for name in ("scope", "reach"):
            rows = pl.read_parquet(there / name / task / "held_out.parquet").join(counted, on=KEY)
            risk, upper, tokens, of_mc = (
                rows[c].cast(pl.Float64).to_numpy()
                for c in ("predicted_boolean_probability", "upper", "tokens", "mc")
            )
            told = (risk > 0) & (risk < 1) & (upper < 1) & (tokens > 0)
            spread = (logit(upper) - logit(risk))[told] * (risk * (1 - risk))[told]
            error = spread / stats.t.ppf(0.975, samples - 1)
            with np.errstate(divide="ignore"):  # futures that all say the same
                gain = (risk * (1 - risk))[told] / samples / error**2 * of_mc[told] / tokens[told]
            cells.append(f"{np.median(gain):.1f}" if told.any() else "")
        yield f"| {task} | {' | '.join(cells)} |"


def over_tasks(way: str, paths: dict[str, Path], risks: Path) -> Row:
    """Means over tasks of what a way gives for their rows."""
    pairs, ratios, distances, tokens = [], [], [], []
    for task, path in paths.items():
        if not path.is_file():
            continue
        found = pl.read_parquet(path)
        rows = found.join(pl.read_parquet(risks / f"{task}.parquet").drop("boolean_value"), on=KEY)
        assert rows.height == found.height, (task, rows.height, found.height)
        said = rows["predicted_boolean_probability"].to_numpy()
        outcome = rows["boolean_value"].to_numpy()
        pairs.append((roc_auc_score(outcome, said), roc_auc_score(outcome, rows["best_risk"])))
        ratios.append(said.mean() / outcome.mean())
        distances.append(np.abs(said - rows["true_risk"].to_numpy()).mean())
        tokens.append(rows["tokens"].to_numpy().mean() if "tokens" in rows.columns else 0.0)
    return Row(
        way, mean_share(pairs) or 0.0, *(float(np.mean(x)) for x in (ratios, distances, tokens))
    )


if __name__ == "__main__":
    main()
