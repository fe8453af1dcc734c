"""LoRA beside full fine-tuning, and beside peft's own wrapping under Hugging Face's Trainer.

    uv run python benchmarks/adapters.py [--quick] [--kind behrt] [--patients 1500]

Quality: a model is pretrained on a synthetic cohort; then tasks are learnt from it as a whole, by its head
alone, and by adapters, each at its own learning rate, on the same rows in the same order. Printed is the
AUROC on held-out patients of the checkpoint that was best on the tuning ones, and the bytes of what is kept.

Speed: the same BERT (transformers' class) with a pooled head learns the same rows by four contenders: ours,
packed, and Trainer, padded; each as a whole and with LoRA, there wrapped by `peft.get_peft_model`. Rounds go
in turns, each in a process of its own with one thread. Given are seconds a step, tokens a CPU second (other
work on the machine disturbs it less than wall time), and how much memory training added to its process.
"""

import sys
from pathlib import Path

sys.path.pop(0)  # this folder holds a tokenize, which is not the standard library's

import argparse
import json
import os
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import redirect_stdout
from multiprocessing import get_context
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # NumPy and torch read it when they are loaded

import numpy as np

WAYS: dict[str, list[str]] = {
    "full": ["optim.lr=3e-4"],
    "head alone": ["trained.backbone=frozen", "optim.lr=2e-3"],
    "lora": ["adapter.kind=lora", "optim.lr=2e-3"],
    "lora, all": ["adapter.kind=lora", "adapter.targets=all", "optim.lr=2e-3"],
    "dora": ["adapter.kind=dora", "optim.lr=2e-3"],
    "qlora": ["adapter.kind=qlora", "optim.lr=2e-3"],
}
"""How a task is learnt from the pretrained model; ranks are 8."""
TASKS = ("long_stay", "mortality_1y", "new_diagnosis_1y")
CONTENDERS = ("ours full", "ours lora", "trainer full", "trainer lora")
BATCH = 2048
"""Real tokens of a step of fine-tuning."""


def main() -> None:
    """Measure, print both tables, and end with one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="Smaller and fewer of everything.")
    parser.add_argument("--kind", default="behrt", help="That is pretrained for quality.")
    parser.add_argument("--patients", type=int, default=1500, help="Of the cohort (1500).")
    parser.add_argument("--rounds", type=int, default=3, help="Of each contender in speed (3).")
    args = parser.parse_args()
    load_libraries()
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        in_own_process(make_cohort, scratch, 200 if args.quick else args.patients)
        found = {
            "quality": quality(scratch, args.kind, quick=args.quick),
            "speed": speed(scratch, 1 if args.quick else args.rounds, quick=args.quick),
        }
    from ehr_tracking.report import text_table

    for rows in found.values():
        print(text_table(rows), end="\n\n")
    print(json.dumps({"benchmark": "adapters", "quick": args.quick, **found}))


def load_libraries() -> None:
    """Once, before processes fork."""
    import torch
    import transformers

    import ehr_models.checkpoint
    import ehr_train.run

    import peft  # isort: skip -- ehr_models says first what its imports shall not print

    torch.set_num_threads(1)
    _ = (
        peft.LoraConfig,
        transformers.Trainer,
        transformers.BertModel,
        ehr_models.checkpoint,
        ehr_train.run,
    )


def make_cohort(scratch: Path, patients: int) -> None:
    """A cohort, its tokens and its labels."""
    from ehr_eval.tasks.make import make_labels
    from ehr_tokenize.build.build import tokenize
    from ehr_tokenize.synthetic.cohort import synthesize
    from ehr_tokenize.synthetic.config import SynthConfig

    synthesize(scratch / "meds", SynthConfig(num_patients=patients, seed=0))
    tokenize(scratch / "meds", scratch / "tokens")
    make_labels(scratch / "meds", scratch / "labels")


# --- quality


def quality(scratch: Path, kind: str, *, quick: bool) -> list[dict[str, Any]]:
    """One row a task and way."""
    in_own_process(pretrain, scratch, kind, 10 if quick else 400)
    tasks, ways = (TASKS[:1], ("full", "lora")) if quick else (TASKS, tuple(WAYS))
    rows = []
    for task in tasks:
        found = {w: in_own_process(fine_tune, scratch, task, w, quick) for w in ways}
        whole = found["full"]["AUROC"]
        rows += [
            {"task": task, "way": way, **row, "of full": f"{row['AUROC'] / whole:.1%}"}
            for way, row in found.items()
        ]
    return rows


def pretrain(scratch: Path, kind: str, steps: int) -> None:
    """The model that all ways begin with."""
    run(
        scratch / "base",
        scratch / "tokens",
        f"model.kind={kind}",
        *(["model.size=tiny"] if kind != "behrt" else ["model.size=small"]),
        "data.context=128",
        f"data.batch_tokens={2 * BATCH}",
        f"data.micro_tokens={2 * BATCH}",
        f"optim.steps={steps}",
        "optim.lr=2e-3",
        f"validation.every={max(1, steps // 4)}",
        "validation.max_tokens=40000",
    )


def fine_tune(scratch: Path, task: str, way: str, quick: bool) -> dict[str, Any]:
    """Learn a task; what it answers of held-out patients, and what is kept."""
    from ehr_models.cost import measure

    out = scratch / f"{task}-{way}".replace(" ", "_")
    run(
        out,
        scratch / "tokens",
        "objective.kind=classification",
        "objective.pos_weight=balanced",
        "data.context=128",
        f"data.batch_tokens={BATCH}",
        f"data.micro_tokens={BATCH}",
        f"optim.epochs={1 if quick else 5}",
        "validation.every=20",
        "checkpoint.every=10000",
        *WAYS[way],
        init=scratch / "base",
        labels=scratch / "labels" / task,
    )
    cost = measure(out)
    return {
        "AUROC": round(held_out_auroc(out, scratch, task), 4),
        "trained": cost.trained,
        "bytes kept": cost.bytes_here,
        "bytes if whole": cost.bytes_full,
        "seconds a step": round(cost.seconds_a_step, 4),
    }


def held_out_auroc(out: Path, scratch: Path, task: str) -> float:
    """Of the run's best checkpoint."""
    import torch
    from sklearn.metrics import roc_auc_score

    from ehr_models.checkpoint import load_checkpoint
    from ehr_models.heads.pooled import classify

    model = load_checkpoint(out, head="pooled").model
    scores, happened = [], []
    with torch.no_grad():
        for batch, labels in batches(scratch, task, "held_out", 8192):
            scores.append(classify(model, batch)[:, 0].numpy())
            happened.append(labels)
    return float(roc_auc_score(np.concatenate(happened) > 0, np.concatenate(scores)))


