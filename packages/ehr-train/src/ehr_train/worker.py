"""One process of a run; `python -m ehr_train.worker SPEC` is what the launcher starts."""

import json
import sys

from ehr_tracking.errors import UserError
from ehr_tracking.imports import loading

with loading():
    import torch

    from ehr_train.job import Job
    from ehr_train.loop import Trainer
    from ehr_train.scale import group
    from ehr_train.scale.member import member
    from ehr_train.scale.stop import Stop
    from ehr_train.speed import keep_freed_memory


def work(job: Job, stop: Stop) -> None:
    """Train in this process, alone or as a member of a group; leave torch's generators as they were.

    Args:
        job: What to do.
        stop: Heeded between two steps.

    Raises:
        UserError: For what a user can mend, or that it was asked to stop.
    """
    keep_freed_memory()
    try:
        with torch.random.fork_rng():
            Trainer(job, stop).run()
    except torch.OutOfMemoryError as e:
        raise UserError(
            "out of memory: lower data.micro_tokens (auto finds what fits), take recompute = true, or "
            f"lower data.context; {str(e).partition('. ')[0]}"
        ) from None


if __name__ == "__main__":
    with member(json.loads(sys.argv[1])["device"]) as _stop:
        # further machines know nothing of the run; the first one has prepared it
        work(Job.from_spec(json.loads(group.of_first(sys.argv[1]))), _stop)
