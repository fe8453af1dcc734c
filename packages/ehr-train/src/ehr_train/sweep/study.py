"""A sweep by Optuna, on a database in the sweep's own directory."""

import json
import os
import shutil
import sys
import threading
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ehr_tracking.config import to_dict
from ehr_tracking.errors import StoppedError, UserError
from ehr_tracking.files import PathLike, write_whole
from ehr_tracking.outputs import held
from ehr_train.scale.stop import Stop
from ehr_train.sweep.page import TRIALS, Swept, write_page
from ehr_train.sweep.space import Space
from ehr_train.sweep.trial import Outcome, run_trial

if TYPE_CHECKING:
    import optuna

_BEGUN, _STORE = "sweep.json", "study.db"
_USUAL = 20
_HOPELESS = 3
"""Trials that may fail before any succeeds."""
_EHR_TRAIN = (sys.executable, "-c", "from ehr_train.cli import main; main()")


@dataclass(frozen=True, slots=True)
class Search:
    """How a space is searched."""

    trials: int | None = None
    """In all; `run_cap` of the file where None, else 20. A grid has no more than it has settings."""
    workers: int = 1
    minutes: float | None = None
    prune: str | None = None
    """none, median or hyperband; None: as the file says."""
    seed: int = 0


def run_sweep(
    space: Space,
    arguments: Sequence[str],
    out: PathLike,
    search: Search | None = None,
    *,
    resume: bool = False,
    overwrite: bool = False,
    program: Sequence[str] = _EHR_TRAIN,
) -> Swept:
    """Search a space with runs in processes of their own.

    With one worker the same seed gives the same trials, however often the sweep is stopped.

    Args:
        space: What is sought, from `space.read_space`.
        arguments: Options of each run but `--out` and `--resume`.
        out: Directory of the sweep.
        search: How.
        resume: Go on with the sweep in `out`; begin where there is none.
        overwrite: Replace the sweep in `out`.
        program: The command that trains.

    Raises:
        UserError: If Optuna is missing, `out` is taken or was begun otherwise, or all trials fail.
        StoppedError: If it was asked to stop.
    """
    out, search = Path(out), search or Search()
    if find_spec("optuna") is None:
        raise UserError(
            "a sweep needs optuna, which is not installed: pip install 'ehr-train[optuna]'"
        )

    stop = Stop()
    with held(out), stop.listening():
        _begin(out, space, arguments, search, resume=resume, overwrite=overwrite)
        driver = Driver(space, [*program, *arguments], out, search)
        with stop.heeded(lambda _: driver.stop.set()):
            driver.go()
        swept = write_page(out, driver.study, space)
    if stop.by:
        raise StoppedError(f"stopped by {stop.by}; go on with --resume")
    if driver.hopeless:
        raise UserError(
            f"the first {_HOPELESS} trials failed, the last one with: {driver.hopeless}; see {out / TRIALS}"
        )
    return swept


def _begin(
    out: Path,
    space: Space,
    arguments: Sequence[str],
    search: Search,
    *,
    resume: bool,
    overwrite: bool,
) -> None:
    """Have the directory there, with what was asked for.

    Raises:
        UserError: If something else is.
    """
    asked = {"sweep": to_dict(space.config), "run": list(arguments), "seed": search.seed}
    path = out / _BEGUN
    if path.is_file() and resume:
        if json.loads(path.read_text(encoding="utf-8")) != asked:
            raise UserError(
                f"{out} was begun with another sweep, --run or --seed; choose another --out"
            )
        return
    if out.exists() and any(out.iterdir()):
        if not path.is_file():
            raise UserError(f"{out} is not empty and holds no sweep; choose another path")
        if not overwrite:
            raise UserError(f"{out} holds a sweep; pass --resume to go on or --overwrite")
        shutil.rmtree(out)
    (out / TRIALS).mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps(asked, indent=1) + "\n")


