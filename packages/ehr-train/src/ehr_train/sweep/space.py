"""A sweep as Weights & Biases writes it, read and checked before anything runs.

https://docs.wandb.ai/models/sweeps/sweep-config-keys
"""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass as plain
from itertools import product
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BeforeValidator, Field
from pydantic.dataclasses import dataclass

from ehr_tracking.config import STRICT, ConfigError, parse_scalar, read_yaml, validate
from ehr_tracking.files import PathLike

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

_FIELDS = {"value", "values", "min", "max", "q", "distribution", "parameters", "probabilities"}
_RANGES = ("int_uniform", "uniform", "q_uniform", "log_uniform", "log_uniform_values")
_DISTRIBUTIONS = ("constant", "categorical", *_RANGES)
_MOST = 10_000
"""Settings of a grid: more are not meant."""


def _number(value: object) -> object:
    """`1e-6`, which YAML 1.1 takes for text, as the number that everyone means."""
    found = parse_scalar(value) if isinstance(value, str) else value
    if isinstance(found, bool) or not isinstance(found, int | float) or not math.isfinite(found):
        raise ValueError(f"{value!r} is no number")
    return found


Number = Annotated[int | float, BeforeValidator(_number)]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class MetricConfig:
    """What is sought."""

    name: str
    """A figure of validation, e.g. `val_loss` or `val_auroc`; `eval/loss` means the same."""
    goal: Literal["minimize", "maximize"]
    target: float | None = None
    """Of W&B; not heeded here."""

    @property
    def figure(self) -> str:
        """As the objective calls it.

        Examples:
            >>> [MetricConfig(name=n, goal="minimize").figure for n in ("eval/loss", "val_loss", "loss")]
            ['loss', 'loss', 'loss']
        """
        for prefix in ("eval/", "eval_", "val/", "val_"):
            if self.name.startswith(prefix):
                return self.name.removeprefix(prefix)
        return self.name


@dataclass(frozen=True, kw_only=True, config=STRICT)
class TerminateConfig:
    """Ending trials that do worse than others did."""

    type: Literal["hyperband"]
    min_iter: Annotated[int, Field(ge=1)] = 1
    """Validations before the first look."""
    max_iter: Annotated[int, Field(ge=1)] | None = None
    """Validations of a whole trial; None: as the first ones have."""
    s: int | None = None
    eta: Annotated[int, Field(ge=2)] = 3
    strict: bool = False


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ParameterConfig:
    """What one setting may be."""

    value: Any = None
    values: Annotated[list[Any], Field(min_length=1)] | None = None
    min: Number | None = None
    max: Number | None = None
    q: Number | None = None
    distribution: str | None = None


@dataclass(frozen=True, kw_only=True, config=STRICT)
class SweepConfig:
    """The file; what only W&B heeds is let through."""

    method: Literal["bayes", "grid", "random"]
    metric: MetricConfig
    parameters: Annotated[dict[str, Any], Field(min_length=1)]
    early_terminate: TerminateConfig | None = None
    run_cap: Annotated[int, Field(ge=1)] | None = None
    """Most trials."""
    program: str | None = None
    command: list[str] | None = None
    name: str | None = None
    description: str | None = None
    project: str | None = None
    entity: str | None = None


@plain(frozen=True, slots=True)
class Parameter:
    """One setting of a run and where it is sought."""

    key: str
    """Dotted, as `-s` has it."""
    choices: tuple[str, ...] = ()
    """As `-s` has them; none for a range."""
    low: float = 0
    high: float = 0
    step: float | None = None
    log: bool = False
    whole: bool = False

    @property
    def ends(self) -> tuple[str, ...]:
        """Each choice, or both ends of a range."""
        return self.choices or (repr(self.low), repr(self.high))

    def height(self, value: str | float) -> float:
        """Where a value lies between the ends, from 0 to 1.

        Examples:
            >>> Parameter("a", ("x", "y", "z")).height("y"), Parameter("b", low=1, high=100, log=True).height(10)
            (0.5, 0.5)
        """
        if self.choices:
            return self.choices.index(str(value)) / max(1, len(self.choices) - 1)
        place = math.log if self.log else float
        low, high = place(self.low), place(self.high)
        return (place(float(value)) - low) / (high - low) if high > low else 0.5

    def steps(self) -> tuple[str, ...]:
        """All that a grid tries.

        Raises:
            ConfigError: If they are not countable.
        """
        if self.choices:
            return self.choices
        step = self.step or (1 if self.whole and not self.log else None)
        if step is None:
            raise ConfigError(
                f"parameters.{self.key}: a grid takes `values`, or whole numbers from min to max"
            )
        n = math.floor((self.high - self.low) / step + 1e-9) + 1
        return tuple(repr(self.low + i * step) for i in range(min(n, _MOST + 1)))

    def distribution(self) -> "BaseDistribution":
        """As Optuna has it."""
        from optuna.distributions import CategoricalDistribution as Choice
        from optuna.distributions import FloatDistribution, IntDistribution

        if self.choices:
            return Choice(self.choices)
        if self.whole:
            return IntDistribution(
                int(self.low), int(self.high), log=self.log, step=int(self.step or 1)
            )
        return FloatDistribution(self.low, self.high, log=self.log, step=self.step)


