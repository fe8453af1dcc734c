"""Any causal or masked architecture of transformers, from a local directory; without torch."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import model_validator
from pydantic.dataclasses import dataclass

from ehr_models.kinds.record import ArchitectureConfig, Kind
from ehr_tracking.config import STRICT, ConfigError

FIELD = "ehr_kind"
"""What the configuration of such a model says of its kind, since no table does."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class AutoModelConfig(ArchitectureConfig):
    """A model of transformers, causal or masked, with the weights of its body and our vocabulary."""

    kind: Literal["auto"] = "auto"
    path: Path
    """Local directory of config.json and safetensors weights."""
    trust_code: bool = False
    """Run the code that lies in the directory, where transformers has no such architecture itself."""

    @model_validator(mode="after")
    def _is_as_it_lies_there(self) -> Self:
        fields = ArchitectureConfig.__dataclass_fields__
        given = [n for n in fields if n != "kind" and getattr(self, n) != fields[n].default]
        if given:
            raise ValueError(f"{given[0]} is what config.json of {self.path} says; leave it out")
        return self


AUTO = Kind(
    name="auto",
    config=AutoModelConfig,
    sizes={},
    module="ehr_models.kinds.auto.model",
    sees="past",
    isolates="padded",
    inputs={"input_ids": "input_ids"},
    token_head=(),
    adapters=(),
)
"""Of a directory that was not looked at yet; `told` and `kind_of_directory` say more."""


PACKED = {"input_ids": "input_ids", "position_ids": "position_ids"}
"""What one takes that looks its attention up by name."""


def told(said: Mapping[str, Any]) -> Kind:
    """The kind of a model that was built so, from what its configuration says of it (`FIELD`)."""
    lists: dict[str, Any] = {n: tuple(said[n]) for n in ("token_head", "adapters", "heads")}
    packed = said.get("isolates") == "spans"
    ways: dict[str, Any] = {"isolates": "spans", "inputs": PACKED} if packed else {}
    return replace(AUTO, sees=said["sees"], caches=said.get("caches", False), **lists, **ways)


def read(directory: Path) -> dict[str, Any]:
    """The config.json of a directory.

    Raises:
        ConfigError: If it is no local directory or has none.
    """
    path = directory / "config.json"
    if not directory.is_dir():
        raise ConfigError(f"model.path = {directory} is no local directory")
    if not path.is_file():
        raise ConfigError(f"{directory} has no config.json: it holds no model of transformers")
    try:
        tree = json.loads(path.read_bytes())
    except ValueError as e:
        raise ConfigError(f"{path}: not JSON: {e}") from None
    if not isinstance(tree, dict) or not isinstance(tree.get("model_type"), str):
        raise ConfigError(f"{path} names no model_type")
    return tree


def sees(directory: Path, tree: Mapping[str, Any]) -> Literal["past", "all"]:
    """Whether the model of a config.json is causal or masked, by its first architecture.

    Args:
        directory: For messages.
        tree: From `read`.

    Raises:
        ConfigError: If it is neither.
    """
    name = str((tree.get("architectures") or [""])[0])
    if not tree.get("is_encoder_decoder"):
        if name.endswith(("ForCausalLM", "LMHeadModel")):
            return "past"
        if name.endswith("ForMaskedLM"):
            return "all"
    raise ConfigError(
        f"{directory}: {name or tree['model_type']} is neither causal nor masked; kind auto reads "
        "architectures that end with ForCausalLM or ForMaskedLM"
    )
