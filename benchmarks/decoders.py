"""Which decoder, which way of telling time, and which objective: few-shot AUROC at equal compute.

    uv run python benchmarks/decoders.py --out DIR [--world cohort] [--recipes "gpt2;chrono"] [--seeds 3]

Each recipe is pretrained on the same tokens by `ehr-train`, for as many steps as take the CPU time that
`--steps` steps of the first recipe take: seconds a step are measured before. Its features then go through
`ehr-eval ehrshot` beside plain counts. What is printed, as Markdown: of each recipe the share of the way from
chance to the best possible AUROC, mean over tasks, and its deviation over seeds.

Whatever is there already under DIR is not made again, so that it goes on where it was.
"""

import argparse
import json
import os
import resource
import subprocess
import sysconfig
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median

import numpy as np
import polars as pl
from sklearn.metrics import roc_auc_score

from ehr_eval.protocol.best import mean_share

CLM = "objective={kind: clm}"


def summed(kind: str, weight: float = 1.0, **more: object) -> str:
    """Next tokens, and one more objective with its weight."""
    fields = json.dumps({"kind": kind, **more})
    parts = f"[{{objective: {{kind: clm}}}}, {{objective: {fields}, weight: {weight}}}]"
    return f"objective={{kind: sum, parts: {parts}}}"


RECIPES: dict[str, tuple[str, ...]] = {
    "gpt2": ("model={kind: gpt2, size: tiny}", CLM),
    "llama": ("model={kind: llama, size: tiny}", CLM),
    "gpt2_moe": ("model={kind: gpt2_moe, size: tiny}", CLM),
    "chrono, order": (
        "model={kind: chrono, size: tiny, positions: order, age: none, time: none}",
        CLM,
    ),
    "chrono, time": ("model={kind: chrono, size: tiny, positions: time}", CLM),
    "chrono": ("model={kind: chrono, size: tiny}", CLM),
    "chrono + time": ("model={kind: chrono, size: tiny}", summed("time")),
    "chrono + events": ("model={kind: chrono, size: tiny}", summed("events")),
    "chrono, events alone": ("model={kind: chrono, size: tiny}", "objective={kind: events}"),
}
"""Name -> what is set of a training; tokens of a step and learning rate are the same for all."""
COMMON = (
    "data={context: 512, batch_tokens: 8192, micro_tokens: 4096}",
    "optim.lr=4e-3",
    "validation.every=400",
    "checkpoint={every: 400, keep: 1}",
)
KS = (4, 16, 64, -1)
EVAL = (
    f"ks={list(KS)}",
    "replicates=5",
    "replicates_all=1",
    "bootstraps=0",
    "heads={lr: {kind: lr, c: [1e-4, 1e-3, 1e-2, 0.1, 1.0, 100.0]}, "
    "gbm: {kind: gbm, learning_rate: [0.1], max_depth: [3], num_leaves: [10], rounds: 50}}",
)
PROBE, ROUNDS = (10, 40), 3
"""Steps of the two short trainings whose difference tells seconds a step."""


def main() -> None:
    """Make what is missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--world", default="cohort", help="cohort or sequence.")
    parser.add_argument("--patients", type=int, default=8000)
    parser.add_argument("--steps", type=int, default=400, help="Of the first recipe (400).")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--recipes", default="gpt2;chrono", help=f"Of {', '.join(RECIPES)}.")
    args = parser.parse_args()
    names = [name.strip() for name in args.recipes.split(";")]
    here = args.out / args.world
    data(here, args.world, args.patients)
    evaluated(here, "counts", [here / "counts" / "features"])
    seconds = costs(here, names)
    for name in names:
        steps = round(args.steps * seconds[names[0]] / seconds[name])
        made = [features(here, name, seed, steps) for seed in range(args.seeds)]
        evaluated(here, name, made)
        evaluated(here, beside(name), [joined(here, path) for path in made])
    for line in table(here, ["counts", *names, *map(beside, names)], seconds, args.seeds):
        print(line)


def run(*words: object) -> float:
    """Run one of our commands; CPU seconds that it took."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [str(Path(sysconfig.get_path("scripts")) / str(words[0])), *map(str, words[1:])]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=os.environ)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def once(out: Path, *words: object) -> Path:
    """Run a command unless what it makes is there."""
    if not (out / "manifest.json").is_file():
        run(*words, "--out", out)
    return out


def data(here: Path, world: str, patients: int) -> None:
    """The cohort with its risks, tokens, labels and counts."""
    synth = ["-c", "configs/synth/demo.yaml"] if world == "cohort" else ["--world", world]
    if not (here / "meds" / "metadata").is_dir():
        run("ehr-tokenize", "synth", *synth, "--num-patients", patients, "--risks",
            "--out", here / "meds")  # fmt: skip
    once(
        here / "tokens",
        "ehr-tokenize",
        "--meds",
        here / "meds",
        "-c",
        "configs/tokenize/joint.yaml",
    )
    once(
        here / "counts" / "features",
        "ehr-eval",
        "counts",
        "--meds",
        here / "meds",
        "--labels",
        here / "meds/labels",
        "-c",
        "configs/counts/plain.yaml",
    )


