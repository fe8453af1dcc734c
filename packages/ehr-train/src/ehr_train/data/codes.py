"""What token ids stand for, as far as an objective asks. V vocabulary."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from ehr_models.data.tokens import TokenSet
    from ehr_models.vocabulary import Word

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class Codes:
    """The codes of a token set; its vocabulary is read when first asked about."""

    tokens: "TokenSet"
    _found: dict[tuple[str, ...], Mask] = field(default_factory=dict, init=False, repr=False)
    _read: "list[Word]" = field(default_factory=list, init=False, repr=False)

    @property
    def words(self) -> "list[Word]":
        """The words of the vocabulary, by id.

        Raises:
            ContractError: If it cannot be read.
        """
        if not self._read:
            from ehr_models.vocabulary import read_vocabulary

            self._read.extend(read_vocabulary(self.tokens.directory))
        return self._read

    def matching(self, patterns: tuple[str, ...]) -> Mask:
        """[V] whether any of the patterns is found in the code of each token.

        Raises:
            ContractError: If the vocabulary cannot be read.
        """
        if patterns not in self._found:
            self._found[patterns] = matching(patterns, [word.code for word in self.words])
        return self._found[patterns]


def matching(patterns: Sequence[str], codes: Sequence[str | None]) -> Mask:
    """[V] whether any of the patterns is found in each code; in none where there is no code.

    Examples:
        >>> matching(["^ATC//", "X$"], ["ATC//C09AA05", "ICD//X", "RX//ATC//C", None])
        array([ True,  True, False, False])
    """
    searches = [re.compile(pattern).search for pattern in patterns]
    return np.array(
        [code is not None and any(search(code) for search in searches) for code in codes], bool
    )
