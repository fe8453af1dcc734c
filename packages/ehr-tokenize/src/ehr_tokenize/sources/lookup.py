"""From integer keys to values, without a join for each piece of a large table."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl


@dataclass(frozen=True, slots=True, eq=False)
class Lookup:
    """K keys and their values; built once, read for every piece."""

    keys: npt.NDArray[np.int64]
    """[K] ascending, without repetition"""
    values: pl.Series
    """[K]"""

    @classmethod
    def build(cls, frame: pl.DataFrame) -> "Lookup":
        """From the columns `key` (Int64) and `value`; the first row of a key counts.

        Examples:
            >>> table = Lookup.build(pl.DataFrame({"key": [7, 3, 7], "value": ["a", "b", "c"]}))
            >>> table.get(pl.Series([3, None, 7, 8])).to_list()
            ['b', None, 'a', None]
        """
        frame = frame.drop_nulls("key").unique("key", keep="first", maintain_order=True).sort("key")
        return cls(frame["key"].to_numpy(), frame["value"])

    def get(self, keys: pl.Series) -> pl.Series:
        """[R] values of [R] keys; null where a key is null or unknown."""
        if not len(self.keys):
            return pl.Series([None], dtype=self.values.dtype).new_from_index(0, len(keys))
        wanted = keys.fill_null(0).to_numpy()
        at = np.minimum(np.searchsorted(self.keys, wanted), len(self.keys) - 1)
        hit = pl.Series(self.keys[at] == wanted) & keys.is_not_null()
        return self.values.gather(at).set(~hit, None)
