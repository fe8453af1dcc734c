"""From a YAML file and `-s a.b=c` overrides to one frozen, validated dataclass."""

import dataclasses
import json
import re
from collections.abc import Hashable, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

import yaml
from pydantic import AfterValidator, ConfigDict, TypeAdapter, ValidationError

from ehr_tracking.errors import UserError
from ehr_tracking.files import PathLike

T = TypeVar("T")

STRICT = ConfigDict(extra="forbid", defer_build=True)
"""For `@pydantic.dataclasses.dataclass(frozen=True, kw_only=True, config=STRICT)`."""


class ConfigError(UserError):
    """The configuration as written does not fit its schema."""


def load_config(cls: type[T], path: PathLike | None = None, overrides: Iterable[str] = ()) -> T:
    """Build a config: the defaults of `cls`, then the YAML file, then the overrides.

    Args:
        cls: A pydantic dataclass made with `config=STRICT`, or a union of such.
        path: YAML file whose keys mirror the fields of `cls`.
        overrides: `dotted.key=value` each; the value is read as YAML.

    Raises:
        ConfigError: With the dotted path of each wrong key or value.
    """
    path = None if path is None else Path(path)
    tree = read_yaml(path) if path else {}
    for item in overrides:
        key, equals, value = item.partition("=")
        if not equals:
            raise ConfigError(f"override {item!r} is not of the form key=value")
        try:
            _assign(tree, key.split("."), parse_scalar(value))
        except yaml.YAMLError:
            raise ConfigError(f"override {item!r}: the value is not YAML") from None
    _name_default_kinds(cls, tree)
    return validate(cls, tree, where=str(path) if path else "config")


def validate(cls: type[T], tree: dict[str, Any], *, where: str) -> T:
    """Check a tree of plain values against `cls` and return the config it describes.

    Raises:
        ConfigError: Naming each wrong key by its dotted path, in one line.
    """
    try:
        return TypeAdapter(cls).validate_python(tree)
    except ValidationError as e:
        raise ConfigError(f"{where}: {'; '.join(_explain(x) for x in e.errors())}") from None


def parse_scalar(text: str) -> Any:  # noqa: ANN401 -- YAML holds any value
    """Read one override value as YAML, with `3e-4` as the number that everyone means.

    Examples:
        >>> parse_scalar("3e-4"), parse_scalar("[1, 2]"), parse_scalar("true"), parse_scalar("a")
        (0.0003, [1, 2], True, 'a')
    """
    value = yaml.safe_load(text)
    if isinstance(value, str):
        try:  # YAML 1.1 wants a dot in 3.0e-4
            return float(value) if value.lower() not in {"nan", "inf", "infinity"} else value
        except ValueError:
            return value
    return value


def to_dict(config: Any) -> dict[str, Any]:  # noqa: ANN401 -- any dataclass instance
    """The resolved config as plain JSON values, to be stored in a manifest."""
    tree: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(config), default=str))
    return tree


def dotted(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The leaves of a tree of settings by their dotted keys, as `-s` names them.

    Examples:
        >>> dotted({"optim": {"lr": 0.1, "betas": [0.9, 0.98]}, "seed": 0})
        {'optim.lr': 0.1, 'optim.betas': [0.9, 0.98], 'seed': 0}
    """
    leaves: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            leaves |= dotted(value, f"{prefix}{key}.")
        else:
            leaves[f"{prefix}{key}"] = value
    return leaves


def read_yaml(path: PathLike) -> dict[str, Any]:
    """Read a YAML file that must hold a mapping.

    Raises:
        ConfigError: If it is missing, not YAML, not a mapping, or holds a key twice.
    """
    path = Path(path)
    if not path.is_file():
        raise ConfigError(f"{path}: no such config file")
    try:
        tree = _Loader(path.read_text(encoding="utf-8")).get_single_data()
    except (yaml.YAMLError, UnicodeDecodeError) as e:
        raise ConfigError(f"{path}: not YAML: {' '.join(str(e).split())}") from None
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: expected keys and values, found a {type(tree).__name__}")
    return tree


def regex(pattern: str) -> str:
    """The same pattern.

    Raises:
        ValueError: If it is no regular expression.

    Examples:
        >>> regex("^LAB//")
        '^LAB//'
    """
    try:
        re.compile(pattern)
    except re.error as e:
        raise ValueError(f"{pattern!r} is no regular expression: {e}") from None
    return pattern


Regex = Annotated[str, AfterValidator(regex)]
"""A field of a config that holds one, searched in codes."""


class _Loader(yaml.SafeLoader):
    """Refuses a key that is there twice, of which YAML's own loader takes the last without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """As the loader of yaml does."""
        keys = [key.value for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(
                    None, None, f"key {key} is there twice", node.start_mark
                )
        return super().construct_mapping(node, deep)


def _assign(tree: dict[str, Any], keys: list[str], value: object) -> None:
    *parents, leaf = keys
    for key in parents:
        child = tree.setdefault(key, {})
        if not isinstance(child, dict):
            child = tree[key] = {}
        tree = child
    tree[leaf] = value


def _name_default_kinds(cls: Any, tree: dict[str, Any]) -> None:  # noqa: ANN401 -- any type
    """Where a variant is set without its `kind`, the default's is meant: `-s model.layers=4`."""
    for name, field in getattr(cls, "__pydantic_fields__", {}).items():
        given = tree.get(name)
        if not isinstance(given, dict) or field.is_required():
            continue
        default = field.get_default(call_default_factory=True, validated_data={})
        if isinstance(kind := getattr(default, "kind", None), str):
            given.setdefault("kind", kind)
        _name_default_kinds(type(default), given)


def _explain(error: Any) -> str:  # noqa: ANN401 -- pydantic's ErrorDetails
    key = ".".join(str(part) for part in error["loc"])
    if error["type"] in {"unexpected_keyword_argument", "extra_forbidden"}:
        return f"unknown key {key}"
    if error["type"] == "missing":
        return f"{key} has to be set"
    return f"{key} = {error['input']!r}: {error['msg']}"
