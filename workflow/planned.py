"""What the trainer says that a run will take (`ehr-train --dry-run`), kept in the store."""

import json
import shlex
from itertools import pairwise
from pathlib import Path

from ehr_tracking.config import validate
from ehr_tracking.errors import UserError
from ehr_tracking.files import write_whole
from ehr_train.config import TrainConfig
from workflow.estimate import START, Estimate
from workflow.nodes import Node


def ask(node: Node, store: Path) -> Estimate:
    """Of a run whose inputs are there, from a few passes of its model on this machine.

    Raises:
        UserError: Where training would be refused.
    """
    from ehr_train.plan import plan

    given = dict(pairwise(shlex.split(node.command(store))))
    nproc = int(given["--nproc"])
    try:
        told = plan(
            given["--tokens"],
            validate(TrainConfig, dict(node.config), where=node.shown),
            nproc=nproc,
            init=given.get("--init"),
            out=given["--out"],
            resume=True,
        )
    except UserError as e:
        raise UserError(f"{node.shown}: {e}") from None
    seconds, memory = START + told["seconds"], nproc * told["memory_mb"]
    return Estimate(seconds, memory, "ehr-train --dry-run")


def keep(node: Node, store: Path, told: Estimate) -> None:
    """Keep what was said of a run."""
    path = node.beside(store, "planned")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps(told))


def kept(node: Node, store: Path) -> Estimate | None:
    """What was said of a run; None where nobody asked."""
    path = node.beside(store, "planned")
    return Estimate(*json.loads(path.read_bytes())) if path.is_file() else None
