"""Each recipe that we ship loads into the config of its command."""

from pathlib import Path

import pytest

from ehr_eval.config import EhrshotConfig
from ehr_tokenize.config import TokenizeConfig
from ehr_tokenize.narrative.config import NarrateConfig
from ehr_tracking.config import load_config
from ehr_train.config import TrainConfig

CONFIGS = Path(__file__).parents[1] / "configs"
SCHEMA = {
    "tokenize": TokenizeConfig,
    "narrate": NarrateConfig,
    "train": TrainConfig,
    "eval": EhrshotConfig,
}
RECIPES = sorted(CONFIGS.glob("*/*.yaml"))


def test_there_are_recipes_for_each_command() -> None:
    assert {p.parent.name for p in RECIPES} == set(SCHEMA)


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_a_recipe_loads(path: Path) -> None:
    config = load_config(SCHEMA[path.parent.name], path)
    assert type(config) is SCHEMA[path.parent.name]
