"""Models that differ in settings along axes, written as one."""

from dataclasses import replace
from itertools import product

from ehr_tracking.config import ConfigError
from workflow.config import CompareConfig, ModelSpec


def expanded(config: CompareConfig) -> CompareConfig:
    """The comparison with every combination of a grid as a model of its own.

    Raises:
        ConfigError: If an axis is empty, or a combination is called as another model.

    Examples:
        >>> size = {"s": {"model.hidden": 32}, "m": {"model.hidden": 64}}
        >>> long = {"1m": {"optim.steps": 100}, "2m": {"optim.steps": 200}}
        >>> model = ModelSpec(scheme="joint", recipe="r.yaml", set={"optim.lr": 0.01}, grid=(size, long))
        >>> from workflow.config import DataConfig, Settings
        >>> schemes, data = {"joint": Settings()}, {"mimic": DataConfig(meds="m")}
        >>> found = expanded(CompareConfig(data=data, schemes=schemes, models={"gpt2": model})).models
        >>> list(found), found["gpt2-m-2m"].set
        (['gpt2-s-1m', 'gpt2-s-2m', 'gpt2-m-1m', 'gpt2-m-2m'], {'optim.lr': 0.01, 'model.hidden': 64, 'optim.steps': 200})
    """
    models: dict[str, ModelSpec] = {}
    for name, spec in config.models.items():
        for axis in spec.grid:
            if not axis:
                raise ConfigError(f"models.{name}.grid has an axis without a name")
        for chosen in product(*(axis.items() for axis in spec.grid)):
            whole = "-".join([name, *(part for part, _ in chosen)])
            if whole in models:
                raise ConfigError(f"two models are called {whole}; choose another name for one")
            settings = dict(spec.set)
            for _, more in chosen:
                settings |= more
            models[whole] = replace(spec, set=settings, grid=())
    return replace(config, models=models)
