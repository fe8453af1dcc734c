"""Grids of models and the study over them, as the graph of a comparison has them."""

from pathlib import Path

import pytest
import yaml

from ehr_tracking.config import ConfigError
from workflow.graph import build
from workflow.loaded import load

COMPARE = Path(__file__).parents[1] / "configs/compare"


@pytest.mark.parametrize("name", ["scaling", "scaling-sequence"])
def test_a_study_that_we_ship_has_a_run_for_every_size_and_budget_and_is_made_from_all(
    name, monkeypatch
) -> None:
    monkeypatch.chdir(COMPARE.parents[1])
    loaded = load(COMPARE / f"{name}.yaml")
    graph = build(loaded, raw={})
    runs = {node.id: loaded.models[node.name.split("@")[0]] for node in graph.values() if node.stage == "runs"}  # fmt: skip
    found = {(r.model.kind, r.model.hidden, r.model.layers, r.optim.steps) for r in runs.values()}
    sizes = ((32, 2), (64, 3), (128, 4))
    assert found == {
        (kind, *size, steps)
        for kind in ("gpt2", "chrono", "behrt")
        for size in sizes
        for steps in (41, 123, 369)
    }
    assert len({r.data.batch_tokens for r in runs.values()}) == 1
    study = next(node for node in graph.values() if node.stage == "scaling")
    results = next(node.id for node in graph.values() if node.stage == "results")
    assert set(study.inputs) == {*runs, results}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"grid": [{"s": {}}, {}]}, r"models\.gpt2\.grid has an axis without a name"),
        ({"grid": [{"s": {}}, {"1": {}, "2": {"optim.lr": -1.0}}]}, r"models\.gpt2-s-2: .*optim\.lr"),
        ({"grid": [{"s": {"model.width": 3}}]}, r"models\.gpt2-s: .*width"),
    ],
)  # fmt: skip
def test_a_grid_that_does_not_fit_is_refused_by_its_place(change, message, tmp_path) -> None:
    tree = yaml.safe_load((COMPARE / "scaling.yaml").read_text())
    of_gpt2 = {"scheme": "joint", "recipe": str(COMPARE.parent / "train/gpt2-clm.yaml")}
    tree |= {"models": {"gpt2": of_gpt2 | change}, "schemes": {"joint": {}}}
    tree["data"] = {"cohort": {"synth": {"risks": True}}}
    path = tmp_path / "c.yaml"
    path.write_text(yaml.safe_dump(tree))
    with pytest.raises(ConfigError, match=message):
        load(path)


def test_a_study_needs_the_best_possible(tmp_path) -> None:
    path = tmp_path / "c.yaml"
    text = (COMPARE / "scaling.yaml").read_text().replace("risks: true", "risks: false")
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"scaling: data\.cohort knows no best possible"):
        load(path)
