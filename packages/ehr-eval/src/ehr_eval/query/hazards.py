"""What a model's events head says: hazards of codes, from the state at each prediction time.

n prediction times, R of them read off a batch of T tokens, Q queries, P pairs of a query and a horizon,
K codes of the head, C those of a query.
"""

from collections.abc import Sequence
from typing import cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ehr_eval.features.passes import Passes, plan
from ehr_eval.features.reader import Reader
from ehr_eval.query.answer import Integers, Questions, since_last
from ehr_eval.query.ask import Query
from ehr_models.data.batch import Batch
from ehr_models.data.tokens import Tokens
from ehr_models.forecasts.events import EventsHead
from ehr_models.heads.forecasts import forecast_head
from ehr_tracking.config import ConfigError
from ehr_tracking.tree import note


def codes_of(
    queries: Sequence[Query], sets: Sequence[Sequence[int]], ids: Sequence[Sequence[int]]
) -> list[list[int]]:
    """The codes of the head, by place, that each query asks for; what else it asks for is named.

    Args:
        queries: What is asked.
        sets: [Q] the tokens of each.
        ids: [K] the tokens of each code of the head.

    Raises:
        ConfigError: If the head forecasts none of a query's codes with all of its values.
    """
    found = []
    for query, wanted in zip(queries, map(set, sets), strict=True):
        codes = [place for place, own in enumerate(ids) if wanted.issuperset(own)]
        lost = wanted.difference(*(ids[place] for place in codes))
        if not codes:
            raise ConfigError(
                f"query {query.name}: the events head forecasts none of its codes, whatever their value; "
                "train it with others (include), or ask a query head"
            )
        if lost:
            note(
                f"query {query.name}: the events head does not forecast {len(lost):,} of its "
                f"{len(wanted):,} tokens as codes; asked without them"
            )
        found.append(codes)
    return found


def read_hazards(
    reader: Reader,
    questions: Questions,
    codes: Sequence[Sequence[int]],
    tokens: Tokens,
    row: Integers,
    visible: Integers,
    time: Integers,
) -> npt.NDArray[np.float32]:
    """Logits of n prediction times of one split.

    Of several codes as if each came by itself: the chance that none does is the product of theirs.

    Args:
        reader: Of a model with an events head.
        questions: P of them.
        codes: [Q] of `codes_of`.
        tokens: The split.
        row: [n] rows of it, equal ones side by side.
        visible: [n] visible tokens, at least one.
        time: [n] prediction times, microseconds.

    Returns:
        [n, P, 2]: it occurs; not a number, since nothing is said of the end of a record.
    """
    head = cast("EventsHead", forecast_head(reader.model, "events"))
    since = since_last(tokens, row, visible, time)
    passes = plan(tokens, row, visible, context=reader.context, shared=reader.shared)

    def told(states: Tensor, batch: Passes, packed: Batch) -> Tensor:
        begin = packed.cu_seqlens.cpu().numpy().astype(np.int64)[batch.window]
        at, past = (
            torch.from_numpy(a).to(states.device)
            for a in (begin + batch.ends - 1, since[batch.rows])
        )
        last, parts = states[at], []
        for query, days in zip(questions.query.tolist(), questions.days.tolist(), strict=True):
            places = torch.tensor(codes[query], device=states.device)
            seconds = torch.full((), days * 86_400.0, device=states.device)
            chance = head.chance_within(last, places, seconds, past).double()
            expected = -torch.log1p(-chance.clamp(max=1 - 1e-9)).sum(1)
            parts.append(expected.clamp(min=1e-12).expm1().log())
        logits = torch.stack(parts, 1)
        return torch.stack([logits, torch.full_like(logits, torch.nan)], 2).flatten(1).float()

    found = reader.run(tokens, passes, told, (len(row), 2 * len(questions)))
    return found.reshape(len(row), len(questions), 2)
