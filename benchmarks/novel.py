"""Do vectors made from the hierarchy of codes help where codes are novel?

    uv run python benchmarks/novel.py [--patients 400] [--steps 60] [--seeds 3] [--novel 0.3]

A synthetic cohort writes a share of its diagnoses and medication in novel codes, each rare. Vectors in
ClinVec's shape are made of the hierarchy of the known codes alone: that of a code is the sum of a random
vector for itself and one for each code above it. A BEHRT is pretrained by masking from four starts, and
judged on masked tokens of the held-out split, those of novel codes apart.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from ehr_models.checkpoint import load_checkpoint
from ehr_models.codes.clinvec import NTYPES, WIDTH
from ehr_models.codes.command import init
from ehr_models.codes.config import CodesConfig
from ehr_models.codes.mapping import Mapping
from ehr_models.codes.systems import above
from ehr_models.codes.vectors import Key
from ehr_models.data.batch import pack
from ehr_models.data.store import open_split
from ehr_models.data.tokens import open_tokens
from ehr_models.data.windows import newest
from ehr_models.heads.token import hidden_states, token_logits
from ehr_models.kinds.behrt import BehrtModelConfig
from ehr_models.vocabulary import Word, read_vocabulary
from ehr_tracking.contracts import MASK_ID, SPECIALS
from ehr_train.config import (
    CheckpointConfig,
    DataConfig,
    OptimConfig,
    TrainConfig,
    ValidationConfig,
)
from ehr_train.run import train

STARTS = {
    "random": None,
    "exact": CodesConfig(hierarchy=False),
    "hierarchy": CodesConfig(),
    "hierarchy, frozen": CodesConfig(freeze=True),
}
CONTEXT, MASKED = 128, 0.2


def main() -> None:
    """Make the cohort, train from each start, and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--patients", type=int, default=400)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--novel", type=float, default=0.3, help="Share in novel codes.")
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder)
        tokens = cohort(here, args.patients, args.novel)
        words = read_vocabulary(tokens)
        known = write_clinvec(here / "ClinVec", words)
        novel = np.array([stands(w) is not None and str(stands(w)) not in known for w in words])
        rows = []
        for seed in range(args.seeds):
            for name, how in STARTS.items():
                start = here / f"start-{len(rows)}"
                if how is not None:
                    given = [str(here / "ClinVec")]
                    init(tokens, start, model(), replace(how, seed=seed), codes=given)
                run = here / f"run-{len(rows)}"
                train(tokens, run, config(args.steps, seed), init=start if how else None)
                rows.append({"start": name, "seed": seed, **judged(run, tokens, novel)})
                print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    print(json.dumps(summary(rows, int(novel.sum()), len(words)), indent=1))


def cohort(here: Path, patients: int, novel: float) -> Path:
    """Tokens of a synthetic cohort."""
    meds, tokens = here / "meds", here / "tokens"
    commands = (
        ("synth", "--num-patients", patients, "--novel-prob", novel, "--out", meds),
        ("--meds", meds, "--out", tokens),
    )
    for command in commands:
        program = Path(sys.executable).with_name("ehr-tokenize")
        subprocess.run([program, *map(str, command)], check=True, stdout=subprocess.DEVNULL)
    return tokens


def stands(word: Word) -> Key | None:
    """What a token's code stands for, of the vocabularies that have novel codes."""
    key = Mapping().locate(word.code) if word.code else None
    return key if key is not None and key.vocabulary in ("icd10cm", "atc") else None


def write_clinvec(directory: Path, words: Sequence[Word]) -> set[str]:
    """Vectors of the codes that codes.parquet describes, and of those above; returns these codes."""
    rng, own = np.random.default_rng(0), {}
    keys = [stands(w) for w in words if w.description]
    keys = sorted({k for key in keys if key for k in (key, *above(key))})
    for key in keys:
        own[key] = rng.normal(size=WIDTH)
    directory.mkdir()
    nodes = ["node_id\tnode_name\tntype\tnode_index"]
    files = {v: [",".join(["", *map(str, range(WIDTH))])] for v in ("icd10cm", "atc")}
    for index, key in enumerate(keys):
        vector = own[key] + sum(own[k] for k in above(key))
        nodes.append(f"{key.code}:{key.vocabulary}\t\t{NTYPES[key.vocabulary]}\t{index}")
        files[key.vocabulary].append(",".join([str(index), *(f"{x:.6g}" for x in vector)]))
    (directory / "ClinGraph_nodes.csv").write_text("\n".join(nodes) + "\n")
    for name, lines in files.items():
        (directory / f"ClinVec_{name}.csv").write_text("\n".join(lines) + "\n")
    return {str(key) for key in keys}


def model() -> BehrtModelConfig:
    """Of every run."""
    return BehrtModelConfig(size="tiny")


def config(steps: int, seed: int) -> TrainConfig:
    """Of every run."""
    return TrainConfig(
        model=model(),
        data=DataConfig(context=CONTEXT, batch_tokens=2048, micro_tokens=2048),
        optim=OptimConfig(lr=2e-3, steps=steps),
        validation=ValidationConfig(every=steps),
        checkpoint=CheckpointConfig(every=steps, keep=1),
        precision="fp32",
        seed=seed,
    )


@torch.no_grad()
def judged(run: Path, tokens: Path, novel: np.ndarray) -> dict[str, float]:
    """Loss of masked tokens of the held-out split: of all novel codes, and of a share of all others."""
    loaded, data = load_checkpoint(run).model, open_tokens(tokens)
    rows = open_split(data, "held_out")
    who = np.arange(len(rows))
    windows = newest(rows, who, np.diff(rows.offsets), CONTEXT)
    rng, losses, kinds = np.random.default_rng(0), [], []
    for first in range(0, len(windows), 32):
        batch = pack(rows, windows.take(slice(first, first + 32)))
        ids = batch.input_ids.numpy()
        asked = novel[ids] | ((rng.random(len(ids)) < MASKED) & (ids >= len(SPECIALS)))
        at = np.flatnonzero(asked)
        answers = torch.from_numpy(ids[at].astype(np.int64))
        hidden = batch.input_ids.clone()
        hidden[at] = MASK_ID
        states = hidden_states(loaded, replace(batch, input_ids=hidden))
        logits = token_logits(loaded, states[torch.from_numpy(at)])
        losses.append(F.cross_entropy(logits, answers, reduction="none").numpy())
        kinds.append(novel[answers.numpy()])
    loss, is_novel = np.concatenate(losses), np.concatenate(kinds)
    return {
        "novel": float(loss[is_novel].mean()),
        "other": float(loss[~is_novel].mean()),
        "n_novel": int(is_novel.sum()),
    }


def summary(rows: list[dict], novel: int, vocabulary: int) -> dict:
    """Mean and standard deviation over seeds of each start."""
    table = {}
    for name in STARTS:
        mine = [r for r in rows if r["start"] == name]
        table[name] = {
            k: [round(float(f([r[k] for r in mine])), 3) for f in (np.mean, np.std)]
            for k in ("novel", "other")
        }
    return {
        "vocabulary": vocabulary,
        "novel_tokens": novel,
        "masked_novel": rows[0]["n_novel"],
        "loss": table,
    }


if __name__ == "__main__":
    main()
