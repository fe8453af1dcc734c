"""From the states of a batch to one vector a row. T tokens, R rows read off them, D width."""

from typing import Literal

import numpy as np
import torch
from torch import Tensor

from ehr_eval.features.passes import Passes
from ehr_models.heads.pooled import pool

Pooling = Literal["last", "mean"]


def pool_rows(hidden: Tensor, passes: Passes, how: Pooling) -> Tensor:
    """[R, D]: the last state that each row sees, or the mean over all that it sees.

    Args:
        hidden: [T, D] states of the passes' windows, laid end to end.
        passes: Of one batch.
        how: last or mean.
    """
    length = passes.windows.length
    begin = (np.cumsum(length) - length)[passes.window]
    end = begin + passes.ends
    if how == "last":
        begin = end - 1  # of a shared pass many rows are read: gather only what is pooled
    seen = end - begin
    offsets = np.concatenate([[0], np.cumsum(seen)])
    index = np.arange(offsets[-1]) + np.repeat(begin - offsets[:-1], seen)
    return pool(
        hidden[torch.from_numpy(index).to(hidden.device)],
        torch.from_numpy(offsets).to(hidden.device),
        how,
    )
