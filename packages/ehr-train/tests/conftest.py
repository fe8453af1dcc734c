import importlib.util
import json
import re
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic.dataclasses import rebuild_dataclass

from ehr_models.kinds.behrt import BehrtModelConfig
from ehr_models.kinds.gpt2 import Gpt2ModelConfig
from ehr_tracking.contracts import BOS_ID, SPECIALS, TOKENS
from ehr_tracking.manifest import seal
from ehr_train.config import (
    CheckpointConfig,
    DataConfig,
    OptimConfig,
    TrainConfig,
    ValidationConfig,
)
from ehr_train.objectives import CLM, MLM, OBJECTIVES
from ehr_train.objectives.total import Part, Sum

PAGE = Path(__file__).parents[3] / "docs" / "extend.md"
CODES = 57
DAY_US = 86_400_000_000
TINY = {"size": "tiny", "hidden": 16, "layers": 2, "heads": 2, "intermediate": 32}
WORDS = pa.schema(
    {
        **{"id": pa.int32(), "token": pa.string(), "kind": pa.string(), "code": pa.string()},
        **{"bin": pa.int32(), "lower": pa.float32(), "upper": pa.float32()},
        **{"count": pa.int64(), "subjects": pa.int64()},
        **{"description": pa.string(), "parents": pa.list_(pa.string())},
    }
)


def write_tokens(
    directory: Path,
    splits: dict[str, list[dict]],
    codes: int = CODES,
    behind: list[dict] | None = None,
) -> Path:
    """A tokens/1 data set: for each split, subjects as {subject_id, token, time (days or None)}.

    The vocabulary is C0, C1... behind the special ones, or `behind`: rows without their ids.
    """
    directory.mkdir(parents=True)
    rows = behind or [
        {"token": t, "kind": "code", "code": t} for t in map("C{}".format, range(codes))
    ]
    rows = [*({"token": t, "kind": "special"} for t in SPECIALS), *rows]
    words = [{**row, "id": i} for i, row in enumerate(rows)]
    pq.write_table(pa.Table.from_pylist(words, WORDS), directory / "vocab.parquet")
    (directory / "tokenizer.json").write_text(json.dumps({"scheme": "joint"}))
    for split, subjects in splits.items():
        (directory / split).mkdir()
        times = [[None if t is None else int(t * DAY_US) for t in s["time"]] for s in subjects]
        table = pa.table(
            {
                "subject_id": pa.array([s["subject_id"] for s in subjects], pa.int64()),
                "token": pa.array([s["token"] for s in subjects], pa.list_(pa.uint16())),
                "time": pa.array(times, pa.list_(pa.timestamp("us"))),
                "age": pa.array(
                    [[0.0 if t is None else t for t in s["time"]] for s in subjects],
                    pa.list_(pa.float32()),
                ),
                "visit": pa.array(
                    [
                        [0 if t is None else max(0, 1 + int(t // 30)) for t in s["time"]]
                        for s in subjects
                    ],
                    pa.list_(pa.uint16()),
                ),
            }
        )
        pq.write_table(table, directory / split / "0.parquet")
    seal(directory, TOKENS, producer="test 0", config={}, seed=0)
    return directory


def random_subjects(first: int, n: int, seed: int, longest: int = 60) -> list[dict]:
    """[BOS], one static token, then codes that follow a noisy cycle, so that there is a next one."""
    rng = np.random.default_rng(seed)
    subjects = []
    for i in range(n):
        length = int(rng.integers(3, longest))
        code = (rng.integers(CODES) + np.arange(length) + (rng.random(length) < 0.1)) % CODES
        subjects.append(
            {
                "subject_id": first + i,
                "token": [BOS_ID, len(SPECIALS), *(code + len(SPECIALS)).tolist()],
                "time": [None, None, *np.sort(rng.random(length) * 300).tolist()],
            }
        )
    return subjects


@pytest.fixture(scope="session")
def tokens(tmp_path_factory) -> Path:
    return write_tokens(
        tmp_path_factory.mktemp("tokens") / "t",
        {
            "train": random_subjects(1000, 60, 0),
            "tuning": random_subjects(2000, 12, 1),
            "held_out": random_subjects(3000, 5, 2),
        },
    )


def tiny_config(kind: str = "mlm", **changes) -> TrainConfig:
    model = BehrtModelConfig(**TINY) if kind == "mlm" else Gpt2ModelConfig(**TINY)
    return TrainConfig(
        **{
            "model": model,
            "objective": MLM() if kind == "mlm" else CLM(),
            "data": DataConfig(context=32, batch_tokens=400, micro_tokens=150),
            "optim": OptimConfig(lr=3e-3, steps=12),
            "validation": ValidationConfig(every=5),
            "checkpoint": CheckpointConfig(every=3),
            "precision": "fp32",
            "compile": False,
            **changes,
        }
    )


@pytest.fixture(scope="module")
def visit_codes(tmp_path_factory):
    """The objective that docs/extend.md adds, added as it says; and its YAML."""
    section = PAGE.read_text().split("## An objective\n")[1].split("\n## ")[0]
    file, line = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    path = tmp_path_factory.mktemp("objectives") / "visit_codes.py"
    path.write_text(file)
    spec = importlib.util.spec_from_file_location("visit_codes", path)
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "visit_codes", module)
        spec.loader.exec_module(module)
        exec(line, {"OBJECTIVES": OBJECTIVES, "VisitCodes": module.VisitCodes})
        for cls in (Part, Sum, TrainConfig):
            rebuild_dataclass(cls, force=True)
        yield module.VisitCodes, re.search(r"```yaml\n(.*?)```", section, re.DOTALL)[1]
    del OBJECTIVES["visit_codes"]
    for cls in (Part, Sum, TrainConfig):
        rebuild_dataclass(cls, force=True)
