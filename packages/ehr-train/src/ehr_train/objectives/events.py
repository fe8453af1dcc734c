"""When each of many codes comes next, and with which value.

S spans, M moments that are asked of, K codes, B bins of time, P occurrences in each of C chunks of
moments, Q occurrences with a value, J codes that are judged, E examples.
"""

from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self, cast

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator
from pydantic.dataclasses import dataclass

from ehr_models.heads.config import Problem
from ehr_models.kinds.record import Forecast, HeadName
from ehr_tracking.config import STRICT, ConfigError, Regex
from ehr_train import figures
from ehr_train.data.codes import Codes
from ehr_train.data.event_codes import EventCodes, drawn, event_codes, waits
from ehr_train.data.examples import Examples, whole_records
from ehr_train.data.upcoming import Upcoming, next_occurrences
from ehr_train.objectives.parts import Asked, Material, Pairs, Question, Score, Sees

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from ehr_models.data.batch import Batch
    from ehr_models.data.tokens import Tokens
    from ehr_models.forecasts.events import EventsHead
    from ehr_train.data.labels import LabelRows

Count = Annotated[int, Field(ge=1)]
Integers = npt.NDArray[np.int64]

_DAY = 86_400.0
_MOMENT = 61  # so that two uses of one seed draw differently
_JUDGED = 64
"""Most codes whose `auroc` is measured in a validation."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Events:
    """From some moments of each window, the time to the next occurrence of each of many codes, and its value.

    What it costs says `ehr_models.forecasts.events.EventsHead.time_loss`; the losses are means over the
    occurrences, as that of the next token is one over tokens. A code that does not come any more costs
    what was expected of it up to the record's last token. What comes is looked for in the whole record,
    also behind the window: it is told to the loss alone.
    """

    kind: Literal["events"] = "events"
    codes: Count = 1024
    """Most codes: those that most train subjects have later than at their first moment."""
    include: tuple[Regex, ...] = ()
    """Regular expressions: only codes in which one is found, where any is given."""
    exclude: tuple[Regex, ...] = ()
    """Regular expressions: no codes in which one is found."""
    moments: Count = 16
    """Most moments of a window that are asked of, drawn anew in every epoch. A moment is asked of at
    its last token, so that only what is strictly later is to come."""
    bins: Annotated[int, Field(ge=2)] = 16
    """Bins of time: the first from 0 to what 1% of the train times are below, the others log-spaced from
    there to the longest."""
    edges: tuple[float, ...] | None = None
    """Bounds of the bins in days, ascending from 0, instead of those."""
    rank: Count = 32
    """Of the hazards: numbers that a code and a bin of a state have in common."""
    value: Annotated[float, Field(ge=0)] = 1.0
    """Weight of the values' loss, where codes have values; at 0 values are not forecast."""
    within: Annotated[float, Field(gt=0)] = 30.0
    """Days: `auroc` is of who has a code within them, the mean over the most frequent codes."""

    head: ClassVar[HeadName] = "token"
    forecasts: ClassVar[tuple[Forecast, ...]] = ("events",)
    sees: ClassVar[Sees | None] = "past"
    hides: ClassVar[bool] = False
    cut: ClassVar[bool] = False
    labelled: ClassVar[Problem | None] = None
    figures: ClassVar[tuple[str, ...]] = (
        *("loss", "time_loss", "value_loss", "value_accuracy", "auroc"),
    )
    score: ClassVar[Score] = Score("loss", "min")
    known: ClassVar[EventCodes | None] = None
    """What tokens say of codes, once it is fitted."""
    settings: ClassVar[dict[str, Any]] = {}
    """Of the head, likewise."""
    start: ClassVar[tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]] | None] = None
    """Hazards [B, K] and shares of values that the head begins at, likewise."""

    @model_validator(mode="after")
    def _ascending(self) -> Self:
        if self.edges is not None and (
            len(self.edges) < 2
            or self.edges[0] != 0
            or any(not a < b < np.inf for a, b in pairwise(self.edges))
        ):
            raise ValueError("edges must be at least two ascending numbers of days, from 0")
        return self

    @property
    def weights(self) -> dict[str, float]:
        """Of `time` and, unless it is known that no code has one, `value`."""
        valued = self.value > 0 and (self.known is None or any(self.known.value_ids))
        return {"time": 1.0, **({"value": self.value} if valued else {})}

    def examples(self, tokens: "Tokens", rows: "LabelRows | None") -> Examples:  # noqa: ARG002 -- the same in each
        """Whole records."""
        return whole_records(tokens)

    def fitted(self, train: Examples, codes: Codes | None = None) -> Self:
        """With the codes, the bins of time, and how often codes come in them.

        Raises:
            ConfigError: If no code is left, or none ever comes again.
            ContractError: If the vocabulary cannot be read.
        """
        assert codes is not None
        known = event_codes(
            codes.words, train, self.codes, self.include, self.exclude, valued=self.value > 0
        )
        if not known.names:
            left = " that include and exclude leave" if self.include or self.exclude else ""
            raise ConfigError(
                f"objective events: the train records have no code{left} later than at their first "
                "moment; schemes that spell codes as subwords (desc) have none at all"
            )
        found = waits(known, train)
        if not len(found.seconds):
            raise ConfigError("objective events: no moment of the train records has one behind it")
        edges = (
            found.edges(self.bins) if self.edges is None else tuple(_DAY * e for e in self.edges)
        )
        fitted = replace(self)
        about = {
            "known": known,
            "settings": {
                "codes": list(known.names),
                "ids": [list(ids) for ids in known.ids],
                "value_ids": [list(ids) for ids in known.value_ids],
                "edges": list(edges),
                "rank": self.rank,
            },
            "start": (found.hazards(edges, len(known.names)), found.shares(known.value_ids)),
        }
        for name, value in about.items():
            object.__setattr__(fitted, name, value)  # no settings: not in the config of a run
        return fitted

    def attach(self, model: "PreTrainedModel") -> "PreTrainedModel":
        """The model with the head that forecasts events; a new one begins at how often codes come in train.

        Raises:
            ConfigError: If its kind can have none, or it has one with other codes or bins.
        """
        import torch

        from ehr_models.heads.forecasts import attach

        trained = getattr(model.config, "events_head", None) is not None
        model = attach(model, "events", self.settings)
        if not trained:
            assert self.start is not None
            _head(model).start(*(torch.from_numpy(values) for values in self.start))
        return model

    def ask(self, batch: "Batch", material: Material, epoch: int) -> Asked:
        """Moments, and what comes next from them; drawn by seed, epoch, subject and place."""
        from ehr_models.forecasts.events import chunks_of

        assert self.known is not None
        windows, tokens = material.windows, material.examples.tokens
        visible = material.examples.visible[windows.example]
        end = windows.first + visible
        span, index = batch.span.numpy(), batch.index.numpy()
        rows = self.known.moments(tokens, index, end[span])
        rows = rows[material.askable(batch)[rows]]
        subject = tokens.subject_id[material.examples.subject[windows.example]]
        place = index - windows.first[span]
        key = (material.seed, epoch, subject[span[rows]], place[rows], _MOMENT)
        rows = rows[drawn(span[rows], self.moments, *key)]

        at, group = index[rows], span[rows]
        seen = (tokens.time[end[group] - 1] - tokens.time[at]) / 1e6
        found = next_occurrences(tokens.token, self.known.code_of, at, group, end)
        seconds = (tokens.time[found.at] - tokens.time[at[found.moment]]) / 1e6
        targets = {"rows": rows, "seen": seen.astype(np.float32)}
        bins, codes = len(self.settings["edges"]) - 1, len(self.known.names)
        kept = np.flatnonzero(seconds <= self.settings["edges"][-1])
        chunks = chunks_of(len(rows), bins, codes)
        targets |= in_chunks(
            found.moment[kept], found.code[kept], seconds[kept], moments=len(rows), chunks=chunks
        )
        counts = {"time": len(kept)}
        if "value" in self.weights:
            value = self.known.values(tokens, found, end[group[found.moment]])
            valued = kept[value[kept] >= 0]
            targets |= {
                "value_row": found.moment[valued],
                "value_code": found.code[valued],
                "value_seconds": seconds[valued].astype(np.float32),
                "value_place": value[valued],
            }
            counts["value"] = len(valued)
        if epoch < 0:
            targets |= self._judged(found, seconds, seen, group, len(windows))
        return Asked(targets, counts)

    def _judged(
        self,
        found: Upcoming,
        seconds: npt.NDArray[np.float64],
        seen: npt.NDArray[np.float64],
        group: Integers,
        spans: int,
    ) -> dict[str, npt.NDArray[Any]]:
        """The last moment of each span that enough is known behind, and which codes come in time."""
        assert self.known is not None
        horizon = self.within * _DAY
        judged = np.full(spans, -1)
        full = np.flatnonzero(seen >= horizon)
        judged[group[full]] = full  # the last of each
        came = np.zeros((spans, min(_JUDGED, len(self.known.names))), np.float32)
        span = group[found.moment]
        hit = (judged[span] == found.moment) & (seconds <= horizon) & (found.code < came.shape[1])
        came[span[hit], found.code[hit]] = 1
        return {"judged": judged, "came": came}

    def loss(self, model: "PreTrainedModel", states: "Tensor", question: Question) -> Pairs:
        """The loss of times and that of values and, in evaluation mode, how many of the likeliest are right."""
        head, t = _head(model), question.targets
        asked = states[t["rows"]]
        total = head.time_loss(asked, t["seen"], t["row"], t["code"], t["seconds"])
        pairs: Pairs = {"time": (total, question.counts["time"])}
        if "value" in self.weights:
            of_value = (t[f"value_{name}"] for name in ("row", "code", "seconds", "place"))
            total, right = head.value_loss(asked, *of_value)
            pairs["value"] = (total, question.counts["value"])
            if not model.training:
                pairs["value_accuracy"] = (right, question.counts["value"])
        return pairs

    def scores(
        self, model: "PreTrainedModel", states: "Tensor", question: Question
    ) -> "Tensor | None":
        """Of each span the chance of each judged code within the horizon, and whether it came [S, 2, J]."""
        import torch

        if "judged" not in question.targets:
            return None
        judged, came = question.targets["judged"], question.targets["came"]
        rows = question.targets["rows"]
        asked = states[rows[judged.clamp(min=0)]] if len(rows) else states[:1].expand(len(came), -1)
        seconds = torch.full((), self.within * _DAY, device=states.device)
        codes = torch.arange(came.shape[1], device=states.device)
        chance = _head(model).chance_within(asked, codes, seconds)
        both = torch.stack([chance, came], 1)
        return torch.where((judged >= 0)[:, None, None], both, torch.nan)

    def metrics(
        self,
        means: Mapping[str, float],
        scores: npt.NDArray[np.float64] | None,
        examples: Examples,  # noqa: ARG002 -- moments are judged
    ) -> dict[str, float]:
        """`loss`, its parts, `value_accuracy`, and `auroc` where a code came to some and not to others."""
        found = {"loss": sum(w * means[n] for n, w in self.weights.items() if n in means)}
        found |= {f"{name}_loss": means[name] for name in ("time", "value") if name in means}
        if "value_accuracy" in means:
            found["value_accuracy"] = means["value_accuracy"]
        if scores is None:
            return found
        chance, came = np.swapaxes(scores[~np.isnan(scores).any((1, 2))], 0, 1)
        each = [figures.auroc(c > 0, p) for c, p in zip(came.T, chance.T, strict=True)]
        values = [value for value in each if value is not None]
        return {**found, **figures.known(auroc=float(np.mean(values)) if values else None)}


