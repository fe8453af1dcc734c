"""Cores and memory that the engine counts as taken, where it forgets to."""

from collections.abc import Sequence
from typing import Any

from snakemake.scheduling.job_scheduler import JobScheduler


def count_jobs_selected_alone() -> None:
    """Have Snakemake count what a job takes that is the only one ready.

    From 9.10 on, until 9.15 at least, it gives back what such a job took and had not counted it, so that its
    cores, memory and GPUs grow without end. It selects such jobs by `job_selector_greedy`, which later versions do
    not call where the scheduler is the greedy one.
    """
    begin = JobScheduler.__init__

    def begin_counting(self: Any, *args: object, **more: object) -> None:  # noqa: ANN401
        begin(self, *args, **more)
        select = self.job_selector_greedy

        def select_and_count(*given: object) -> Sequence[object]:
            jobs: Sequence[object] = select(*given)
            self.update_available_resources(jobs)
            return jobs

        self.job_selector_greedy = select_and_count

    JobScheduler.__init__ = begin_counting
