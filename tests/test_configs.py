"""Each recipe that we ship loads into the config of its command."""

from pathlib import Path

import pytest

from ehr_eval.protocol.config import EhrshotConfig
from ehr_eval.survival.config import SurvivalConfig
from ehr_tokenize.config import TokenizeConfig
from ehr_tokenize.narrative.config import NarrateConfig
from ehr_tokenize.sources.config import EventsConfig, MimicConfig, OmopConfig, PatientsJsonConfig
from ehr_tokenize.synthetic.config import SynthConfig
from ehr_tracking.config import load_config
from ehr_train.config import TrainConfig

CONFIGS = Path(__file__).parents[1] / "configs"
SCHEMA = {
    "tokenize": TokenizeConfig,
    "narrate": NarrateConfig,
    "synth": SynthConfig,
    "train": TrainConfig,
    "eval": EhrshotConfig,
    "eval/survival": SurvivalConfig,
    "sources/mimic": MimicConfig,
    "sources/omop": OmopConfig,
    "sources/events": EventsConfig,
    "sources/patients-json": PatientsJsonConfig,
}
"""Folder of recipes, or one recipe, and the config it is for."""
RECIPES = sorted(p for p in CONFIGS.glob("*/*.yaml") if p.stem != "compose")


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_a_recipe_loads(path: Path) -> None:
    folder = path.parent.name
    schema = SCHEMA.get(f"{folder}/{path.stem}") or SCHEMA[folder]
    assert type(load_config(schema, path)) is schema


def test_each_command_with_a_config_has_a_recipe() -> None:
    found = {p.parent.name for p in RECIPES} | {f"{p.parent.name}/{p.stem}" for p in RECIPES}
    assert set(SCHEMA) <= found
