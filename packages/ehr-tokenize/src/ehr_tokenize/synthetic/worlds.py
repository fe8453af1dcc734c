"""The worlds that `ehr-tokenize synth` can write: a record each.

Adding one is a module with `synthesize`, a config and one entry here. Nothing heavy is imported until
a world is made.
"""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class World:
    """One way in which records come about."""

    about: str
    """What carries the risk there, for the command's help."""
    config: str
    """`module:class`."""
    meds: str
    """`module:function` (out, config, *, overwrite, workers, risks) -> `dataset.Summary`."""
    json: str | None = None
    """`module:function` (out, config, *, overwrite, workers) -> `dataset.Summary`, or none."""

    def config_class(self) -> type[Any]:
        """The dataclass of its settings.

        Examples:
            >>> WORLDS["sequence"].config_class().__name__
            'SequenceConfig'
        """
        module, _, name = self.config.partition(":")
        found: type[Any] = getattr(importlib.import_module(module), name)
        return found

    def writer(self, kind: str) -> Callable[..., Any]:
        """The function that writes it.

        Args:
            kind: `meds` or `json`.
        """
        module, _, name = str(getattr(self, kind)).partition(":")
        found: Callable[..., Any] = getattr(importlib.import_module(module), name)
        return found


WORLDS = {
    "cohort": World(
        about="latent chronic conditions",
        config="ehr_tokenize.synthetic.config:SynthConfig",
        meds="ehr_tokenize.synthetic.cohort:synthesize",
        json="ehr_tokenize.synthetic.cohort:synthesize_json",
    ),
    "sequence": World(
        about="order and timing alone",
        config="ehr_tokenize.synthetic.sequence.config:SequenceConfig",
        meds="ehr_tokenize.synthetic.sequence.world:synthesize",
    ),
}
