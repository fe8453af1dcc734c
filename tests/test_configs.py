"""Each recipe that we ship loads into the config of its command."""

import re
from pathlib import Path

import pytest
import yaml

from ehr_eval.counts.config import CountsConfig
from ehr_eval.protocol.config import EhrshotConfig
from ehr_eval.survival.config import SurvivalConfig
from ehr_tokenize.config import TokenizeConfig
from ehr_tokenize.narrative.config import NarrateConfig
from ehr_tokenize.sources.config import EventsConfig, MimicConfig, OmopConfig, PatientsJsonConfig
from ehr_tokenize.synthetic.config import SynthConfig
from ehr_tokenize.synthetic.sequence.config import SequenceConfig
from ehr_tracking.config import load_config
from ehr_train.cli import main as ehr_train
from ehr_train.config import TrainConfig
from ehr_train.sweep.checks import check_space, options_of
from ehr_train.sweep.space import SweepConfig, read_space
from workflow.config import CompareConfig

CONFIGS = Path(__file__).parents[1] / "configs"
SCHEMA = {
    "tokenize": TokenizeConfig,
    "narrate": NarrateConfig,
    "synth": SynthConfig,
    "synth/sequence": SequenceConfig,
    "train": TrainConfig,
    "sweep": SweepConfig,
    "text": TrainConfig,
    "counts": CountsConfig,
    "eval": EhrshotConfig,
    "eval/survival": SurvivalConfig,
    "sources/mimic": MimicConfig,
    "sources/omop": OmopConfig,
    "sources/events": EventsConfig,
    "sources/patients-json": PatientsJsonConfig,
    "compare": CompareConfig,
}
"""Folder of recipes, or one recipe, and the config it is for."""
RECIPES = sorted(CONFIGS.glob("*/*.yaml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_a_recipe_loads(path: Path) -> None:
    folder = path.parent.name
    schema = SCHEMA.get(f"{folder}/{path.stem}") or SCHEMA[folder]
    assert type(load_config(schema, path)) is schema


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("sweep/*.yaml")), ids=lambda p: p.stem)
def test_a_sweep_fits_the_run_that_it_names(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(CONFIGS.parent)
    found = re.search(r'--run "(.+)"', path.read_text())
    assert found is not None
    check_space(read_space(path), options_of(found[1], ehr_train), path)


def test_each_command_with_a_config_has_a_recipe() -> None:
    found = {p.parent.name for p in RECIPES} | {f"{p.parent.name}/{p.stem}" for p in RECIPES}
    assert set(SCHEMA) <= found


def test_trackers_in_containers_listen_on_this_machine_alone_and_are_the_versions_pinned() -> None:
    text = (CONFIGS / "compose.yaml").read_text()
    services = yaml.safe_load(text)["services"]
    assert set(services) == {"mlflow", "tensorboard"}
    assert all(p.startswith("127.0.0.1:") for s in services.values() for p in s["ports"])
    assert services["mlflow"]["environment"]["MLFLOW_DISABLE_TELEMETRY"] == "true"
    pages = text + (CONFIGS.parent / "docs" / "track.md").read_text()
    pins = (CONFIGS.parent / "pyproject.toml").read_text()
    for shown, pinned in [("mlflow", "mlflow-skinny"), ("tensorboard", "tensorboard")]:
        found = set(re.findall(rf"{shown}(?::v|==|@)(\d[\d.]+\d)", pages))
        assert found == {re.search(rf'"{pinned}==([^"]+)"', pins)[1]}
