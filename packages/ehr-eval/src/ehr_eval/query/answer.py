"""What a model's query head says: states once a subject, shared by all its prediction times and queries.

n prediction times, R of them read off a batch of T tokens, S passes, Q queries, P pairs of a query and a
horizon, D width.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ehr_eval.features.passes import Passes, plan
from ehr_eval.features.reader import Reader
from ehr_eval.query.ask import Query
from ehr_models.data.batch import Batch
from ehr_models.data.tokens import STATIC, Tokens
from ehr_models.forecasts.query import Queries
from ehr_models.heads.forecasts import forecast_head

Integers = npt.NDArray[np.int64]
_AT_ONCE = 2**15
"""Most questions of a batch that are answered together."""


class Questions:
    """P questions, put at any prediction time."""

    def __init__(self, queries: Sequence[Query], sets: Sequence[Sequence[int]]) -> None:
        """Lay them out: query by query, of each by horizon.

        Args:
            queries: What is asked.
            sets: The tokens of each, none empty.
        """
        pairs = [(q, h) for q, query in enumerate(queries) for h in query.horizons]
        self.query = np.array([q for q, _ in pairs])
        """[P]"""
        self.days = np.array([d for query in queries for d in query.days])
        """[P] horizons."""
        self._seconds = torch.tensor([h / 1e6 for _, h in pairs], dtype=torch.float32)
        self._tokens = torch.tensor([t for q, _ in pairs for t in sets[q]])
        sizes = torch.tensor([len(sets[q]) for q, _ in pairs])
        self._first = sizes.cumsum(0) - sizes

    def __len__(self) -> int:
        """P."""
        return len(self.days)

    def at(self, begin: Tensor, end: Tensor, since: Tensor) -> Queries:
        """All of them at R prediction times, as R P queries.

        Args:
            begin: [R] first state of each span.
            end: [R] behind the last visible one.
            since: [R] float32 seconds from the last visible token.
        """
        n, many = len(begin), len(self)
        step = torch.arange(n)[:, None] * len(self._tokens)
        made = Queries(
            tokens=self._tokens.repeat(n),
            first=(self._first + step).flatten(),
            horizon=self._seconds.repeat(n),
            since=since.repeat_interleave(many),
            begin=begin.repeat_interleave(many),
            end=end.repeat_interleave(many),
        )
        return made


def read_answers(
    reader: Reader,
    questions: Questions,
    tokens: Tokens,
    row: Integers,
    visible: Integers,
    time: Integers,
) -> npt.NDArray[np.float32]:
    """Logits of n prediction times of one split.

    A causal model reads a subject once for all its prediction times that fit the context; a question looks
    at the states up to its prediction time alone.

    Args:
        reader: Of a model with a query head.
        questions: P of them.
        tokens: The split.
        row: [n] rows of it, equal ones side by side.
        visible: [n] visible tokens, at least one.
        time: [n] prediction times, microseconds.

    Returns:
        [n, P, 2]: it occurs; the record ends before, without it.
    """
    head, table = forecast_head(reader.model, "query"), reader.model.get_input_embeddings()
    since = since_last(tokens, row, visible, time)
    passes = plan(tokens, row, visible, context=reader.context, shared=reader.shared)
    rows_at_once = max(1, _AT_ONCE // len(questions))

    def told(states: Tensor, batch: Passes, packed: Batch) -> Tensor:
        begin = packed.cu_seqlens.cpu().numpy().astype(np.int64)[batch.window]
        about = (begin, begin + batch.ends, since[batch.rows])
        parts = []
        for start in range(0, len(begin), rows_at_once):
            some = (torch.from_numpy(a[start : start + rows_at_once]) for a in about)
            asked = Queries(*(t.to(states.device) for t in questions.at(*some)))
            parts.append(head(states, table.weight, asked))
        return torch.cat(parts).float().view(len(begin), -1)

    found = reader.run(tokens, passes, told, (len(row), 2 * len(questions)))
    return found.reshape(len(row), len(questions), 2)


def since_last(
    tokens: Tokens, row: Integers, visible: Integers, time: Integers
) -> npt.NDArray[np.float32]:
    """[n] seconds from the last visible token to the prediction time; 0 where only static ones are known."""
    last = tokens.time[tokens.offsets[row] + visible - 1]
    dated = last != STATIC
    passed = np.where(dated, time - np.where(dated, last, 0), 0)
    return (passed / 1e6).astype(np.float32)
