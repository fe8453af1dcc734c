"""`data.micro_tokens: auto`: how many tokens a forward pass takes here, found by trying.

`python -m ehr_train.micro SPEC` tries in a process of its own: what does not fit ends that one at worst,
and what it has taken is given back.
"""

import json
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial

import click
import torch

from ehr_models.precision import resolve_precision
from ehr_tracking.config import to_dict, validate
from ehr_tracking.errors import UserError
from ehr_train.config import TrainConfig
from ehr_train.data.codes import Codes
from ehr_train.job import Job
from ehr_train.memory import (
    Cost,
    as_one_of,
    available,
    heaviest,
    measure,
    one_pass,
    resident,
    timed,
)
from ehr_train.model import load_or_build
from ehr_train.objectives.asker import Asker
from ehr_train.objectives.learner import Learner
from ehr_train.step import Stepper

_GAIN = 1.03
"""How much faster a pass twice as long has to be to be worth its memory."""
_SHARE = 0.8
"""Of the memory that is there: what a run may plan with."""
_MOST = 131_072


def with_passes(job: Job, config: TrainConfig, nproc: int) -> TrainConfig:
    """The config with a number for `data.micro_tokens`, which is found where it is `auto`.

    Args:
        job: What to do.
        config: Of it.
        nproc: Processes on this machine.

    Raises:
        UserError: If a single window of the context does not fit.
    """
    if config.data.micro_tokens != "auto":
        return config
    spec = {"job": job.spec(), "config": to_dict(config), "nproc": nproc}
    done = subprocess.run(
        [sys.executable, "-m", "ehr_train.micro", json.dumps(spec)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        last = done.stderr.strip().rpartition("\n")[2].removeprefix("UserError: ")
        raise UserError(
            f"data.micro_tokens = auto found nothing: {last or 'the trial was killed'}; "
            "name a number, take recompute = true, or lower data.context"
        )
    return replace(config, data=replace(config.data, micro_tokens=int(done.stdout.split()[-1])))


def candidates(context: int, most: int) -> list[int]:
    """Budgets to try: one window, and twice as much each time.

    Examples:
        >>> candidates(512, 3000)
        [512, 1024, 2048]
    """
    found = [context]
    while 2 * found[-1] <= most:
        found.append(2 * found[-1])
    return found


def smallest_fast(budgets: Iterable[int], trial: Callable[[int], float | None]) -> int | None:
    """The first budget than which twice as much is not clearly faster, or does not fit.

    Args:
        budgets: Rising.
        trial: Tokens per second at a budget; None where it does not fit.

    Returns:
        None where not even the first one fits.

    Examples:
        >>> rates = {512: 90, 1024: 100, 2048: 101, 4096: 150}
        >>> smallest_fast(rates, rates.get)
        1024
        >>> smallest_fast([512, 1024, 2048], {512: 90, 1024: 100}.get)
        1024
    """
    best, last = None, 0.0
    for budget in budgets:
        rate = trial(budget)
        if rate is None or rate < last * _GAIN:
            break
        best, last = budget, rate
    return best


class Trials:
    """Passes of the longest windows, tried one size after another."""

    def __init__(self, job: Job, config: TrainConfig, nproc: int) -> None:
        """Make the model ready.

        Args:
            job: What to do.
            config: Of it.
            nproc: Processes that share the machine.
        """
        self.base = resident()
        self.room = _SHARE * (self.base + available()) / nproc
        """Bytes of main memory for this process."""
        tokens = job.open_tokens()
        examples, codes = job.train_examples(config, tokens), Codes(tokens)
        objective = config.objective.fitted(examples, codes)
        device = torch.device(job.device)
        model = load_or_build(job.init, config, objective, tokens, None).train()
        precision = resolve_precision(config.precision, device, training=True)
        self.config = replace(config, precision=precision, compile=False)
        self.stepper = Stepper(Learner(model, objective), self.config, device)
        self.asker = Asker(objective, examples, tokens.vocab_size, config.seed, codes)
        self.nproc = nproc
        self.cost: Cost | None = None

    def __call__(self, budget: int) -> float | None:
        """Tokens per second in passes of so many; None where they do not fit.

        On a CPU nothing can be caught, as the system ends what takes too much: memory is estimated.
        """
        try:
            if self.stepper.device.type == "cpu" and self._planned(budget) > self.room:
                return None
            windows = heaviest(self.asker, self.config.data.context, budget)
            prepared = one_pass(self.asker, windows, self.stepper.device)
            if not self.stepper.update.optimizers[0].state:
                self.stepper.step(1, prepared, 0.0)  # what optimizers hold takes room as well
            work = partial(self.stepper.settle, prepared)
            return prepared.tokens / min(timed(self.stepper, work) for _ in range(2))
        except torch.OutOfMemoryError:
            self.stepper.update.clear()
            if self.stepper.device.type == "cuda":
                torch.cuda.empty_cache()
            return None

    def _planned(self, budget: int) -> float:
        if self.cost is None:
            self.cost = measure(self.stepper, self.asker, self.config, processes=self.nproc)
        return self.base + self.cost.peak_bytes(budget)


def search(trials: Callable[[int], float | None], config: TrainConfig) -> int:
    """The passes to take: the fewest tokens that are as fast as more, of those that fit.

    Args:
        trials: Tokens per second at a budget; None where it does not fit.
        config: Of the run.

    Raises:
        UserError: If a single window does not fit.
    """
    data = config.data
    most = data.batch_tokens if data.loader == "tokens" else _MOST
    found = smallest_fast(candidates(data.context, min(_MOST, most)), trials)
    if found is None:
        raise UserError(f"a window of {data.context} tokens does not fit")
    return found


def main(text: str) -> None:
    """Search as a spec says, and print what was found."""
    spec = json.loads(text)
    config = validate(TrainConfig, spec["config"], where="micro")
    job = Job.from_spec(spec["job"])
    if job.device == "cuda":
        torch.cuda.set_per_process_memory_fraction(_SHARE)
    with as_one_of(spec["nproc"]):
        click.echo(search(Trials(job, config, spec["nproc"]), config))


if __name__ == "__main__":
    main(sys.argv[1])
