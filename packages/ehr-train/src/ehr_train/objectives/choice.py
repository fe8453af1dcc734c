"""A field of a config that holds one variant of a table."""

from collections.abc import Mapping
from typing import Any

from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema


class OneOf:
    """For `Annotated[Protocol, OneOf(table)]`: the value's `kind` says which class it is of."""

    def __init__(self, *tables: Mapping[str, type]) -> None:
        """The tables kind -> pydantic dataclass, read when the config's schema is made."""
        self.tables = tables

    def __get_pydantic_core_schema__(
        self,
        source: Any,  # noqa: ANN401 -- pydantic's own signature
        handler: GetCoreSchemaHandler,
    ) -> CoreSchema:
        """A union of the table's classes, told apart by `kind`."""
        variants = {kind: cls for table in self.tables for kind, cls in table.items()}
        return core_schema.tagged_union_schema(
            {kind: handler.generate_schema(cls) for kind, cls in variants.items()},
            discriminator="kind",
        )
