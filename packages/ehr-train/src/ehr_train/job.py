"""One training run as every process of it knows it: where its inputs are and what it shows a model."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from ehr_models.data.store import open_split
from ehr_models.data.tokens import TokenSet, open_tokens
from ehr_tracking.arrow.labels import label_source
from ehr_tracking.checkpoints import CheckpointStore, resolve
from ehr_tracking.config import load_config
from ehr_tracking.contracts import ContractError
from ehr_tracking.manifest import Source, source
from ehr_train import __version__
from ehr_train.config import TrainConfig
from ehr_train.data.examples import label_examples, read_labels
from ehr_train.data.sampler import Examples, whole_records

PRODUCER = f"ehr-train {__version__}"
TRAIN, TUNING = "train", "tuning"


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """The paths of a run. Its config lies in the run directory, resolved."""

    tokens: Path
    out: Path
    init: Path | None
    labels: Path | None
    device: str
    """cpu or cuda"""

    @classmethod
    def from_spec(cls, spec: Mapping[str, str | None]) -> Self:
        """From the strings that a process was started with."""
        paths = ("tokens", "out", "init", "labels")
        values: dict[str, Any] = {k: Path(v) if v and k in paths else v for k, v in spec.items()}
        return cls(**values)

    def spec(self) -> dict[str, str | None]:
        """As strings, to start a process with."""
        paths = {"tokens": self.tokens, "out": self.out, "init": self.init, "labels": self.labels}
        return {"device": self.device, **{k: str(v) if v else None for k, v in paths.items()}}

    def config(self) -> TrainConfig:
        """The resolved config of the run."""
        return load_config(TrainConfig, self.out / "config.yaml")

    def checkpoints(self) -> CheckpointStore:
        """Where the run keeps its checkpoints."""
        return CheckpointStore(
            self.out / "checkpoints",
            keep=self.config().checkpoint.keep,
            mode="min" if self.labels is None else "max",
        )

    def sources(self) -> dict[str, Source]:
        """The inputs, for the manifests of the run and its checkpoints."""
        sources = {"tokens": source(self.tokens)}
        if self.init is not None:
            sources["init"] = source(resolve(self.init))
        if self.labels is not None:
            sources["labels"] = label_source(self.labels)
        return sources

    def examples(self, tokens: TokenSet, split: str) -> Examples:
        """What the model is shown of a split.

        Raises:
            ContractError: If the split is missing or damaged, or the labels are.
        """
        rows = open_split(tokens, split)
        if self.labels is None:
            return whole_records(rows)
        return label_examples(read_labels(self.labels), rows)

    def train_examples(self, tokens: TokenSet) -> Examples:
        """What the model learns from.

        Raises:
            ContractError: If there is nothing.
        """
        examples = self.examples(tokens, TRAIN)
        if len(examples) == 0:
            what = (
                f"{self.labels} labels no subject" if self.labels else f"{self.tokens} has no one"
            )
            raise ContractError(f"{what} of the train split: nothing to learn from")
        return examples

    def tuning_examples(self, tokens: TokenSet) -> Examples | None:
        """What the model is validated on; None where there is nothing."""
        if TUNING not in tokens.splits:
            return None
        examples = self.examples(tokens, TUNING)
        return examples if len(examples) else None

    def open_tokens(self) -> TokenSet:
        """The token set.

        Raises:
            ContractError: If it is not one that can be read.
        """
        return open_tokens(self.tokens)
