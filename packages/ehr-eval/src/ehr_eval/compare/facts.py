"""What tokens and labels say of the data: subjects, events, vocabulary, tasks, who was left out."""

import json
from collections.abc import Mapping
from typing import Any

import polars as pl

from ehr_eval.compare.opened import Artifact
from ehr_tracking.contracts import SPLITS

_COVERAGE = ("events", "unknown", "excluded", "wider", "plain", "parent")
"""Counts of a family of codes in `coverage.json`, in their order."""


def split_rows(tokens: Artifact) -> list[dict[str, object]]:
    """A row a split of tokens: subjects, tokens, and events that were told, unknown or excluded."""
    covered = _coverage(tokens)
    found = []
    for split in SPLITS:
        files = [name for name in tokens.manifest.files if name.startswith(f"{split}/")]
        told = covered.get(split, {})
        found.append(
            {
                "split": split,
                "subjects": sum(tokens.manifest.files[name].rows or 0 for name in files),
                "events": told.get("events"),
                "with an unknown code": told.get("unknown"),
                "further events, excluded": told.get("excluded"),
                "tokens": sum(_length(tokens, name) for name in files),
            }
        )
    return found


def vocabulary_rows(tokens: Artifact) -> list[dict[str, object]]:
    """A row a kind of token, and their sum."""
    kinds = tokens.table("vocab.parquet")["kind"].value_counts(name="tokens").sort("kind")
    rows: list[dict[str, object]] = kinds.to_dicts()
    return [*rows, {"kind": "all", "tokens": kinds["tokens"].sum()}]


def task_rows(labels: Artifact) -> list[dict[str, object]]:
    """A row a task: rows and positives of each split."""
    return [
        {"task": task}
        | {
            f"{split} {what}": told["splits"].get(split, {}).get(what)
            for split in SPLITS
            for what in ("rows", "positives")
        }
        for task, told in tasks(labels).items()
    ]


def exclusion_rows(labels: Artifact) -> list[dict[str, object]]:
    """A row a task and reason: how many rows are none because of it."""
    return [
        {"task": task, "left out because": reason, "rows": count}
        for task, told in tasks(labels).items()
        for reason, count in told.get("left_out", {}).items()
    ]


def tasks(labels: Artifact) -> Mapping[str, Any]:
    """`tasks.json`: how each was made."""
    found: Mapping[str, Any] = json.loads(labels.file("tasks.json").read_text(encoding="utf-8"))
    return found


def _length(tokens: Artifact, name: str) -> int:
    lengths = pl.scan_parquet(tokens.file(name)).select(pl.col("token").list.len().sum())
    return int(lengths.collect().item() or 0)


def _coverage(tokens: Artifact) -> dict[str, dict[str, int]]:
    """Split -> counts of its events over families of codes; nothing where an older version wrote none."""
    if "coverage.json" not in tokens.manifest.files:
        return {}
    tree = json.loads(tokens.file("coverage.json").read_text(encoding="utf-8"))
    return {
        split: {what: sum(row[i] for row in of.values()) for i, what in enumerate(_COVERAGE)}
        for split, of in tree.items()
    }
