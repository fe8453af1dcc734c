"""What a trained language model says of texts, as `predictions/1`.

E texts.
"""

from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from ehr_models.checkpoint import load_checkpoint
from ehr_models.data.windows import fill, newest
from ehr_models.precision import autocast, resolve_precision
from ehr_tracking.checkpoints import reading
from ehr_tracking.config import ConfigError
from ehr_tracking.contracts import HELD_OUT, PREDICTIONS, TUNING, ContractError
from ehr_tracking.manifest import new_artifact, seal, source
from ehr_train import PRODUCER
from ehr_train.config import TrainConfig
from ehr_train.data.examples import Examples
from ehr_train.job import Job
from ehr_train.objectives.asker import Asker
from ehr_train.objectives.learner import Learner


def require_binary(config: TrainConfig) -> None:
    """Refuse to predict what is not yes or no.

    Raises:
        ConfigError: Naming the objective.
    """
    if config.objective.labelled != "binary":
        raise ConfigError(
            f"--predictions are of yes and no; objective {config.objective.kind} says neither"
        )


def predict(job: Job, config: TrainConfig, out: Path, task: str, *, overwrite: bool) -> Path:
    """Write the probabilities of held-out and tuning rows, by the best checkpoint of a run.

    Args:
        job: Of a finished run.
        config: Of it.
        out: Where they shall be.
        task: What the labels are called.
        overwrite: Replace predictions that are there.

    Raises:
        ContractError: If no label is of a subject in held_out.
        UserError: If `out` may not be written.
    """
    tokens = job.open_tokens()
    inputs = [job.tokens, job.out]
    with (
        new_artifact(out, PREDICTIONS, overwrite=overwrite, inputs=inputs) as partial,
        reading(job.out) as checkpoint,
    ):
        learner = Learner(load_checkpoint(checkpoint).model, config.objective).to(job.device).eval()
        written: dict[str, int] = {}
        for split, folder in ((HELD_OUT, partial), (TUNING, partial / TUNING)):
            if split not in tokens.splits:
                continue
            examples = job.examples(config, tokens, split)
            if not len(examples):
                continue
            asker = Asker(config.objective, examples, tokens.vocab_size, config.seed)
            path = folder / task / f"{split}.parquet"
            path.parent.mkdir(parents=True)
            pq.write_table(_table(examples, _scores(learner, asker, config, job.device)), path)
            written[path.relative_to(partial).as_posix()] = len(examples)
        if f"{task}/{HELD_OUT}.parquet" not in written:
            raise ContractError(f"{job.labels}: no label of {task} is of a subject in {HELD_OUT}")
        seal(
            partial,
            PREDICTIONS,
            producer=PRODUCER,
            config={"task": task},
            seed=None,
            inputs={"checkpoint": source(checkpoint), "tokens": source(job.tokens)},
            rows=written,
        )
    return out


@torch.inference_mode()
def _scores(
    learner: Learner, asker: Asker, config: TrainConfig, device: str
) -> npt.NDArray[np.float64]:
    """[E] logits."""
    examples, context = asker.examples, config.data.context
    found = np.zeros(len(examples))
    precision = resolve_precision(config.precision, device)
    bounds = fill(np.minimum(examples.visible, context), config.data.pass_tokens)
    for start, stop in pairwise(bounds):
        numbers = np.arange(start, stop)
        seen = (examples.subject[numbers], examples.visible[numbers])
        question = asker.ask(newest(examples.tokens, *seen, context, numbers), -1)
        with autocast(precision, torch.device(device)):
            _, answers = learner.judge(question.to(torch.device(device)))
        (scores,) = answers.values()
        found[numbers] = scores[:, 0].double().cpu().numpy()
    return found


def _table(examples: Examples, logits: npt.NDArray[np.float64]) -> pa.Table:
    tokens, row = examples.tokens, examples.subject
    assert examples.label is not None
    time = tokens.time[tokens.offsets[row + 1] - 1]
    return pa.table(
        {
            "subject_id": pa.array(tokens.subject_id[row], pa.int64()),
            "prediction_time": pa.array(time, pa.timestamp("us")),
            "boolean_value": pa.array(examples.label > 0),
            "predicted_boolean_value": pa.nulls(len(row), pa.bool_()),
            "predicted_boolean_probability": pa.array(
                (1 / (1 + np.exp(-logits))).astype(np.float32)
            ),
        }
    )
