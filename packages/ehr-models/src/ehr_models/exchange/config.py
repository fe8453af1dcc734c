"""What only a person can say of a model: the free text of its card; and what exports are called. Without torch."""

from fnmatch import fnmatch
from typing import Annotated

from pydantic import Field
from pydantic.dataclasses import dataclass

from ehr_tracking.config import STRICT
from ehr_tracking.manifest import MANIFEST

SCHEMA = "ehr-models-export/1"
"""Of `metadata.json`; docs/exchange.md tells its keys."""
CARD, METADATA = "README.md", "metadata.json"
"""Files of an export, beside those of a checkpoint."""
_FILES = (
    CARD, METADATA, MANIFEST, "config.json", "generation_config.json", "adapter_config.json", "metrics.json",
    "tokenizer.json", "vocab.parquet", "*.safetensors", "*.safetensors.index.json", "*.py",
)  # fmt: skip
Version = Annotated[str, Field(pattern=r"^\d+\.\d+\.\d+$")]
"""Of an export, e.g. `1.0.0`."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class CardConfig:
    """Free text of a model card; all else is read from manifests."""

    title: str | None = None
    """None: the kind and size of the model."""
    summary: str | None = None
    """A few sentences below the title."""
    licence: str | None = None
    """Identifier as the hub has them, e.g. `apache-2.0`; None: the card says that none was given."""
    contacts: tuple[str, ...] = ()
    data: str | None = None
    """Where the records are from, whose they are, and under which terms."""
    intended_use: str = (
        "Research on records of the same form as the data it was trained on: representations of "
        "subjects, fine-tuning, and forecasts that are judged before they are believed."
    )
    limits: tuple[str, ...] = (
        "Not for decisions on the care of any person.",
        "It tells what the records of its training data tell, with their gaps, habits and biases; on data of "
        "other sites, times or coding practices it has to be judged anew.",
        "What a token stands for is fixed by its vocabulary: what that lacks is unknown to the model.",
    )
    version: Version = "1.0.0"
    changelog: dict[Version, str] = Field(default_factory=lambda: {"1.0.0": "First export."})
    """What is new, by version."""
    citation: str | None = None
    """BibTeX or plain text."""


def is_of_export(name: str) -> bool:
    """Whether a file may be part of one: none below a folder, and no other table than the vocabulary.

    Examples:
        >>> is_of_export("model.safetensors"), is_of_export("training_state/optimizer.safetensors")
        (True, False)
        >>> is_of_export("train.parquet")
        False
    """
    return "/" not in name and any(fnmatch(name, pattern) for pattern in _FILES)
