"""Features at 20 prediction times a subject, beside one forward pass of transformers for each label.

The plain way cuts the record at each prediction time and runs the same GPT-2 over it, one label after the other, or over
labels of like lengths, padded, 4,096 tokens at a time. Ours reads a causal model once a subject, and a bidirectional one (BERT) as
often as rows see something new, in packed batches.
"""

import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from ehr_eval.features.config import FeaturesConfig
from ehr_eval.features.reader import Reader
from ehr_models.data.tokens import Tokens
from ehr_models.kinds import KINDS
from ehr_models.registry import build
from ehr_tracking.contracts import BOS_ID, PAD_ID

TIMES, VOCABULARY, BUDGET = 20, 2000, 4096


def measure(*, quick: bool) -> list[dict[str, Any]]:
    """A row a kind and way of exactness."""
    subjects = 6 if quick else 24
    return [
        row("gpt2", subjects, one_by_one, target=10.0),
        row("gpt2", subjects, by_length, target=None),
        row("gpt2", subjects, one_by_one, target=None, exact=True),
        row("bert", subjects, one_by_one, target=None),
        row("bert", subjects, by_length, target=None),
    ]


def row(
    name: str,
    subjects: int,
    plain: Callable[..., Any],
    *,
    target: float | None,
    exact: bool = False,
) -> dict[str, Any]:
    """One comparison."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    kind = KINDS[name]
    model = build(
        kind.config(size="tiny", hidden=256, layers=4, heads=4, max_positions=1024), VOCABULARY
    ).eval()
    tokens, subject, visible = made(subjects)
    checkpoint = SimpleNamespace(
        model=model, kind=kind, manifest=SimpleNamespace(config={"data": {"context": 1024}})
    )
    config = FeaturesConfig(pooling="last", precision="fp32", exact=exact)
    reader = Reader(checkpoint, config, quiet=True)  # type: ignore[arg-type]
    reader.read(tokens, subject[:2], visible[:2])  # what is slow once is not counted
    began = time.process_time()
    ours = reader.read(tokens, subject, visible)
    middle = time.process_time()
    theirs = plain(model, tokens, subject, visible)
    ended = time.process_time()
    return {
        "case": f"{name}, {len(subject)} labels of {subjects} subjects{', exact' * exact}; {plain.__name__}",
        "ours": round(middle - began, 3),
        "theirs": round(ended - middle, 3),
        "ratio": round((ended - middle) / (middle - began), 2),
        "target": target,
        "difference": float(f"{np.abs(ours - theirs).max():.1e}"),
    }


def made(subjects: int) -> tuple[Tokens, np.ndarray, np.ndarray]:
    """Records of 100 to 1,000 tokens, each asked at 20 times."""
    rng = np.random.default_rng(0)
    length = np.exp(rng.uniform(np.log(100), np.log(1000), subjects)).astype(np.int64)
    offsets = np.concatenate([[0], np.cumsum(length)])
    token = rng.integers(8, VOCABULARY, offsets[-1]).astype(np.uint16)
    token[offsets[:-1]] = BOS_ID
    zeros = np.zeros(offsets[-1], np.float32)
    tokens = Tokens(
        subject_id=np.arange(subjects),
        offsets=offsets,
        prefix=np.ones(subjects, np.uint32),
        token=token,
        time=np.arange(offsets[-1]),
        age=zeros,
        visit=zeros.astype(np.uint16),
        segment=zeros.astype(np.uint8),
    )
    visible = np.concatenate([np.sort(rng.integers(10, n + 1, TIMES)) for n in length])
    return tokens, np.repeat(np.arange(subjects), TIMES), visible


@torch.inference_mode()
def one_by_one(
    model: PreTrainedModel, tokens: Tokens, subject: np.ndarray, visible: np.ndarray
) -> np.ndarray:
    """One forward pass a label."""
    found = []
    for s, n in zip(subject, visible, strict=True):
        ids = tokens.token[tokens.offsets[s] :][:n].astype(np.int64)
        out = model.base_model(torch.from_numpy(ids)[None], attention_mask=torch.ones(1, n))
        found.append(out.last_hidden_state[0, -1].numpy())
    return np.stack(found)


@torch.inference_mode()
def by_length(
    model: PreTrainedModel, tokens: Tokens, subject: np.ndarray, visible: np.ndarray
) -> np.ndarray:
    """Labels sorted by what they see, padded."""
    found, order, start = {}, np.argsort(visible, kind="stable"), 0
    while start < len(order):
        stop = start + 1
        while stop < len(order) and (stop + 1 - start) * visible[order[stop]] <= BUDGET:
            stop += 1
        rows = order[start:stop]
        ids = torch.full((len(rows), int(visible[rows].max())), PAD_ID)
        for i, r in enumerate(rows):
            past = tokens.token[tokens.offsets[subject[r]] :][: visible[r]].astype(np.int64)
            ids[i, : visible[r]] = torch.from_numpy(past)
        real = (torch.arange(ids.shape[1])[None] < torch.from_numpy(visible[rows])[:, None]).long()
        out = model.base_model(ids, attention_mask=real).last_hidden_state
        found.update({int(r): out[i, visible[r] - 1].numpy() for i, r in enumerate(rows)})
        start = stop
    return np.stack([found[i] for i in range(len(order))])
