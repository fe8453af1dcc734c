"""Whether the names of a comparison fit together, and what its parts are called; reads nothing else."""

from collections.abc import Collection, Sized

from ehr_tracking.config import ConfigError
from ehr_tracking.names import require_name
from workflow.config import COUNTS, CompareConfig


def check_names(config: CompareConfig) -> None:
    """Raise unless every name is one that there is, and stands for one thing.

    Raises:
        ConfigError: Naming the first that is not.
        UserError: If one cannot be the name of a file.

    Examples:
        >>> from workflow.config import DataConfig, ModelSpec, Settings
        >>> config = CompareConfig(
        ...     data={"mimic": DataConfig(meds="m")},
        ...     schemes={"joint": Settings()},
        ...     models={"gpt2": ModelSpec(scheme="jiont", recipe="r.yaml")},
        ... )
        >>> check_names(config)
        Traceback (most recent call last):
        ehr_tracking.config.ConfigError: models.gpt2.scheme: unknown scheme jiont; there are joint
    """
    for what in ("data", "schemes", "models", "zeroshot"):
        for name in getattr(config, what):
            require_name(name, what)
            if set(name) & set("@=, {}"):
                raise ConfigError(
                    f"{what}.{name}: a name may not hold @, =, {{, }}, commas, spaces"
                )
    taken = [*config.models, *config.zeroshot, *([COUNTS] if config.counts else [])]
    if twice := sorted({name for name in taken if taken.count(name) > 1}):
        raise ConfigError(f"two models are called {twice[0]}; choose another name for one")
    _check_data(config)
    _check_models(config)
    for name, asked in config.zeroshot.items():
        _known("model", f"zeroshot.{name}.model", asked.model, config.models)
    for pair in config.compare:
        for name in pair:
            _known("model", "compare", name, taken)


def called(name: str, seed: int, seeds: Sized) -> str:
    """What a model is called in results.

    Examples:
        >>> called("gpt2", 0, [0, 1]), called("gpt2", 0, [0])
        ('gpt2@0', 'gpt2')
    """
    return f"{name}@{seed}" if len(seeds) > 1 else name


def link(folder: str, *parts: tuple[str, Collection[str]]) -> str:
    """Where an artifact is found below OUT: a name is left out where there is no other of its kind.

    Args:
        folder: Of its stage.
        parts: Each a name, and all of its kind; of none, the name is always told.

    Examples:
        >>> link("tokens", ("mimic", ["mimic"]), ("joint", ["joint", "visits"]))
        'tokens/joint'
        >>> link("results", ("mimic", ["mimic"])), link("features", ("mimic", ["mimic"]), ("gpt2@0", ()))
        ('results', 'features/gpt2@0')
    """
    told = ".".join(name for name, among in parts if len(among) != 1)
    return f"{folder}/{told}" if told else folder


def _check_data(config: CompareConfig) -> None:
    for name, one in config.data.items():
        if (one.meds is None) == (one.synth is None):
            raise ConfigError(f"data.{name}: give either meds or synth")
    trained = [name for name, one in config.data.items() if not one.test]
    for name, one in config.data.items():
        if config.scaling is not None and not (one.synth and one.synth.risks):
            raise ConfigError(
                f"scaling: data.{name} knows no best possible: synth with risks: true has it"
            )
    if len(trained) != 1:
        raise ConfigError(
            f"data: one data set is trained on, not {len(trained)}; mark all others with test: true"
        )


def _check_models(config: CompareConfig) -> None:
    for name, model in config.models.items():
        _known("scheme", f"models.{name}.scheme", model.scheme, config.schemes)
        if len({*model.seeds}) < len(model.seeds):
            raise ConfigError(f"models.{name}.seeds holds a number twice")
        chain, at = [name], model.init
        while at is not None:
            _known("model", f"models.{chain[-1]}.init", at, config.models)
            if config.models[at].scheme != model.scheme:
                raise ConfigError(f"models.{name}.init: {at} is of another scheme")
            if at in chain:
                raise ConfigError(f"models.{name}.init: {' -> '.join([*chain, at])} is a circle")
            chain.append(at)
            at = config.models[at].init


def _known(what: str, where: str, name: str, names: Collection[str]) -> None:
    if name not in names:
        raise ConfigError(f"{where}: unknown {what} {name}; there are {', '.join(names)}")
