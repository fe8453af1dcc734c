"""What a comparison is: one file that names data, schemes, models, tasks, and what is compared."""

import json
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import Field
from pydantic.dataclasses import dataclass

from ehr_tracking.config import STRICT, load_config

T = TypeVar("T")
Stage = Literal[
    "meds",
    "tokens",
    "labels",
    "runs",
    "features",
    "counts",
    "predictions",
    "results",
    "audit",
    "comparison",
    "scaling",
]
COUNTS = "counts"
"""What the baseline's features are called among those of models."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Settings:
    """What a command is given: its config file, and single settings that are other than there."""

    config: Path | None = None
    set: dict[str, Any] = Field(default_factory=dict)
    """Dotted key -> value."""

    def load(self, cls: type[T], **more: object) -> T:
        """The config that they describe.

        Args:
            cls: Of the command.
            more: Further settings, by name.

        Raises:
            ConfigError: Where they do not fit it.
        """
        given = {**self.set, **more}
        return load_config(cls, self.config, [f"{k}={json.dumps(v)}" for k, v in given.items()])


@dataclass(frozen=True, kw_only=True, config=STRICT)
class SynthData(Settings):
    """A cohort that is drawn."""

    world: Literal["cohort", "sequence"] = "cohort"
    risks: bool = False
    """Write the best possible risks as well, and show them among results."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class DataConfig:
    """One data set: a MEDS directory, or one that is drawn."""

    meds: Path | None = None
    synth: SynthData | None = None
    test: bool = False
    """Nothing is fitted or trained on it: it has the tokenizers of the other one, whose models it tests."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ModelSpec:
    """One model, trained once for each seed."""

    scheme: str
    """Of `schemes`."""
    recipe: Path
    """Config file of ehr-train."""
    set: dict[str, Any] = Field(default_factory=dict)
    """Dotted key -> value."""
    seeds: tuple[int, ...] = Field(default=(0,), min_length=1)
    init: str | None = None
    """A model of this file that it starts from: that of the same seed, where it has it, else its first."""
    nproc: int = Field(default=1, ge=1)
    """Processes of a run on one machine."""
    grid: tuple[dict[str, dict[str, Any]], ...] = ()
    """Axes, each name -> further settings: in place of this model one for every combination, `model-name-name`."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class LabelsSpec(Settings):
    """Settings of `ehr-eval labels`."""

    task_files: tuple[str, ...] = ()
    """Tasks as YAML, or of the library by name."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ZeroshotSpec(Settings):
    """One model asked for risks without labels, under a name of its own."""

    model: str
    tasks: tuple[str, ...] = Field(min_length=1)
    """Of the library, or files."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Resources:
    """What each job of a stage may take."""

    threads: int | None = Field(default=None, ge=1)
    """Also processes, of a command that shares its work out; None: all cores for `meds`, `predictions` and
    `results`, a model's `nproc` for `runs`, else 1."""
    gpus: int = Field(default=0, ge=0)
    mem_mb: int | None = Field(default=None, ge=1)
    """None: twice what is estimated."""
    minutes: int | None = Field(default=None, ge=1)
    """Limit of a job on a cluster; None: three times what is estimated, and an hour at least."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class CompareConfig:
    """One comparison."""

    data: dict[str, DataConfig] = Field(min_length=1)
    schemes: dict[str, Settings] = Field(min_length=1)
    """Settings of `ehr-tokenize`."""
    models: dict[str, ModelSpec] = Field(min_length=1)
    labels: LabelsSpec = Field(default_factory=LabelsSpec)
    features: Settings = Field(default_factory=Settings)
    """Of `ehr-eval features`."""
    counts: Settings | None = Field(default_factory=Settings)
    """Of `ehr-eval counts`, the baseline; null: none."""
    zeroshot: dict[str, ZeroshotSpec] = Field(default_factory=dict)
    evaluate: Settings = Field(default_factory=Settings)
    """Of `ehr-eval ehrshot`."""
    compare: tuple[tuple[str, str], ...] = ()
    """Further pairs of models, which are compared seed by seed."""
    audit: Settings | None = Field(default_factory=Settings)
    """Of `ehr-eval audit`; null: none."""
    scaling: Settings | None = None
    """Of `ehr-eval scaling`, over all models, where the best possible is known; null: none."""
    resources: dict[Stage, Resources] = Field(default_factory=dict)

    @property
    def trained_on(self) -> str:
        """Name of the data set that models see."""
        return next(name for name, one in self.data.items() if not one.test)

    def of(self, stage: Stage) -> Resources:
        """What a job of a stage may take."""
        return self.resources.get(stage, Resources())
