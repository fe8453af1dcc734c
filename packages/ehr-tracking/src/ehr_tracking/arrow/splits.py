"""Which subject is in which split: as the data set says, else by a stable hash. N subjects."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt

from ehr_tracking.arrow.parquet import SUBJECT, TEXT, read_columns
from ehr_tracking.contracts import SPLITS, ContractError
from ehr_tracking.files import PathLike
from ehr_tracking.tree import note


@dataclass(frozen=True, slots=True, eq=False)
class Splits:
    """The splits of a data set, from `read_splits`."""

    seed: int
    """Of the split by hash, where none are named."""
    named: tuple[npt.NDArray[np.int64], npt.NDArray[np.uint8]] | None = None
    """Subjects, ascending, and the index into `SPLITS` of each; None where the data set names none."""
    where: Path | None = None
    """The file that names them, if it is one."""
    train: float = 0.8
    """Share of subjects that a hash puts into train."""

    @classmethod
    def by_name(cls, named: Mapping[int, str], where: Path | None = None) -> Self:
        """As they are named, subject by subject.

        Args:
            named: Subject -> one of `SPLITS`.
            where: The file that does so, for messages.
        """
        index = {name: i for i, name in enumerate(SPLITS)}
        subjects = np.fromiter(named.keys(), np.int64, len(named))
        numbers = np.fromiter((index[name] for name in named.values()), np.uint8, len(named))
        order = np.argsort(subjects)
        return cls(0, (subjects[order], numbers[order]), where)

    def of(self, subject_id: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
        """[N] index into `SPLITS` of each subject.

        Raises:
            ContractError: If the data set names splits, but not that of every subject.

        Examples:
            >>> named = np.array([3, 8]), np.array([2, 0], np.uint8)
            >>> Splits(seed=0, named=named).of(np.array([8, 3, 8])).tolist()
            [0, 2, 0]
        """
        if self.named is None:
            return splits_by_hash(subject_id, self.seed, self.train)
        known, split = self.named
        at = np.minimum(np.searchsorted(known, subject_id), max(len(known) - 1, 0))
        missing = subject_id[known[at] != subject_id] if len(known) else subject_id
        if len(missing):
            where = f" in {self.where}" if self.where else ""
            raise ContractError(
                f"subject {missing[0]} has no split{where} ({len(missing):,} such subjects); name one "
                "for every subject, or none"
            )
        return split[at]

    def of_everyone(self, subject_id: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
        """As `of`, for all subjects with events; those of a split without any are said in one line.

        Raises:
            ContractError: As `of`.
        """
        if self.named is not None:
            self._note_absent(*self.named, subject_id)
        return self.of(subject_id)

    def _note_absent(
        self,
        known: npt.NDArray[np.int64],
        split: npt.NDArray[np.uint8],
        subject_id: npt.NDArray[np.int64],
    ) -> None:
        of_split = np.bincount(split, minlength=len(SPLITS)).tolist()
        absent = split[~np.isin(known, subject_id)]
        counts = np.bincount(absent, minlength=len(SPLITS)).tolist()
        told = [
            f"{n:,} of the {total:,} of {name}"
            for name, n, total in zip(SPLITS, counts, of_split, strict=True)
            if n
        ]
        if told:
            note(f"{self.where or 'splits'}: subjects without any events: {', '.join(told)}")


def read_splits(meds: PathLike, *, seed: int = 0) -> Splits:
    """Read how a data set splits its subjects.

    Args:
        meds: Its `metadata/subject_splits.parquet` decides, where there is one.
        seed: Of the split by hash, where there is none.

    Raises:
        ContractError: If the file is damaged, or a subject is in two splits or in an unknown one.
    """
    meds = Path(meds)
    path = meds / "metadata" / "subject_splits.parquet"
    if not path.is_file():
        return Splits(seed)
    columns = read_columns(path, {"subject_id": SUBJECT, "split": TEXT})
    named: dict[int, str] = {}
    for row, (subject, split) in enumerate(zip(*columns.values(), strict=True)):
        if subject is None:
            raise ContractError(f"{path} row {row}: subject_id is null")
        if split not in SPLITS:
            known = ", ".join(SPLITS)
            raise ContractError(
                f"{path} row {row}: split is {split!r}, MEDS has {known}; map it with ehr-tokenize "
                f"check {meds} --repair OUT --split {split}=held_out, or tuning, or train"
            )
        if named.setdefault(subject, split) != split:
            raise ContractError(f"{path} row {row}: subject {subject} is in two splits")
    return Splits.by_name(named, path)


def splits_by_hash(
    subject_id: npt.NDArray[np.int64], seed: int, train: float = 0.8
) -> npt.NDArray[np.uint8]:
    """[N] index into `SPLITS` by SplitMix64 (Steele et al. 2014) of subject and seed.

    Args:
        subject_id: [N]
        seed: Other seeds give other splits.
        train: Share of subjects in train; the others are halved. A subject of train stays there when
            it rises.

    Examples:
        >>> np.bincount(splits_by_hash(np.arange(10_000), seed=0)).tolist()
        [8012, 982, 1006]
    """
    # in Python's integers: numpy warns where a scalar product wraps
    x = subject_id.astype(np.uint64) + np.uint64((seed + 1) * 0x9E3779B97F4A7C15 % 2**64)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    share = (x ^ (x >> np.uint64(31))) >> np.uint64(11)
    bounds = np.array([train, train + (1 - train) / 2]) * 2.0**53
    return np.searchsorted(bounds, share.astype(np.float64), side="right").astype(np.uint8)
