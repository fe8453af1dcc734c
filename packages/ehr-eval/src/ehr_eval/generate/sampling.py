"""Which tokens are drawn at all, and from how many of the likeliest.

R rows, V vocabulary.
"""

import re
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ehr_models.vocabulary import Word
from ehr_tracking.contracts import EOS_ID, SEP_ID


def drawn_tokens(
    words: Sequence[Word], suppress: Sequence[str], dateless: npt.NDArray[np.bool_]
) -> npt.NDArray[np.bool_]:
    """[V] which tokens a future may hold.

    Those that train has, but no special ones: of these only what ends a visit or a record.

    Args:
        words: The vocabulary.
        suppress: Patterns searched in the texts of further ones that it may not.
        dateless: [V] those that train knows without a time only.
    """
    patterns = [re.compile(pattern) for pattern in suppress]
    return np.array(
        [
            w.count > 0
            and (w.kind != "special" or w.id in (SEP_ID, EOS_ID))
            and not dateless[w.id]
            and not any(p.search(w.token) for p in patterns)
            for w in words
        ]
    )


def nucleus(probabilities: Tensor, share: float) -> Tensor:
    """Keep the likeliest tokens that hold this share, the one that completes it among them.

    Args:
        probabilities: [R, V], 1 a row.
        share: Above 0.

    Returns:
        [R, V], 1 a row.

    Examples:
        >>> nucleus(torch.tensor([[0.1, 0.5, 0.4]]), 0.6)
        tensor([[0.0000, 0.5556, 0.4444]])
    """
    ordered, order = probabilities.sort(dim=1, descending=True, stable=True)
    before = ordered.cumsum(1) - ordered
    ordered = ordered.masked_fill(before >= share, 0.0)
    kept = torch.zeros_like(probabilities).scatter_(1, order, ordered)
    return kept / kept.sum(1, keepdim=True)