def _head(model: "PreTrainedModel") -> "EventsHead":
    from ehr_models.heads.forecasts import forecast_head

    return cast("EventsHead", forecast_head(model, "events"))


def in_chunks(
    moment: Integers,
    code: Integers,
    seconds: npt.NDArray[np.float64],
    *,
    moments: int,
    chunks: int,
) -> dict[str, npt.NDArray[Any]]:
    """Occurrences as `EventsHead.time_loss` takes them: [C, P], filled up with such of seconds -1.

    Args:
        moment: [n] never decreasing, of each occurrence.
        code: [n]
        seconds: [n]
        moments: How many there are in all.
        chunks: C

    Examples:
        >>> found = in_chunks(np.array([0, 0, 2]), np.array([4, 5, 6]), np.ones(3), moments=3, chunks=2)
        >>> found["row"].tolist(), found["code"].tolist(), found["seconds"].tolist()
        ([[0, 0], [0, 0]], [[4, 5], [6, 0]], [[1.0, 1.0], [1.0, -1.0]])
    """
    size = max(1, -(-moments // chunks))
    chunk = moment // size
    number = np.bincount(chunk, minlength=chunks)
    place = np.arange(len(moment)) - (np.cumsum(number) - number)[chunk]
    shape = (chunks, int(number.max(initial=0)))
    row, codes = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    until = np.full(shape, -1, np.float32)
    row[chunk, place], codes[chunk, place], until[chunk, place] = moment % size, code, seconds
    return {"row": row, "code": codes, "seconds": until}
