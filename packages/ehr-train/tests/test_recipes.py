"""Every recipe of `configs/train` and `configs/text`, run: two steps of a tiny model on a made-up cohort."""

import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from ehr_tracking.config import load_config
from ehr_tracking.contracts import BOS_ID, SPECIALS
from ehr_tracking.manifest import verify
from ehr_tracking.runs import read_log
from ehr_train.config import TrainConfig
from ehr_train.run import train
from ehr_train.text.command import load
from ehr_train.text.run import train_text

from .conftest import DAY_US, TINY, tiny_config, write_tokens
from .language import byte_pairs, texts, word_pieces, write_model, write_narratives

CONFIGS = Path(__file__).parents[3] / "configs"
RECIPES, TEXT = (sorted((CONFIGS / name).glob("*.yaml")) for name in ("train", "text"))
CODES = ["GENDER//F", "MEDS_DEATH", "HOSPITAL_ADMISSION//E", "HOSPITAL_DISCHARGE//HOME"]
CODES += [f"ICD10CM//{i}" for i in range(20)]
SMALL = [
    *("data.context=64", "data.batch_tokens=512", "data.micro_tokens=256"),
    *("optim.steps=2", "optim.epochs=null", "validation.every=2", "checkpoint.every=2"),
]


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    """Tokens, and labels of each objective that learns from some."""
    root, rng = tmp_path_factory.mktemp("recipes"), np.random.default_rng(0)
    splits, subjects = {}, []
    for split, first in (("train", 0), ("tuning", 100)):
        splits[split] = []
        for subject in range(first, first + 24):
            n = int(rng.integers(20, 40))
            token = [BOS_ID, len(SPECIALS), *(len(SPECIALS) + rng.integers(1, len(CODES), n))]
            reach = 300 if subject % 2 else 5  # visits of up to 30 days, or one of less than a week
            days = [None, None, *np.sort(rng.random(n) * reach)]
            splits[split].append(
                {"subject_id": subject, "token": [int(t) for t in token], "time": days}
            )
            subjects.append(subject)
    words = [{"token": code, "kind": "code", "code": code} for code in CODES]
    every = np.arange(len(subjects))
    event = {"boolean_value": pa.array(every % 2 == 0)}
    tables = {
        "classification": {"a": event},
        "multilabel": {"a": event, "b": {"boolean_value": pa.array(every % 3 == 0)}},
        "multiclass": {"a": {"integer_value": pa.array(every % 3)}},
        "regression": {"a": {"float_value": pa.array(every * 1.5)}},
        "survival": {"a": {**event, "duration_days": pa.array(1.0 + every)}},
    }
    for kind, tasks in tables.items():
        for task, values in tasks.items():
            folder = root / "labels" / kind / task
            folder.mkdir(parents=True)
            time = pa.array([200 * DAY_US] * len(subjects), pa.timestamp("us"))
            table = pa.table({"subject_id": subjects, "prediction_time": time, **values})
            pq.write_table(table, folder / "0.parquet")
    return write_tokens(root / "tokens", splits, behind=words), root / "labels"


@pytest.fixture(scope="module")
def base(cohort, tmp_path_factory):
    """What fine-tuning starts from."""
    config = load_config(TrainConfig, None, SMALL)
    return train(
        cohort[0],
        tmp_path_factory.mktemp("base") / "run",
        tiny_config(data=config.data, optim=config.optim),
    )


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda p: p.stem)
def test_a_recipe_runs(recipe, cohort, base, tmp_path):
    tokens, labels = cohort
    tree = yaml.safe_load(recipe.read_text())
    pretrains = "model" in tree
    tiny = {k: v for k, v in TINY.items() if k != "size"} if pretrains else {}
    if pretrains and tree["model"]["kind"] == "hyena":
        del tiny["heads"]
    config = load_config(
        TrainConfig, recipe, [*SMALL, *(f"model.{k}={v}" for k, v in tiny.items())]
    )
    kind = config.objective.kind
    run = train(
        tokens,
        tmp_path / "run",
        config,
        init=None if pretrains else base,
        labels=labels / kind if config.objective.labelled else None,
    )
    assert verify(run) == []
    first, last = read_log(run / "metrics.jsonl")
    assert math.isfinite(first["loss"])
    assert math.isfinite(last[f"val_{config.score.name}"])


@pytest.fixture(scope="module")
def language(tmp_path_factory):
    """Narratives, an encoder and a decoder."""
    root, told = tmp_path_factory.mktemp("language"), texts()
    models = {
        "Bert": write_model(root / "bert", "Bert", word_pieces(told)),
        "Llama": write_model(root / "llama", "Llama", byte_pairs(told)),
    }
    return write_narratives(root / "narratives", told), models


@pytest.mark.parametrize("recipe", TEXT, ids=lambda p: p.stem)
def test_a_recipe_of_text_runs(recipe, language, tmp_path):
    narratives, models = language
    small = [*SMALL, "precision=fp32", "data.loader=tokens", "optim.warmup=0"]
    if "adapter" in yaml.safe_load(recipe.read_text()):
        small += ["adapter.rank=4", "adapter.quantised=false"]  # 4 bits are an extra
    config = load(recipe, tuple(small))
    model = models["Bert" if "bert" in recipe.stem else "Llama"]
    run = train_text(narratives, tmp_path / "run", config, model=str(model), device="cpu")
    assert verify(run) == []
    first, last = read_log(run / "metrics.jsonl")
    assert math.isfinite(first["loss"])
    assert math.isfinite(last[f"val_{config.score.name}"])
