"""When an event becomes known: some days after its date, by its code. E events, C codes."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ehr_tracking.arrow.meds import STATIC
from ehr_tracking.arrow.parquet import DAY_US
from ehr_tracking.config import ConfigError
from ehr_tracking.contracts import ContractError
from ehr_tracking.manifest import Manifest


@dataclass(frozen=True, slots=True)
class Delays:
    """Which codes become known later than they happen."""

    days: Mapping[str, float] = field(default_factory=dict)
    """Regular expression, searched in a code -> days; of those that fit, the first counts."""

    def __bool__(self) -> bool:
        """Whether any event can be delayed."""
        return any(self.days.values())

    def of(self, codes: Sequence[str]) -> npt.NDArray[np.int64]:
        """[C] microseconds by which each code is delayed.

        Examples:
            >>> delays = Delays({"^DIAGNOSIS//ICD": 30, "^DIAGNOSIS": 1})
            >>> (delays.of(["DIAGNOSIS//ICD//I10", "DIAGNOSIS//X", "LAB"]) / 86.4e9).tolist()
            [30.0, 1.0, 0.0]
        """
        rules = [(re.compile(pattern), round(d * DAY_US)) for pattern, d in self.days.items()]
        found = [next((d for rule, d in rules if rule.search(code)), 0) for code in codes]
        return np.array(found, np.int64)

    def shift(self, events: pa.Table) -> pa.Table:
        """Events at the times at which they become known, in that order.

        Args:
            events: `subject_id`, `time` (null for what is always known), `code` and more; the rows of
                a subject are contiguous.

        Returns:
            The same rows; those of a subject by time, static ones first, else in their order.

        Examples:
            >>> events = pa.table({"subject_id": [1, 1, 1], "code": ["S", "DX", "LAB"],
            ...     "time": pa.array([None, 0, 86_400_000_000], pa.timestamp("us"))})
            >>> Delays({"DX": 30}).shift(events)["code"].to_pylist()
            ['S', 'LAB', 'DX']
        """
        if not self or not len(events):
            return events
        code = events["code"].combine_chunks().dictionary_encode()
        delay = self.of(code.dictionary.to_pylist())[code.indices.to_numpy()]
        time = events["time"].cast(pa.int64()).fill_null(STATIC).to_numpy()
        known = np.where(time == STATIC, STATIC, time + delay)
        subject = events["subject_id"].to_numpy()
        run = np.cumsum(np.concatenate([[False], subject[1:] != subject[:-1]]))
        shifted = pa.array(known, pa.timestamp("us"), mask=known == STATIC)
        table = events.set_column(events.column_names.index("time"), "time", shifted)
        return table.take(np.lexsort((known, run)))  # stable: rows at one time keep their order


def agreed(found: Mapping[str, Delays]) -> Delays:
    """The delays that all who say some have, in the same order; none where nobody does.

    Args:
        found: Who says so -> which.

    Raises:
        ConfigError: Naming two that differ.

    Examples:
        >>> agreed({"the config": Delays({"^DX": 30}), "demo/tokens": Delays({"^DX": 30})}).days
        {'^DX': 30}
    """
    (first, delays), *others = found.items() or [("", Delays())]
    for name, other in others:
        if list(other.days.items()) != list(delays.days.items()):
            raise ConfigError(
                f"delay is {dict(delays.days)} in {first}, but {dict(other.days)} in {name}; what is "
                "compared has to become known at the same times: leave one out, or make it agree"
            )
    return delays


def delays_of(manifest: Manifest) -> Delays:
    """The delays with which an artifact was made, from `delay` in its config.

    Raises:
        ContractError: If it delays codes under other names than the data set's: those of its maps.
    """
    delays = Delays(manifest.config.get("delay") or {})
    if delays and manifest.config.get("maps"):
        raise ContractError(
            f"{manifest.contract} by {manifest.producer} delays codes that its maps made, which "
            "events as they lie in the data set do not have; set `delay` by the codes of the data"
        )
    return delays
