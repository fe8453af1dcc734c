"""What a contract is: a name, an integer version, the columns of its tables."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from ehr_tracking.errors import UserError


class ContractError(UserError):
    """An artifact on disk is not what its reader was written for."""


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a Parquet table."""

    name: str
    dtype: str
    """Arrow type as `str(field.type)` prints it; alternatives are separated by ` | `."""
    doc: str
    optional: bool = False


@dataclass(frozen=True, slots=True)
class Contract:
    """The shape of one kind of artifact."""

    name: str
    version: int
    doc: str
    columns: tuple[Column, ...] = ()
    """Of its main table (`doc` says which file that is)."""
    beside: Mapping[str, tuple[Column, ...]] = field(default_factory=dict)
    """File -> columns of a further table, or keys of each of its lines."""

    @property
    def tag(self) -> str:
        """The string stored in manifests, e.g. `tokens/1`."""
        return f"{self.name}/{self.version}"

    def check(self, schema: Mapping[str, str], *, where: str) -> None:
        """Raise unless a table's schema satisfies this contract.

        Args:
            schema: Column name -> Arrow type, as found on disk.
            where: The path, for the message.

        Raises:
            ContractError: Naming every missing or mistyped column at once.

        Examples:
            >>> toy = Contract("toy", 1, "", (Column("id", "int64", ""), Column("x", "float", "", True)))
            >>> toy.check({"id": "int64", "extra": "string"}, where="a.parquet")
            >>> toy.check({"x": "double"}, where="a.parquet")
            Traceback (most recent call last):
                ...
            ehr_tracking.contracts.shape.ContractError: a.parquet breaks contract toy/1: column id is missing (expected int64); column x is double (expected float)
        """
        problems = []
        for column in self.columns:
            # Arrow names list items `item` or `element`, depending on who wrote the file
            found = schema.get(column.name, "").replace("item: ", "element: ")
            if not found and not column.optional:
                problems.append(f"column {column.name} is missing (expected {column.dtype})")
            elif found and found not in column.dtype.split(" | "):
                problems.append(f"column {column.name} is {found} (expected {column.dtype})")
        if problems:
            raise ContractError(f"{where} breaks contract {self.tag}: {'; '.join(problems)}")
