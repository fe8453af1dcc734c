"""What is compared: results, and what they were made from, each checked to be of the others' lineage."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import polars as pl

from ehr_eval.compare.seeds import model_of, refuse_clashes
from ehr_eval.frames import PRODUCER
from ehr_tracking.contracts import (
    ADAPTER,
    AUDIT,
    CHECKPOINT,
    FEATURES,
    LABELS,
    PREDICTIONS,
    RESULTS,
    RUN,
    TOKENS,
    Contract,
    ContractError,
)
from ehr_tracking.errors import UserError
from ehr_tracking.files import PathLike
from ehr_tracking.manifest import Manifest, Source, ancestry, check_file, read_manifest, source

_CHECKPOINTS = "checkpoints/"
_MODELS = (CHECKPOINT.name, ADAPTER.name)


@dataclass(frozen=True, slots=True)
class Artifact:
    """A sealed directory."""

    path: Path
    manifest: Manifest
    source: Source

    def file(self, name: str) -> Path:
        """One of its files, as it was sealed.

        Raises:
            ContractError: If it is missing, or was changed.
        """
        return check_file(self.path, self.manifest, name)

    def table(self, name: str) -> pl.DataFrame:
        """One of its tables."""
        return pl.read_parquet(self.file(name))


@dataclass(frozen=True)
class Given:
    """Everything that a comparison reads."""

    results: Mapping[str, Artifact]
    runs: Mapping[str, Artifact]
    """Model, with its seed where it has one, -> its `run/1`."""
    features: Mapping[str, Artifact]
    predictions: Mapping[str, Artifact]
    tokens: Mapping[str, Artifact]
    labels: Sequence[Artifact]
    audits: Sequence[Artifact]

    @cached_property
    def sources(self) -> dict[str, Source]:
        """For the manifest, by role."""
        found = {f"results.{name}": item.source for name, item in self.results.items()}
        found |= {f"run.{name}": item.source for name, item in self.runs.items()}
        found |= {f"features.{name}": item.source for name, item in self.features.items()}
        found |= {f"predictions.{name}": item.source for name, item in self.predictions.items()}
        found |= {f"tokens.{name}": item.source for name, item in self.tokens.items()}
        found |= {f"labels.{i}": item.source for i, item in enumerate(self.labels)}
        return found | {f"audit.{i}": item.source for i, item in enumerate(self.audits)}

    @cached_property
    def seeds(self) -> list[str]:
        """Models with their seeds, in order of evaluation."""
        found = (name for item in self.results.values() for name in evaluated(item))
        return list(dict.fromkeys(found))

    @cached_property
    def models(self) -> list[str]:
        """Models, each once."""
        return list(dict.fromkeys(map(model_of, self.seeds)))

    def labels_of(self, results: Artifact) -> Artifact | None:
        """What results were judged by, where it was given."""
        asked = results.manifest.inputs["labels"].fingerprint
        return next((item for item in self.labels if item.source.fingerprint == asked), None)


def open_given(
    results: Mapping[str, PathLike],
    *,
    runs: Mapping[str, PathLike],
    features: Mapping[str, PathLike],
    predictions: Mapping[str, PathLike],
    tokens: Mapping[str, PathLike],
    labels: Sequence[PathLike],
    audits: Sequence[PathLike],
) -> Given:
    """Open everything, and refuse what the results were not made from.

    Raises:
        ContractError: If something is not what it should be, or of another lineage.
        UserError: If a model is not in the results, or is there with seeds and without.
    """
    given = Given(
        results={name: _open(path, RESULTS) for name, path in results.items()},
        runs={name: _open(path, RUN) for name, path in runs.items()},
        features={name: _open(path, FEATURES) for name, path in features.items()},
        predictions={name: _open(path, PREDICTIONS) for name, path in predictions.items()},
        tokens={name: _open(path, TOKENS) for name, path in tokens.items()},
        labels=[_open(path, LABELS) for path in labels],
        audits=[_open(path, AUDIT) for path in audits],
    )
    refuse_clashes(given.seeds)
    for flag, named in (
        ("--run", given.runs),
        ("--features", given.features),
        ("--predictions", given.predictions),
    ):
        for name, item in named.items():
            if name not in given.seeds:
                raise UserError(
                    f"{flag} {name}: no results have a model of that name; there are {', '.join(given.seeds)}"
                )
            _require_parent(item, _behind(given, name), f"model {name}")
    everything = set(_fingerprints({k: item.source for k, item in given.results.items()}))
    for item in (*given.tokens.values(), *given.labels):
        _require_parent(item, everything, "any model")
    for item in given.audits:
        looked = set(_fingerprints(item.manifest.inputs))
        if not looked & everything:
            raise ContractError(
                f"{item.path} is the audit of something else: it looked at nothing of these results"
            )
    return given


def evaluated(results: Artifact) -> list[str]:
    """The models of results, in the order in which they were given."""
    roles = (role.partition(".") for role in results.manifest.inputs)
    return [name for kind, _, name in roles if kind in ("features", "predictions")]


def judged(results: Artifact, name: str) -> Source:
    """The features or predictions of one of its models."""
    inputs = results.manifest.inputs
    return inputs.get(f"features.{name}") or inputs[f"predictions.{name}"]


def checkpoints(item: Source) -> set[str]:
    """Fingerprints of the checkpoints and adapters that features or predictions were made by.

    Not of what these began from: a fine-tuned model is another one than the model that it was.
    """
    if item.contract.partition("/")[0] in _MODELS:
        return {item.fingerprint}
    return {fingerprint for parent in item.inputs.values() for fingerprint in checkpoints(parent)}


def _open(path: PathLike, contract: Contract) -> Artifact:
    path = Path(path)
    return Artifact(path, read_manifest(path, contract, reader=PRODUCER), source(path))


def _behind(given: Given, name: str) -> set[str]:
    found = [judged(item, name) for item in given.results.values() if name in evaluated(item)]
    return {fingerprint for item in found for fingerprint in _fingerprints({"": item})}


def _require_parent(item: Artifact, known: set[str], of: str) -> None:
    inside = {f.sha256 for name, f in item.manifest.files.items() if name.startswith(_CHECKPOINTS)}
    if not ({item.source.fingerprint} | inside) & known:
        raise ContractError(
            f"{item.path} is not what {of} of these results was made from (by fingerprint); give the "
            f"{item.manifest.contract} that was used"
        )


def _fingerprints(inputs: Mapping[str, Source]) -> Iterator[str]:
    return (item.fingerprint for _, item in ancestry(inputs))
