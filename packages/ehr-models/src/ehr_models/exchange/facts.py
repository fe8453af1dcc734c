"""What manifests, run logs and results know of a model, gathered for its card.

n rows of results.
"""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ehr_models import __version__
from ehr_models.adapters.files import CONFIG, WEIGHTS
from ehr_models.vocabulary import Word, read_vocabulary
from ehr_tracking.contracts import ADAPTER, RESULTS, ContractError
from ehr_tracking.errors import UserError
from ehr_tracking.manifest import Manifest, Source, ancestry, check_file, read_manifest, source
from ehr_tracking.runs import read_log

FEW = 10
"""Subjects below which a count of people is commonly not published."""
_METRICS = ("auroc", "auprc", "brier")


@dataclass(frozen=True, kw_only=True, slots=True)
class Score:
    """One row of `results/1`: a mean over draws, fitted on all rows."""

    task: str
    head: str
    metric: str
    value: float
    lower: float | None
    upper: float | None
    n: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Scores:
    """What one evaluation says of the model."""

    name: str
    """Of the model there."""
    source: Source
    rows: tuple[Score, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Facts:
    """All that a card tells and nobody has to type."""

    kind: str
    size: str | None
    pretraining: str
    head: str
    sees: str
    inputs: tuple[str, ...]
    """What its forward takes, but positions."""
    architecture: Mapping[str, Any]
    """`config.json`."""
    parameters: int
    """True count; a tied weight once, the rows that pad the embedding included."""
    adapter: Mapping[str, Any] | None
    """Of peft, where this is an adapter."""
    words: tuple[Word, ...]
    scheme: Mapping[str, Any]
    """How events become tokens."""
    fitted: Mapping[str, Any]
    """Bins and limits of the vocabulary."""
    manifest: Manifest
    """Of the checkpoint."""
    source: Source
    metrics: Mapping[str, float]
    """At the checkpoint's step."""
    environment: Mapping[str, Any]
    """Of the run; empty where only a checkpoint is at hand."""
    progress: Mapping[str, float]
    """Steps, tokens, hours; empty likewise."""
    scores: tuple[Scores, ...]

    @property
    def remote(self) -> bool:
        """Whether transformers needs the code beside the weights."""
        return bool(self.architecture.get("auto_map"))

    @property
    def licensed_data(self) -> dict[str, Source]:
        """Raw data in the lineage: role -> what carries no manifest of ours."""
        return {role: given for role, given in ancestry(self.manifest.inputs) if not given.inputs}

    @property
    def kinds(self) -> Counter[str]:
        """How many tokens there are of each kind."""
        return Counter(word.kind for word in self.words)

    @property
    def rare(self) -> int:
        """Tokens of codes that fewer than `FEW` subjects have in train, and at least one."""
        return sum(0 < word.subjects < FEW for word in self.words if word.kind != "special")


def read_progress(directory: Path) -> tuple[dict[str, Any], dict[str, float]]:
    """What the run that a checkpoint lies in says: its environment, and steps, tokens and hours.

    Args:
        directory: `<run>/checkpoints/step-<n>`; of any other both are empty.
    """
    run, step = directory.resolve().parent.parent, directory.name.removeprefix("step-")
    if not (run / "environment.json").is_file() or not step.isdecimal():
        return {}, {}
    environment = json.loads((run / "environment.json").read_bytes())
    progress: dict[str, float] = {"steps": int(step)}
    for row in read_log(run / "metrics.jsonl"):
        if row.get("step", 0) <= int(step) and "tokens" in row:
            progress["tokens"] = row["tokens"]
    laps = [r for r in read_log(run / "timings.jsonl") if r.get("step", 0) <= int(step)]
    if laps:
        progress["hours"] = sum(lap["seconds"] for lap in laps) / 3600
    return environment, progress


def read_scores(name: str, directory: Path) -> Scores:
    """Mean scores of a model at k = -1, of all tasks.

    Args:
        name: Of the model in these results.
        directory: `results/1`.

    Raises:
        ContractError: If it is no such artifact.
        UserError: If it says nothing of that model.
    """
    manifest = read_manifest(directory, RESULTS, reader=f"ehr-models {__version__}")
    table = pq.read_table(check_file(directory, manifest, "results.parquet"))
    models = sorted(set(table["model"].to_pylist()))
    if name not in models:
        raise UserError(
            f"--results {name}={directory}: it has no model {name}; it has {', '.join(models)}"
        )
    wanted = pc.and_(pc.equal(table["model"], name), pc.is_in(table["metric"], pa.array(_METRICS)))
    rows = [r for r in table.filter(wanted).to_pylist() if r["value"] is not None]
    best = [r for r in rows if r["k"] == -1 and r["replicate"] == -1]
    best = best or [r for r in rows if r["k"] == -1]
    scores = tuple(
        Score(
            task=r["task"], head=r["head"], metric=r["metric"], value=r["value"],
            lower=r["lower"], upper=r["upper"], n=r["n"],
        )
        for r in sorted(best, key=lambda r: (r["task"], r["head"], _METRICS.index(r["metric"])))
    )  # fmt: skip
    return Scores(name=name, source=source(directory), rows=scores)


def read_tokenizer(directory: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """How events become tokens, and bins and limits; empty where the tokenizer is of another form.

    Args:
        directory: Holds `tokenizer.json`.
    """
    tree = json.loads((directory / "tokenizer.json").read_bytes())
    config = tree.get("config", {}) if isinstance(tree, dict) else {}
    return config.get("scheme", {}), {
        "n_bins": config.get("numeric", {}).get("n_bins"),
        **config.get("vocabulary", {}),
    }


def gather(
    directory: Path,
    loaded: Any,  # noqa: ANN401 -- a LoadedCheckpoint, which needs torch
    scores: tuple[Scores, ...],
) -> Facts:
    """All facts of a checkpoint.

    Args:
        directory: The checkpoint.
        loaded: The same, loaded.
        scores: Of it.

    Raises:
        ContractError: If its vocabulary cannot be read.
    """
    adapted = loaded.manifest.contract == ADAPTER.tag
    adapter = json.loads((directory / CONFIG).read_bytes()) if adapted else None
    if adapted and not (directory / WEIGHTS).is_file():
        raise ContractError(f"{directory} has no {WEIGHTS}")
    scheme, fitted = read_tokenizer(directory)
    environment, progress = read_progress(directory)
    return Facts(
        kind=loaded.kind.name,
        size=(loaded.manifest.config.get("model") or {}).get("size"),
        pretraining=loaded.kind.pretraining,
        head=loaded.head,
        sees=loaded.kind.sees,
        inputs=tuple(n for n in loaded.kind.inputs if n != "position_ids"),
        architecture=json.loads((directory / "config.json").read_bytes()),
        parameters=sum(p.numel() for p in loaded.model.parameters()),
        adapter=adapter,
        words=tuple(read_vocabulary(directory)),
        scheme=scheme,
        fitted=fitted,
        manifest=loaded.manifest,
        source=loaded.source,
        metrics=json.loads((directory / "metrics.json").read_bytes()),
        environment=environment,
        progress=progress,
        scores=scores,
    )