def batches(
    scratch: Path, task: str, split: str, most: int
) -> Iterator[tuple[Any, "np.ndarray[Any, Any]"]]:
    """Packed batches of a task's rows in order, and their labels."""
    from itertools import pairwise

    from ehr_models.data.batch import pack
    from ehr_models.data.store import open_split
    from ehr_models.data.tokens import open_tokens
    from ehr_models.data.windows import fill, newest
    from ehr_train.data.examples import label_examples
    from ehr_train.data.labels import read_rows

    rows = open_split(open_tokens(scratch / "tokens"), split)
    examples = label_examples(read_rows(scratch / "labels" / task, "binary"), rows)
    assert examples.label is not None
    for start, stop in pairwise(fill(np.minimum(examples.visible, 128), most)):
        chosen = np.arange(start, stop)
        windows = newest(rows, examples.subject[chosen], examples.visible[chosen], 128, chosen)
        yield pack(rows, windows), examples.label[chosen]


def run(out: Path, tokens: Path, *settings: str, **inputs: Path) -> None:
    """`ehr-train`."""
    from ehr_tracking.config import load_config
    from ehr_train.config import TrainConfig
    from ehr_train.run import train

    config = load_config(TrainConfig, None, [*settings, "precision=fp32"])
    train(tokens, out, config, device="cpu", **inputs)


# --- speed


def speed(scratch: Path, rounds: int, *, quick: bool) -> list[dict[str, Any]]:
    """One row a contender, medians over rounds."""
    size, steps = ("tiny", 4) if quick else ("mini", 12)
    in_own_process(write_bert, scratch, size)
    figures: dict[str, list[dict[str, float]]] = {name: [] for name in CONTENDERS}
    for _ in range(rounds):
        for name, laps in figures.items():
            laps.append(in_own_process(measure_speed, scratch, name, steps))
    rows = []
    for name, laps in figures.items():
        middle = {key: statistics.median(lap[key] for lap in laps) for key in laps[0]}
        theirs = statistics.median(
            lap["tokens a CPU second"] for lap in figures[name.replace("ours", "trainer")]
        )
        rate = middle["tokens a CPU second"]
        rows.append({"contender": name, **middle, "to Trainer's": f"{rate / theirs:.2f}"})
    return rows


def write_bert(scratch: Path, size: str) -> None:
    """A BERT that has learnt for one step."""
    settings = ["model.kind=bert", f"model.size={size}", "data.context=128", "optim.steps=1"]
    run(scratch / "bert", scratch / "tokens", *settings, "validation.max_tokens=1000")


def measure_speed(scratch: Path, contender: str, steps: int) -> dict[str, float]:
    """Steps of a contender, the first two left out."""
    who, _, way = contender.partition(" ")
    before = _memory()
    marks = (ours if who == "ours" else theirs)(scratch, way == "lora", steps + 2)
    tokens, wall, cpu = (b - a for a, b in zip(marks[1], marks[-1], strict=True))
    return {
        "seconds a step": round(wall / steps, 4),
        "CPU seconds a step": round(cpu / steps, 4),
        "tokens a CPU second": round(tokens / cpu, 1),
        "MB added": round(_memory() - before, 1),
    }


