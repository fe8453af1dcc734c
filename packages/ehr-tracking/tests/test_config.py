from dataclasses import field
from pathlib import Path
from typing import Annotated, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field
from pydantic.dataclasses import dataclass

from ehr_tracking.config import STRICT, ConfigError, load_config, parse_scalar, to_dict


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Optim:
    lr: Annotated[float, Field(gt=0)] = 1e-3
    steps: int = 10


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Small:
    kind: Literal["small"] = "small"
    width: int = 8


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Wide:
    kind: Literal["wide"] = "wide"
    width: int = 64
    experts: int = 2


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Nested:
    model: Annotated[Small | Wide, Field(discriminator="kind")] = field(default_factory=Wide)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Config:
    optim: Optim = field(default_factory=Optim)
    name: str = "a"
    kind: Literal["x", "y"] = "x"


def test_defaults_then_file_then_overrides(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("optim: {lr: 0.5, steps: 3}\nname: b\n")
    config = load_config(Config, path, ["optim.lr=3e-4"])
    assert config == Config(optim=Optim(lr=3e-4, steps=3), name="b")


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["optim.lrr=1"], "unknown key optim.lrr"),
        (["optim.lr=-1"], "optim.lr = -1: Input should be greater than 0"),
        (["optim.lr=fast"], "optim.lr = 'fast'"),
        (["kind=z"], "kind = 'z'"),
        (["optim"], "not of the form key=value"),
        (["name=[1"], "the value is not YAML"),
    ],
)
def test_a_wrong_key_is_named_by_its_dotted_path_in_one_line(overrides, said: str) -> None:
    with pytest.raises(ConfigError) as e:
        load_config(Config, None, overrides)
    assert said in str(e.value)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize(
    ("overrides", "model"),
    [
        (["model.experts=4"], Wide(experts=4)),
        (["model.kind=small"], Small()),
        (["model.width=3", "model.kind=small"], Small(width=3)),
    ],
)
def test_a_variant_without_its_kind_is_the_default_one(overrides, model) -> None:
    assert load_config(Nested, None, overrides).model == model


@pytest.mark.parametrize("text", ["- a\n", "a: [", "7"])
def test_a_file_that_is_no_mapping_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"c\.yaml: "):
        load_config(Config, path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such config file"):
        load_config(Config, tmp_path / "none.yaml")


def test_yaml_cannot_build_objects(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("name: !!python/object/apply:os.getcwd []\n")
    with pytest.raises(ConfigError, match="not YAML"):
        load_config(Config, path)


@given(st.floats(min_value=1e-300, max_value=1e300), st.integers())
def test_a_resolved_config_loads_back_to_itself(lr: float, steps: int) -> None:
    config = Config(optim=Optim(lr=lr, steps=steps))
    assert load_config(Config, None, [f"optim.lr={lr!r}", f"optim.steps={steps}"]) == config
    assert to_dict(config)["optim"] == {"lr": lr, "steps": steps}


@given(st.text())
def test_any_override_value_is_read_or_refused(text: str) -> None:
    try:
        load_config(Config, None, [f"name={text}"])
    except ConfigError as e:
        assert "\n" not in str(e)


def test_words_that_python_would_read_as_numbers_stay_words() -> None:
    assert parse_scalar("nan") == "nan"
