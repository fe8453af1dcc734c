"""One process of a run; `python -m ehr_train.worker SPEC` is what the launcher starts."""

import json
import sys

import torch

from ehr_train import parallel
from ehr_train.job import Job
from ehr_train.loop import Trainer


def work(job: Job) -> None:
    """Train in this process, alone or as a member of a group; leave torch's generators as they were.

    Raises:
        UserError: For what a user can mend.
    """
    parallel.keep_freed_memory()
    with torch.random.fork_rng():
        Trainer(job).run()


if __name__ == "__main__":
    _job = Job.from_spec(json.loads(sys.argv[1]))
    with parallel.member(_job.device):
        work(_job)