Marks = list[tuple[int, float, float]]
"""Real tokens so far, wall and CPU seconds, at the end of each step."""


def _mark(marks: Marks, tokens: int) -> None:
    so_far = marks[-1][0] if marks else 0
    marks.append((so_far + tokens, time.perf_counter(), time.process_time()))


def ours(scratch: Path, adapted: bool, steps: int) -> Marks:
    """Steps of our trainer."""
    from ehr_tracking.checkpoints import resolve
    from ehr_tracking.config import load_config
    from ehr_train.config import TrainConfig
    from ehr_train.data.loader import Ahead
    from ehr_train.data.sampler import Position
    from ehr_train.job import Job
    from ehr_train.loop import Trainer
    from ehr_train.speed import keep_freed_memory
    from ehr_train.start import write_start

    settings = ["objective.kind=classification", "data.context=128", "precision=fp32"]
    settings += [f"data.{n}_tokens={BATCH}" for n in ("batch", "micro")]
    config = load_config(TrainConfig, None, [*settings, *(["adapter.rank=8"] if adapted else [])])
    base = resolve(scratch / "bert")
    with tempfile.TemporaryDirectory(dir=scratch) as out:
        job = Job(
            tokens=scratch / "tokens", out=Path(out), init=scratch / "bert",
            labels=scratch / "labels" / TASKS[0], device="cpu", steps=steps,
        )  # fmt: skip
        job, inputs = job.resolved(base)
        write_start(Path(out), config, inputs, "cpu")
        keep_freed_memory()
        trainer, marks = Trainer(job), Marks()
        with Ahead(trainer.prepared(Position()), config.data.ahead) as ready:
            for _, prepared in zip(range(steps), ready, strict=False):
                _mark(marks, trainer.step(prepared).tokens)
    return marks


def theirs(scratch: Path, adapted: bool, steps: int) -> Marks:
    """Steps of Hugging Face's Trainer on the same model, whole or wrapped by peft."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import Trainer, TrainerCallback, TrainingArguments

    from ehr_models.checkpoint import load_checkpoint
    from ehr_models.heads.config import PooledConfig
    from ehr_models.heads.pooled import build_classifier

    loaded = load_checkpoint(scratch / "bert")
    model: Any = build_classifier(loaded.model, 1, PooledConfig(), problem="binary")
    model.set_attn_implementation("sdpa")
    if adapted:
        lora = LoraConfig(
            r=8,
            lora_alpha=16,
            target_modules=list(loaded.kind.adapters),
            modules_to_save=["classifier"],
        )
        model = get_peft_model(model, lora)
    rows = []
    for batch, labels in batches(scratch, TASKS[0], "train", BATCH):
        lengths = batch.cu_seqlens.diff().tolist()
        pieces = {n: getattr(batch, n).split(lengths) for n in ("input_ids", "segment")}
        rows += list(zip(*pieces.values(), labels.tolist(), strict=True))
    mean = sum(len(ids) for ids, *_ in rows) / len(rows)
    marks: Marks = []
    seen: list[int] = []

    def collate(some: list[Any]) -> dict[str, torch.Tensor]:
        ids, segment, labels = zip(*some, strict=True)
        seen.append(sum(map(len, ids)))
        pad = torch.nn.utils.rnn.pad_sequence
        return {
            "input_ids": pad(ids, batch_first=True),
            "token_type_ids": pad(segment, batch_first=True),
            "attention_mask": pad([torch.ones_like(i) for i in ids], batch_first=True),
            "labels": torch.tensor(labels),
        }

    class Mark(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ANN401, ARG002
            _mark(marks, seen[state.global_step - 1])

    arguments = TrainingArguments(
        output_dir=tempfile.mkdtemp(dir=scratch), max_steps=steps, use_cpu=True, report_to=[],
        per_device_train_batch_size=max(1, round(BATCH / mean)), optim="adamw_torch_fused",
        save_strategy="no", logging_strategy="no", disable_tqdm=True, dataloader_pin_memory=False,
        remove_unused_columns=False,
    )  # fmt: skip
    Trainer(model, arguments, data_collator=collate, train_dataset=rows, callbacks=[Mark()]).train()
    return marks


def _memory() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def in_own_process(function: Callable[..., Any], *args: Any) -> Any:  # noqa: ANN401 -- any function
    """Call a function in a process of its own; what it prints goes to stderr."""
    with ProcessPoolExecutor(1, mp_context=get_context("fork")) as pool:
        return pool.submit(_to_stderr, function, *args).result()


def _to_stderr(function: Callable[..., Any], *args: Any) -> Any:  # noqa: ANN401 -- any function
    with redirect_stdout(sys.stderr):
        return function(*args)


if __name__ == "__main__":
    main()
