"""From the states of a batch to one vector a row. T tokens, R rows read off them, D width."""

from typing import Literal

import numpy as np
import torch
from torch import Tensor

from ehr_eval.features.passes import Passes
from ehr_models.heads.pooled import pool

Pooling = Literal["last", "mean", "max", "sum", "cls"]


def pool_rows(hidden: Tensor, input_ids: Tensor, passes: Passes, how: Pooling) -> Tensor:
    """[R, D]: the last or first state that each row sees, or their mean, maximum or sum.

    Args:
        hidden: [T, D] states of the passes' windows, laid end to end.
        input_ids: [T]
        passes: Of one batch.
        how: last, mean, max, sum or cls.

    Raises:
        UserError: For cls where a window does not begin with [CLS].
    """
    length = passes.windows.length
    begin = (np.cumsum(length) - length)[passes.window]
    end = begin + passes.ends
    if how == "last":
        begin = end - 1  # of a shared pass many rows are read: gather only what is pooled
    seen = end - begin
    offsets = np.concatenate([[0], np.cumsum(seen)])
    index = np.arange(offsets[-1]) + np.repeat(begin - offsets[:-1], seen)
    rows = torch.from_numpy(index).to(hidden.device)
    ends = torch.from_numpy(offsets).to(hidden.device)
    return pool(hidden[rows], ends, how, input_ids=input_ids[rows])
