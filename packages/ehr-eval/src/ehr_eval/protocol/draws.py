"""What means over replicates are in each bootstrap draw of patients, kept beside the results.

`draws/{task}.safetensors` holds float32 [B] by `metric/model/head/k`, and by `auroc/best` that of the best possible
risk. Draw i has the same patients for all models of a task, so that values may be averaged and subtracted draw by draw.

B bootstrap draws.
"""

from pathlib import Path

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

from ehr_eval.judge.metrics.ranked import Floats
from ehr_eval.protocol.cell import Setting
from ehr_eval.protocol.evaluation import AUROC, Evaluation

DRAWS = "draws"
"""Folder of results."""
_BEST = f"{AUROC}/best"


def write_draws(directory: Path, evaluation: Evaluation) -> None:
    """Write those of one task; nothing where it has no score.

    Args:
        directory: Of the results.
        evaluation: Of the task.
    """
    found = {
        "/".join((metric, setting.model, setting.head, str(setting.k))): score.draws
        for setting, scores in evaluation.means.items()
        for metric, score in scores.items()
        if score is not None
    }
    if evaluation.best is not None:
        found[_BEST] = evaluation.best.draws
    if found:
        path = directory / DRAWS / f"{evaluation.task}.safetensors"
        path.parent.mkdir(parents=True, exist_ok=True)
        tensors = {name: np.ascontiguousarray(x, np.float32) for name, x in found.items()}
        save_file(tensors, path)


def read_draws(path: Path, metric: str) -> dict[Setting, Floats]:
    """[B] of one metric by model, head and k.

    Args:
        path: A file of `write_draws`.
        metric: A key of `METRICS`.
    """
    found = {}
    with safe_open(path, framework="numpy") as file:
        for name in file.keys():  # noqa: SIM118 -- of safetensors
            of, *setting = name.split("/")
            if of == metric and name != _BEST:
                model, head, k = setting
                found[Setting(model, head, int(k))] = file.get_tensor(name).astype(np.float64)
    return found


def read_best(path: Path) -> Floats | None:
    """[B] the AUROC of the best possible risk, where it is known.

    Args:
        path: A file of `write_draws`.
    """
    with safe_open(path, framework="numpy") as file:
        known = _BEST in file.keys()  # noqa: SIM118 -- of safetensors
        return file.get_tensor(_BEST).astype(np.float64) if known else None
