"""Which model, by `kind` and `size`, with explicit overrides; without torch."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any, Union

from pydantic import Field

from ehr_models.kinds import KINDS
from ehr_models.kinds.record import ArchitectureConfig, Kind


def any_of(kinds: Iterable[Kind]) -> Any:  # noqa: ANN401 -- a type, made at run time
    """The type of a config field that takes the config of any of these kinds; `kind:` chooses."""
    return Annotated[Union[tuple(k.config for k in kinds)], Field(discriminator="kind")]  # noqa: UP007 -- of as many as there are


if TYPE_CHECKING:
    ModelConfig = ArchitectureConfig
else:
    ModelConfig = any_of(KINDS.values())
    """For use as a field's type; `kind:` chooses."""