@plain(frozen=True, slots=True)
class Space:
    """A sweep, ready to be run."""

    config: SweepConfig
    parameters: tuple[Parameter, ...]

    def first(self) -> list[str]:
        """One setting of each, as `-s` has it."""
        return [f"{p.key}={p.ends[0]}" for p in self.parameters]

    def grid(self) -> Iterator[dict[str, str]]:
        """Each combination, the last parameter the fastest."""
        for combination in product(*(p.steps() for p in self.parameters)):
            yield {p.key: text for p, text in zip(self.parameters, combination, strict=True)}

    @property
    def size(self) -> int:
        """Combinations of a grid."""
        return math.prod(len(p.steps()) for p in self.parameters)


def read_space(path: PathLike) -> Space:
    """Read a sweep.

    Args:
        path: YAML in the form of W&B, with the keys of `TrainConfig`, dotted or nested.

    Raises:
        ConfigError: In one line, naming the key.
    """
    config = validate(SweepConfig, read_yaml(path), where=str(path))
    parameters = tuple(
        _parameter(key, given, f"{path}: parameters.{key}")
        for key, given in _flat(config.parameters, str(path))
    )
    space = Space(config, parameters)
    if config.method == "grid" and space.size > _MOST:
        raise ConfigError(f"{path}: a grid of more than {_MOST:,} trials; take random or bayes")
    return space


def _flat(
    given: Mapping[str, Any], where: str, prefix: str = ""
) -> Iterator[tuple[str, dict[str, Any]]]:
    for key, inner in given.items():
        dotted = f"{prefix}{key}"
        if not isinstance(inner, dict) or not inner.keys() & _FIELDS:
            raise ConfigError(
                f"{where}: parameters.{dotted} says neither value, values, min and max nor parameters"
            )
        if "parameters" in inner:
            yield from _flat(inner["parameters"], where, f"{dotted}.")
        else:
            yield dotted, inner


def _parameter(key: str, tree: dict[str, Any], where: str) -> Parameter:
    given = validate(ParameterConfig, tree, where=where)
    kind = given.distribution or _usual(given, tree)
    if kind not in _DISTRIBUTIONS:
        raise ConfigError(f"{where}: distribution {kind!r} is none of {', '.join(_DISTRIBUTIONS)}")
    if kind in ("constant", "categorical"):
        values = [given.value] if kind == "constant" else given.values
        if values is None or (kind == "constant" and "value" not in tree):
            raise ConfigError(f"{where}: {kind} needs value{'s' * (kind == 'categorical')}")
        return Parameter(key, tuple(dict.fromkeys(map(setting, values))))
    low, high = given.min, given.max
    if low is None or high is None or low > high:
        raise ConfigError(f"{where}: {kind} needs min and max, min at most max")
    return _range(key, kind, low, high, given.q, where)


def _range(key: str, kind: str, low: float, high: float, q: float | None, where: str) -> Parameter:
    if kind == "log_uniform":  # its ends are exponents of e
        kind, low, high = "log_uniform_values", math.exp(low), math.exp(high)
    if kind == "log_uniform_values" and low <= 0:
        raise ConfigError(f"{where}: {kind} needs min above 0")
    if kind == "q_uniform" and (q is None or q <= 0):
        raise ConfigError(f"{where}: q_uniform needs q above 0")
    whole = all(isinstance(x, int) for x in (low, high, *([q] if kind == "q_uniform" else [])))
    if kind == "int_uniform" and not whole:
        raise ConfigError(f"{where}: int_uniform needs whole numbers")
    return Parameter(
        key,
        low=low if whole and kind in ("int_uniform", "q_uniform") else float(low),
        high=high if whole and kind in ("int_uniform", "q_uniform") else float(high),
        step=q if kind == "q_uniform" else None,
        log=kind == "log_uniform_values",
        whole=whole and kind in ("int_uniform", "q_uniform"),
    )


def _usual(given: ParameterConfig, tree: Mapping[str, Any]) -> str:
    """What W&B takes where no distribution is named."""
    if "value" in tree:
        return "constant"
    if given.values is not None:
        return "categorical"
    return "int_uniform" if isinstance(given.min, int) and isinstance(given.max, int) else "uniform"


def setting(value: object) -> str:
    """A value as `-s` has it.

    Examples:
        >>> [setting(x) for x in (8, 1e-6, True, None, "gpt2", "1e-6", [0.9, 0.98])]
        ['8', '1e-06', 'true', 'null', 'gpt2', '1e-6', '[0.9, 0.98]']
    """
    return value if isinstance(value, str) else json.dumps(value)