def training(here: Path, name: str) -> Iterator[str | Path]:
    """The options of a training but seed and length."""
    yield from ("--tokens", here / "tokens")
    for setting in (*COMMON, *RECIPES[name]):
        yield from ("-s", setting)


def costs(here: Path, names: Sequence[str]) -> dict[str, float]:
    """CPU seconds a step of each recipe: the median of rounds that go through all of them."""
    path = here / "seconds.json"
    found: dict[str, list[float]] = json.loads(path.read_text()) if path.is_file() else {}
    missing = [name for name in names if name not in found]
    for name in [*missing] * ROUNDS:
        took = [
            run("ehr-train", *training(here, name), "-s", f"optim.steps={steps}",
                "-s", "validation.max_tokens=512", "--out", here / "probe", "--overwrite")
            for steps in PROBE
        ]  # fmt: skip
        found.setdefault(name, []).append((took[1] - took[0]) / (PROBE[1] - PROBE[0]))
    path.write_text(json.dumps(found, indent=1))
    return {name: median(found[name]) for name in names}


def features(here: Path, name: str, seed: int, steps: int) -> Path:
    """Those of a model that is trained for so many steps."""
    trained = here / slug(name) / f"run-{seed}"
    once(
        trained,
        "ehr-train",
        *training(here, name),
        "-s",
        f"optim.steps={steps}",
        "-s",
        f"seed={seed}",
    )
    return once(
        here / slug(name) / f"features-{seed}",
        "ehr-eval", "features", "--checkpoint", trained, "--tokens", here / "tokens",
        "--labels", here / "meds/labels",
    )  # fmt: skip


def beside(name: str) -> str:
    """What a recipe is called whose features have counts beside them."""
    return f"{name} & counts"


def joined(here: Path, path: Path) -> Path:
    """Features with counts beside them."""
    out = path.with_name(path.name.replace("features", "joined"))
    return once(
        out, "ehr-eval", "join", "--features", path, "--features", here / "counts" / "features"
    )


def evaluated(here: Path, name: str, made: Sequence[Path]) -> None:
    """Few-shot results of features of each seed."""
    given = [word for seed, path in enumerate(made) for word in ("--features", f"s{seed}={path}")]
    settings = [word for setting in EVAL for word in ("-s", setting)]
    once(
        here / slug(name) / f"results-{len(made)}",
        "ehr-eval", "ehrshot", "--labels", here / "meds/labels", "--risks", here / "meds/risks",
        "-s", "baseline=s0", *given, *settings,
    )  # fmt: skip


def table(here: Path, names: Sequence[str], seconds: dict[str, float], seeds: int) -> Iterator[str]:
    """Markdown: a row a recipe and head."""
    yield f"| recipe | head | CPU s a step | {' | '.join('all' if k == -1 else f'k={k}' for k in KS)} |"
    yield f"|---|---|---|{'---|' * len(KS)}"
    for name in names:
        number = 1 if name == "counts" else seeds
        found = pl.read_parquet(here / slug(name) / f"results-{number}" / "results.parquet")
        best = best_possible(here / "meds" / "risks")
        cpu = f"{seconds[name]:.2f}" if name in seconds else ""
        for head in ("lr", "gbm"):
            cells = [
                shares(found.filter(metric="auroc", replicate=-1, head=head, k=k), best) for k in KS
            ]
            yield f"| {name} | {head} | {cpu} | {' | '.join(cells)} |"


def best_possible(risks: Path) -> dict[str, float]:
    """Task -> AUROC of the best possible risks of its rows."""
    tables = {path.stem: pl.read_parquet(path) for path in sorted(risks.glob("*.parquet"))}
    return {
        task: float(roc_auc_score(t["boolean_value"], t["best_risk"])) for task, t in tables.items()
    }


def shares(scores: pl.DataFrame, best: dict[str, float]) -> str:
    """Mean over seeds of the mean share over tasks, and its deviation."""
    of_seed = [
        mean_share((s["value"], best[s["task"]]) for s in part.iter_rows(named=True))
        for _, part in scores.group_by("model")
    ]
    values = np.array([value for value in of_seed if value is not None])
    spread = f" ± {values.std(ddof=1):.3f}" if len(values) > 1 else ""
    return f"{values.mean():.3f}{spread}"


def slug(name: str) -> str:
    """As a folder is called."""
    return name.replace(" + ", "-").replace(", ", "-").replace(" & ", "-with-").replace(" ", "-")


if __name__ == "__main__":
    main()
