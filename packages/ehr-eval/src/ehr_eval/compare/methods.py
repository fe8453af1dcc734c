"""methods.md: what a paper's methods section states, each number read from an artifact."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ehr_eval.compare.facts import exclusion_rows, split_rows, task_rows, tasks, vocabulary_rows
from ehr_eval.compare.models import environments, model_rows, settings
from ehr_eval.compare.opened import Artifact, Given
from ehr_eval.compare.shown import each, legend
from ehr_tracking.config import dotted
from ehr_tracking.manifest import ancestry
from ehr_tracking.report import markdown_table

_HEAD = (
    "Facts for a methods section. Every number was read from the manifests and files of the artifacts that were "
    "compared; none was typed. What was not given to `ehr-eval compare` is said to be missing."
)
_SHORT = 16
"""Digits of a fingerprint that are shown."""


def write_methods(path: Path, given: Given) -> None:
    """Write methods.md: data, tasks, models, evaluation, software and hardware.

    Args:
        path: The file.
        given: What is compared.
    """
    parts = [
        "# Methods",
        _HEAD,
        "## Data",
        *_data(given),
        "## Tasks",
        *_tasks(given),
        "## Models",
        *_models(given),
        "## Evaluation",
        *_evaluation(given),
        "## Software and hardware",
        *_software(given),
    ]
    path.write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def _data(given: Given) -> Iterator[str]:
    if not given.tokens:
        yield "No tokens were given (`--tokens`)."
    for name, tokens in given.tokens.items():
        config = tokens.manifest.config
        yield f"### Tokens: {name}"
        yield (
            f"Scheme `{config['scheme']['kind']}`, made by {tokens.manifest.producer} of {_parents(tokens)}. Subjects and "
            "events by split:"
        )
        yield markdown_table(split_rows(tokens))
        yield "The vocabulary was fitted on train. Its tokens by kind:"
        yield markdown_table(vocabulary_rows(tokens))
        yield "Settings:"
        yield _block(dotted(config))


def _tasks(given: Given) -> Iterator[str]:
    if not given.labels:
        yield "No labels were given (`--labels`)."
    for i, labels in enumerate(given.labels):
        used = [name for name, item in given.results.items() if given.labels_of(item) is labels]
        if len(given.labels) > 1:
            yield f"### Labels {i + 1}" + (f": {', '.join(used)}" if used else "")
        yield f"Made by {labels.manifest.producer} of {_parents(labels)}. Rows and positives:"
        yield markdown_table(task_rows(labels))
        yield "Rows that were left out, by reason:"
        yield markdown_table(exclusion_rows(labels))
        yield "Definitions:"
        yield "\n".join(f"- `{task}`: {told['definition']}" for task, told in tasks(labels).items())


def _models(given: Given) -> Iterator[str]:
    without = [name for name in given.seeds if name not in given.runs]
    if without:
        yield f"Without a training run (`--run`): {', '.join(without)}."
    if given.runs:
        yield from _trained(given)
    for what, named in (("Features", given.features), ("Predictions", given.predictions)):
        for name, item in named.items():
            yield f"{what} of {name}:"
            yield _block(dotted(item.manifest.config))


def _trained(given: Given) -> Iterator[str]:
    yield (
        "Parameters are counted in the weights that are kept (a tied weight once, the padding of the vocabulary "
        "included); tokens seen are those of records, repeats counted."
    )
    yield markdown_table(model_rows(given))
    found = settings(given)
    same, other = _split(found)
    if other:
        yield "Hyperparameters that differ:"
        yield markdown_table(other)
    yield "Hyperparameters that all share:" if len(found) > 1 else "Hyperparameters:"
    yield _block(same)


def _evaluation(given: Given) -> Iterator[str]:
    yield (
        "EHRSHOT's few-shot protocol: for each k and replicate, k rows of each class are drawn from train to fit on "
        "and from tuning to choose hyperparameters on; each head is judged on all held-out rows."
    )
    yield from legend(given)
    for _, item, ending in each(given):
        compared = len(item.table("comparisons.parquet"))
        yield f"### Protocol{ending}"
        yield f"By {item.manifest.producer}; {compared:,} comparisons of two models on a task at one k, settings:"
        yield _block(dotted(item.manifest.config))


def _software(given: Given) -> Iterator[str]:
    producers = sorted({s.producer for _, s in ancestry(given.sources) if s.producer != "unknown"})
    yield f"Written by {', '.join(producers)}."
    machines: dict[str, list[str]] = {}
    for name, found in environments(given).items():
        machines.setdefault(json.dumps(found, sort_keys=True), []).append(name)
    if not machines:
        yield "No training run was given, so nothing is known of the machines."
    for text, names in machines.items():
        found = json.loads(text)
        packages = found.pop("packages", {})
        yield f"Trained on (as each run began): {', '.join(names)}"
        yield _block({**found, **packages})


def _split(
    found: Mapping[str, Mapping[str, Any]],
) -> tuple[dict[str, Any], list[dict[str, object]]]:
    """Settings that all models share, and a row for each of the others."""
    keys = dict.fromkeys(key for one in found.values() for key in one)
    same: dict[str, Any] = {}
    other: list[dict[str, object]] = []
    for key in keys:
        values = [one.get(key) for one in found.values()]
        if all(value == values[0] for value in values):
            same[key] = values[0]
        else:
            told = (None if v is None else json.dumps(v) for v in values)
            other.append({"setting": key, **dict(zip(found, told, strict=True))})
    return same, other


def _parents(item: Artifact) -> str:
    found = item.manifest.inputs.items()
    return ", ".join(f"{role} {s.contract} `{s.fingerprint[:_SHORT]}`" for role, s in found)


def _block(found: Mapping[str, Any]) -> str:
    lines = (
        f"{key}: {value if isinstance(value, str) else json.dumps(value)}"
        for key, value in found.items()
    )
    return "\n".join(["```yaml", *lines, "```"])
