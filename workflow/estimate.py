"""How long a part takes, how much memory and disk: as such parts did before, else a rough guess."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from ehr_models.kinds import KINDS
from ehr_models.kinds.record import size_of
from ehr_train.config import TrainConfig
from workflow.config import Stage
from workflow.costs import Cost
from workflow.nodes import Node

START = 10.0
"""Seconds until a run takes its first step."""
_FLOPS = 5e10
"""Of one process in training, a second; a guess that lies low."""
_VOCABULARY = 5_000
"""Tokens, before there is a vocabulary."""
_STEPS = 1_000
"""Of a run that is told in epochs, before there are tokens."""
_SECONDS: Mapping[Stage, tuple[float, float]] = {
    "meds": (5, 2),
    "tokens": (4, 0.3),
    "labels": (4, 0.5),
    "features": (15, 20),
    "counts": (6, 2),
    "predictions": (60, 600),
    "results": (60, 20),
    "audit": (20, 10),
    "comparison": (10, 0),
    "scaling": (20, 0),
}
"""To start, and for each MB of MEDS data."""
_DISK: Mapping[Stage, float] = {"meds": 1, "tokens": 1, "features": 4, "counts": 1}
"""Bytes for each byte of MEDS data."""


class Estimate(NamedTuple):
    """Of one part."""

    seconds: float
    memory_mb: float
    source: str
    """Where it is from."""


def estimate(
    node: Node, costs: Mapping[str, Cost], megabytes: float, recipe: TrainConfig | None = None
) -> Estimate:
    """What a part will take.

    Args:
        node: The part.
        costs: From `read_costs`.
        megabytes: Of MEDS data.
        recipe: Of a run.
    """
    known = costs.get(f"{node.stage}/{node.name}")
    if known is not None:
        return Estimate(known.seconds, known.memory_mb or 1_000, "an earlier one")
    if recipe is not None:
        size = parameters(recipe)
        steps = recipe.optim.steps or _STEPS
        flops = 6 * size * recipe.data.batch_tokens * steps
        return Estimate(START + flops / _FLOPS / node.processes, 800 + 20 * size / 1e6, "a guess")
    start, rate = _SECONDS[node.stage]
    return Estimate(start + rate * megabytes, 800 + 4 * megabytes, "a guess")


def disk_mb(node: Node, megabytes: float, recipe: TrainConfig | None = None) -> float:
    """Megabytes on disk of a part, roughly."""
    if recipe is not None:  # fp32 weights and two moments, of each checkpoint
        return 12 * parameters(recipe) / 1e6 * (recipe.checkpoint.keep + 2)
    return 1 + _DISK.get(node.stage, 0.5) * megabytes


def parameters(recipe: TrainConfig) -> float:
    """Parameters of a model, roughly.

    Examples:
        >>> from ehr_models.kinds.gpt2 import Gpt2ModelConfig
        >>> round(parameters(TrainConfig(model=Gpt2ModelConfig(size="base"))) / 1e6)
        89
    """
    model: Any = recipe.model
    kind = KINDS[model.kind]
    if model.size not in kind.sizes:
        return 1e8
    size = size_of(kind, model)
    layer = 4 * size.hidden**2 + 2 * size.hidden * size.intermediate
    return float(size.layers * layer + _VOCABULARY * size.hidden)