class Driver:
    """Asks Optuna for trials and runs them, several at a time."""

    def __init__(self, space: Space, command: Sequence[str], out: Path, search: Search) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        self.space, self.command, self.out, self.search = space, command, out, search
        self.most = search.trials or space.config.run_cap or _USUAL
        self.stop = threading.Event()
        self.hopeless = ""
        """Why trials fail, where all do."""
        self._lock = threading.Lock()
        self._figure = f"val_{space.config.metric.figure}"
        self._distributions = {p.key: p.distribution() for p in space.parameters}
        self.study = optuna.create_study(
            study_name="sweep",
            storage=f"sqlite:///{(out / _STORE).absolute()}",
            direction=space.config.metric.goal,
            pruner=_pruner(space, search),
            load_if_exists=True,
        )
        if space.config.method == "grid":
            there = len(self.study.get_trials(deepcopy=False))
            for settings in islice(space.grid(), there, None):
                self.study.enqueue_trial(_as_params(settings, space))
        # nobody else writes here, so what runs by the database was left by a sweep that was killed
        self._left = [t for t in self.study.get_trials() if t.state.name == "RUNNING"]

    def go(self) -> None:
        """Run until all is done, time is over or someone asks to stop."""
        over = None if self.search.minutes is None else time.monotonic() + 60 * self.search.minutes
        failures: list[BaseException] = []

        def work(number: int) -> None:
            try:
                while not self.stop.is_set() and (over is None or time.monotonic() < over):
                    trial = self._next()
                    if trial is None:
                        return
                    self._run(trial, number)
            except BaseException as e:
                failures.append(e)
                self.stop.set()

        threads = [threading.Thread(target=work, args=(n,)) for n in range(self.search.workers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            while thread.is_alive():
                thread.join(0.5)  # a signal is heard between two waits
        if failures:
            raise failures[0]

    def _next(self) -> "optuna.Trial | None":
        import optuna

        with self._lock:
            while self._left:
                left = self._left.pop(0)
                if left.params.keys() == self._distributions.keys():
                    return optuna.Trial(self.study, left._trial_id)
                self.study.tell(left.number, state=optuna.trial.TrialState.FAIL)
            trials = self.study.get_trials(deepcopy=False)
            begun = sum(t.state.name != "WAITING" for t in trials)
            exhausted = self.space.config.method == "grid" and begun == len(trials)
            if begun >= self.most or exhausted:
                return None
            self.study.sampler = self._sampler(begun)
            return self.study.ask(self._distributions)

    def _sampler(self, begun: int) -> "optuna.samplers.BaseSampler":
        """Anew for each trial, so that a sweep that goes on draws as one that was never stopped."""
        from optuna.samplers import RandomSampler, TPESampler

        seed = (self.search.seed * 1_000_003 + begun) % 2**32
        if self.space.config.method == "bayes":
            return TPESampler(seed=seed, constant_liar=self.search.workers > 1)
        return RandomSampler(seed=seed)

    def _run(self, trial: "optuna.Trial", worker: int) -> None:
        settings = [f"{key}={value}" for key, value in trial.params.items()]
        command = [*self.command, *(x for item in settings for x in ("-s", item))]
        values: list[float] = []

        def report(found: list[float]) -> bool:
            values[:] = found
            with self._lock:
                known = self.study.get_trials(deepcopy=False)[trial.number].intermediate_values
                for i, value in enumerate(found, 1):
                    if i not in known:
                        trial.report(value, i)
                return trial.should_prune()

        out = self.out / TRIALS / f"{trial.number:04d}"
        began = time.monotonic()
        done = run_trial(command, out, self._figure, report, self.stop, self._environment(worker))
        if done.state == "stopped":
            return
        if done.state == "complete" and not values:
            done = Outcome("failed", f"no validation gave {self._figure}")
        with self._lock:
            trial.set_user_attr("seconds", round(time.monotonic() - began, 1))
            trial.set_user_attr("why", done.why)
            self._tell(trial, done, values)
        self._say(trial, done, values)

    def _tell(self, trial: "optuna.Trial", done: Outcome, values: list[float]) -> None:
        from optuna.trial import TrialState

        if done.state == "complete":
            best = min if self.space.config.metric.goal == "minimize" else max
            self.study.tell(trial, best(values))
            return
        self.study.tell(
            trial, state=TrialState.PRUNED if done.state == "pruned" else TrialState.FAIL
        )
        states = [t.state for t in self.study.get_trials(deepcopy=False) if t.state.is_finished()]
        if len(states) >= _HOPELESS and all(s == TrialState.FAIL for s in states):
            self.hopeless = done.why
            self.stop.set()

    def _environment(self, worker: int) -> dict[str, str]:
        """A share of the cores, and a GPU of its own where there are several workers."""
        found = {}
        workers = self.search.workers
        if "OMP_NUM_THREADS" not in os.environ and workers > 1:
            found["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // workers))
        devices = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if workers > 1 else [""]
        if devices == [""] and workers > 1:
            import torch

            devices = [str(i) for i in range(torch.cuda.device_count())]
        if any(devices):
            found["CUDA_VISIBLE_DEVICES"] = devices[worker % len(devices)]
        return found

    def _say(self, trial: "optuna.Trial", done: Outcome, values: list[float]) -> None:
        figure = f"{self._figure} {values[-1]:.6g}" if values else ""
        told = ", ".join(f"{key}={value}" for key, value in trial.params.items())
        click.echo(
            " ".join(f"trial {trial.number} {done.state}: {figure} {told} {done.why}".split()),
            err=True,
        )


def _as_params(settings: Mapping[str, str], space: Space) -> dict[str, Any]:
    """A setting of a grid as the values that its distributions hold."""
    return {
        p.key: settings[p.key] if p.choices else json.loads(settings[p.key])
        for p in space.parameters
    }


def _pruner(space: Space, search: Search) -> "optuna.pruners.BasePruner":
    from optuna.pruners import HyperbandPruner, MedianPruner, NopPruner

    file = space.config.early_terminate
    kind = search.prune or (file.type if file else "none")
    if kind == "median":
        return MedianPruner(n_startup_trials=4, n_warmup_steps=1)
    if kind == "hyperband":
        return HyperbandPruner(
            min_resource=file.min_iter if file else 1,
            max_resource=(file.max_iter or "auto") if file else "auto",
            reduction_factor=file.eta if file else 3,
        )
    return NopPruner()
