"""Every public function takes a path as `str` or as `os.PathLike`.

Public is what guides show, what commands call, what wheels are tried with, and the readers that the
packages' tables name. mypy holds that a
path which may be a string is made a `Path` before it is used as one.
"""

import ast
import importlib
import inspect
import re
import runpy
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)

READERS = {
    "ehr_tracking.arrow.labels": ("read_labels", "read_task"),
    "ehr_tracking.arrow.meds": ("data_files", "read_events", "read_codes"),
    "ehr_tracking.arrow.splits": ("read_splits",),
    "ehr_tracking.arrow.features": ("write_features", "read_index"),
    "ehr_tracking.manifest": ("read_manifest",),
    "ehr_models.vocabulary": ("read_vocabulary",),
    "ehr_eval.features.read": ("read_features",),
}


def sources() -> Iterator[str]:
    for guide in (ROOT / "README.md", *ROOT.glob("docs/**/*.md"), *ROOT.glob("packages/*/*.md")):
        yield from BLOCK.findall(guide.read_text())
    modules = [p.read_text() for p in ROOT.glob("packages/*/src/**/*.py")]
    yield from (text for text in modules if "import click" in text and "command(" in text)
    yield from runpy.run_path(str(ROOT / "tests/test_wheels.py"))["USES"].values()


def imported() -> set[tuple[str, str]]:
    nodes = [node for text in sources() for node in ast.walk(ast.parse(text))]
    return {(module, name) for module, names in READERS.items() for name in names} | {
        (node.module, alias.name)
        for node in nodes
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("ehr_")
        for alias in node.names
    }


def _hidden(name: str) -> bool:
    return name.startswith("_") and name != "__init__"


def functions(thing: object) -> Iterator[Callable[..., object]]:
    if inspect.isclass(thing):
        members = [getattr(m, "__func__", m) for m in list(vars(thing).values())]
        yield from (m for m in members if inspect.isfunction(m) and not _hidden(m.__name__))
    elif inspect.isfunction(thing):
        yield thing


def public() -> dict[str, Callable[..., object]]:
    found = {}
    for module, name in imported():
        try:
            thing = getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError):  # a guide's own example of an extension, or a module
            continue
        for function in functions(thing):
            if function.__module__.startswith("ehr_"):
                found[f"{function.__module__}.{function.__qualname__}"] = function
    return found


PUBLIC = public()


def takes_path(annotation: object) -> bool:
    return bool(re.search(r"\bPath\b", str(annotation)))


def test_what_users_call_is_found() -> None:
    known = {
        "ehr_tokenize.tokenizer.tokenizer.Tokenizer.from_pretrained",
        "ehr_tokenize.build.build.tokenize",
        "ehr_models.checkpoint.load_checkpoint",
        "ehr_train.run.train",
        "ehr_eval.protocol.ehrshot.run_ehrshot",
        "ehr_tracking.manifest.verify",
    }
    assert known <= PUBLIC.keys()


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_a_public_function_takes_a_path_as_a_string(name: str) -> None:
    told = PUBLIC[name].__annotations__
    only_path = [p for p, what in told.items() if p != "return" and takes_path(what)]
    assert only_path == [], (
        f"annotate with ehr_tracking.files.PathLike, and begin with Path({only_path[0]})"
    )
