"""What is known of the models of a comparison from their training runs: the same from run to run."""

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ehr_eval.compare.opened import Artifact, Given
from ehr_tracking.checkpoints import CheckpointStore
from ehr_tracking.comparison.records import Record, read_records
from ehr_tracking.config import dotted
from ehr_tracking.contracts import ADAPTER
from ehr_tracking.manifest import load_manifest
from ehr_tracking.runs import read_log

_STARTS = "starts.jsonl"
_LOGS = ("config.yaml", "metrics.jsonl", "environment.json")


def records(given: Given) -> list[Record]:
    """The runs, called as their models.

    Raises:
        ContractError: If a file that is read was changed since the run was sealed.
    """
    found = []
    for name, run in given.runs.items():
        for file in _LOGS:
            run.file(file)
        found.append(replace(read_records([run.path])[0], name=name))
    return found


def model_rows(given: Given) -> list[dict[str, object]]:
    """A row a run: kind, size, numbers, what it learnt from and how well."""
    rows = []
    for record in records(given):
        run = given.runs[record.name]
        config = run.manifest.config
        model = config.get("model") or {}
        rows.append(
            {
                "model": record.name,
                "kind": model.get("kind"),
                "size": model.get("size"),
                "parameters": record.facts["parameters"],
                "kept as": _kept(run),
                "objective": (config.get("objective") or {}).get("kind"),
                "context": (config.get("data") or {}).get("context"),
                "steps": record.facts["steps"],
                "tokens seen": record.facts["tokens"],
                "seed": run.manifest.seed,
                "best validation loss": record.best("val_loss"),
            }
        )
    return rows


def settings(given: Given) -> dict[str, Mapping[str, Any]]:
    """Model -> the resolved configuration of its run, with dotted keys; what is unset is left out."""
    return {
        name: {
            key: value for key, value in dotted(run.manifest.config).items() if value is not None
        }
        for name, run in given.runs.items()
    }


def environments(given: Given) -> dict[str, dict[str, Any]]:
    """Model -> `environment.json` of its run, and as how many processes it began."""
    found = {}
    for name, run in given.runs.items():
        found[name] = json.loads(run.file("environment.json").read_text(encoding="utf-8"))
        starts = read_log(run.file(_STARTS)) if _STARTS in run.manifest.files else []
        if starts:
            found[name]["processes"] = starts[0]["processes"]
    return found


def _kept(run: Artifact) -> str:
    """Whether the numbers are of a whole model, or of what is added to a base."""
    store = CheckpointStore(run.path / "checkpoints")
    kept = store.best() or store.latest()
    whole = kept is None or load_manifest(kept).contract != ADAPTER.tag
    return "whole model" if whole else "adapter and heads"
