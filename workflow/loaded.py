"""A comparison with every file that it names read into the config of its command."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ehr_eval.audit.config import AuditConfig
from ehr_eval.counts.config import CountsConfig
from ehr_eval.features.config import FeaturesConfig
from ehr_eval.generate.zeroshot_config import ZeroshotConfig
from ehr_eval.protocol.config import EhrshotConfig
from ehr_eval.scaling.config import ScalingConfig
from ehr_eval.tasks.config import LabelsConfig
from ehr_tokenize.config import TokenizeConfig
from ehr_tokenize.synthetic.worlds import WORLDS
from ehr_tracking.config import ConfigError, load_config
from ehr_train.config import TrainConfig
from workflow.config import CompareConfig, Settings
from workflow.grid import expanded
from workflow.names import check_names


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """All of a comparison, resolved."""

    config: CompareConfig
    synth: dict[str, Any]
    """Data set -> SynthConfig or SequenceConfig."""
    schemes: dict[str, TokenizeConfig]
    models: dict[str, TrainConfig]
    """As for the first seed."""
    labels: LabelsConfig
    features: FeaturesConfig
    counts: CountsConfig | None
    zeroshot: dict[str, ZeroshotConfig]
    evaluate: EhrshotConfig
    audit: AuditConfig | None
    scaling: ScalingConfig | None


def load(path: Path, meds: dict[str, Path] | None = None) -> Loaded:
    """Read a comparison and all that it names.

    Args:
        path: The file.
        meds: Data set -> MEDS directory, in place of what the file says; "" is the one trained on.

    Raises:
        ConfigError: In one line, naming what does not fit.
    """
    config = load_config(CompareConfig, path)
    for name, directory in (meds or {}).items():
        config = _with_meds(config, name, directory)
    try:
        config = expanded(config)
        check_names(config)
        return _resolved(config)
    except ConfigError as e:
        raise ConfigError(f"{path}: {e}") from None


def _with_meds(config: CompareConfig, name: str, directory: Path) -> CompareConfig:
    name = name or config.trained_on
    if name not in config.data:
        raise ConfigError(f"--meds {name}: unknown data set; there are {', '.join(config.data)}")
    one = replace(config.data[name], meds=directory, synth=None)
    return replace(config, data={**config.data, name: one})


def _resolved(config: CompareConfig) -> Loaded:
    return Loaded(
        config=config,
        synth={
            name: one.synth.load(WORLDS[one.synth.world].config_class())
            for name, one in config.data.items()
            if one.synth
        },
        schemes={name: one.load(TokenizeConfig) for name, one in config.schemes.items()},
        models={name: _recipe(config, name) for name in config.models},
        labels=config.labels.load(LabelsConfig),
        features=config.features.load(FeaturesConfig),
        counts=config.counts.load(CountsConfig) if config.counts else None,
        zeroshot={name: one.load(ZeroshotConfig) for name, one in config.zeroshot.items()},
        evaluate=config.evaluate.load(EhrshotConfig),
        audit=config.audit.load(AuditConfig) if config.audit else None,
        scaling=config.scaling.load(ScalingConfig) if config.scaling else None,
    )


def _recipe(config: CompareConfig, name: str) -> TrainConfig:
    spec = config.models[name]
    try:
        given = Settings(config=spec.recipe, set=spec.set)
        return given.load(TrainConfig, seed=spec.seeds[0])
    except ConfigError as e:
        raise ConfigError(f"models.{name}: {e}") from None
