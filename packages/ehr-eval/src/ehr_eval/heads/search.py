"""Which points of a head's settings are tried: its grid, or what Optuna makes of it."""

from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from typing import Any

from ehr_eval.extras import require
from ehr_eval.features.mapped import Matrix
from ehr_eval.heads import HEADS
from ehr_eval.heads.grid import SEED, Fit, HeadConfig, Labels


def tried(
    config: HeadConfig, train: tuple[Matrix, Labels], score: Callable[[Fit], float]
) -> Iterator[tuple[Fit, float]]:
    """Fits on the training rows with their scores on the tuning rows.

    Args:
        config: Its lists are the grid. Where it names a number of trials, Optuna's TPE (Bergstra et
            al., 2011; seeded) looks between the least and the greatest of each list instead, on a
            logarithmic scale, and among the members of a list that holds what is not above 0.
        train: Features and labels to fit on.
        score: Of a fit, the higher the better.

    Raises:
        UserError: If Optuna is asked for and not installed.
    """
    if config.trials is None:
        for fit in HEADS[config.kind].fits(config, *train):
            yield fit, score(fit)
        return
    require("optuna", "`trials` of a head")
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=SEED))
    for _ in range(config.trials):
        trial = study.ask()
        point = {name: _suggest(trial, name, values) for name, values in _lists(config).items()}
        fit = fit_at(config, point, *train)
        value = score(fit)
        study.tell(trial, value)
        yield fit, value


def fit_at(config: HeadConfig, point: dict[str, float], x: Matrix, y: Labels) -> Fit:
    """The fit at one point: fields of the config -> values."""
    lists: dict[str, Any] = {name: (value,) for name, value in point.items()}
    alone = replace(config, **lists)
    return next(HEADS[config.kind].fits(alone, x, y))


def _lists(config: HeadConfig) -> dict[str, tuple[Any, ...]]:
    """The fields that a grid is made of."""
    values = {f.name: getattr(config, f.name) for f in fields(config)}
    return {name: value for name, value in values.items() if isinstance(value, tuple)}


def _suggest(trial: Any, name: str, values: tuple[Any, ...]) -> Any:  # noqa: ANN401 -- Optuna's, untyped
    least, most = min(values), max(values)
    if least <= 0 or least == most:
        return trial.suggest_categorical(name, list(dict.fromkeys(values)))
    suggest = trial.suggest_int if isinstance(least, int) else trial.suggest_float
    return suggest(name, least, most, log=True)
