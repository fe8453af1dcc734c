"""Whether any of a set of codes comes within a horizon: questions at random.

K cuts, Q queries of a batch, N tokens of their sets.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator
from pydantic.dataclasses import dataclass

from ehr_models.heads.config import Problem
from ehr_models.kinds.record import Forecast, HeadName
from ehr_tracking.config import STRICT, ConfigError, Regex
from ehr_train.data import draws, followed
from ehr_train.data.catalogue import Catalogue, catalogue
from ehr_train.data.codes import Codes
from ehr_train.data.cuts import NEVER, Ahead, draw_cuts, look_ahead
from ehr_train.data.examples import Examples, whole_records
from ehr_train.objectives.parts import Asked, Material, Pairs, Question, Score, Sees

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from ehr_models.data.batch import Batch
    from ehr_models.data.tokens import Tokens
    from ehr_train.data.labels import LabelRows

Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Share = Annotated[float, Field(ge=0, le=1)]
Days = Annotated[float, Field(gt=0)]
_DAY = 86_400.0
_HORIZON, _CODE, _AHEAD, _WHICH, _LARGER, _SIZE, _RELATED = range(81, 88)
_OTHER, _PLACE, _BOUNDED, _SIDE, _LOW, _HIGH = range(88, 94)
"""Purposes, so that two uses of one seed draw differently."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Query:
    """Sets of codes and horizons at random moments: does one come within, or does the record end before?

    What is asked is drawn without a look at what comes, or weighed as if it were (see `docs/query.md`), so
    that probabilities are those of a user's question.

    Source:
        EveryQuery: task-conditioned pretraining for zero-shot clinical prediction, arXiv 2603.07900.
    """

    kind: Literal["query"] = "query"
    every: Annotated[int, Field(ge=1)] = 16
    """One in so many moments of a record is a prediction time; which, is drawn anew each epoch."""
    between: Share = 0.5
    """Of prediction times lie behind an event, by a minute to 90 days, whatever comes next."""
    queries: Annotated[int, Field(ge=1)] = 16
    """Of each prediction time."""
    shortest: Days = 1.0
    """Horizon, in days; horizons are log-uniform from here..."""
    longest: Days = 730.0
    """... to here."""
    codes: Annotated[int, Field(ge=1)] = 8
    """Most codes of a set; half of the sets are one code."""
    related: Share = 0.5
    """Of the larger sets are neighbours in the alphabet, as a pattern finds them."""
    bounded: Share = 0.25
    """Of codes with values are asked for within bounds."""
    happening: Annotated[float, Field(ge=0, lt=1)] = 0.5
    """Of sets begin with a code that comes within the horizon; they weigh as much less as they are
    more often asked for than by frequency."""
    power: Annotated[float, Field(ge=0)] = 0.5
    """A code is asked for as often as (its events in train + 1) to this power."""
    focus: tuple[Regex, ...] = ()
    """Codes that will be asked for: `focused` of the sets begin with one of them."""
    focused: Annotated[float, Field(ge=0, lt=1)] = 0.25
    """Of sets begin with a code of `focus`, where the vocabulary has one."""
    most: Annotated[float, Field(ge=1)] = 10.0
    """Largest weight of an answer that most records end too early for; 1 weighs all alike."""
    complete: tuple[Regex, ...] = ("^MEDS_DEATH",)
    """A record that ends with such a code is whole: what has not come will not."""
    blocks: Annotated[int, Field(ge=1)] = 1
    """Of the head: how often it looks at the states."""
    followed: tuple[float, ...] | None = None
    """Share of moments that are followed for so long, at `followed.knots`; of train where not given."""
    head: ClassVar[HeadName] = "token"
    forecasts: ClassVar[tuple[Forecast, ...]] = ("query",)
    sees: ClassVar[Sees | None] = "past"
    hides: ClassVar[bool] = False
    cut: ClassVar[bool] = False
    labelled: ClassVar[Problem | None] = None
    figures: ClassVar[tuple[str, ...]] = ("loss", "occurs_loss", "censored_loss")
    score: ClassVar[Score] = Score("loss", "min")
    weights: ClassVar[Mapping[str, float]] = {"occurs": 1.0, "censored": 1.0}

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.shortest > self.longest:
            raise ValueError(f"shortest = {self.shortest:g} is above longest = {self.longest:g}")
        if self.followed is not None and len(self.followed) != followed.KNOTS:
            raise ValueError(f"followed has {len(self.followed)} values, not {followed.KNOTS}")
        return self

    def examples(self, tokens: "Tokens", rows: "LabelRows | None") -> Examples:  # noqa: ARG002 -- the same in each
        """Whole records."""
        return whole_records(tokens)

    def fitted(self, train: Examples, codes: Codes | None = None) -> Self:
        """With how long the train records go on.

        Raises:
            ConfigError: If no token of the vocabulary tells a code.
        """
        assert codes is not None
        if not len(self._catalogue(codes)):
            raise ConfigError("objective query: no token of the vocabulary tells a code by itself")
        if self.followed is not None:
            return self
        ends = codes.matching(self.complete)
        seconds, complete = followed.follow_up(train.tokens, train.subject, train.visible, ends)
        at = followed.knots(self.longest * _DAY)
        curve = followed.still_followed(seconds, complete, at)
        return replace(self, followed=tuple(curve.tolist()))

    def attach(self, model: "PreTrainedModel") -> "PreTrainedModel":
        """The model with a query head beside its own."""
        from ehr_models.heads.forecasts import attach

        heads = int(model.config.num_attention_heads)
        return attach(model, "query", {"blocks": self.blocks, "heads": heads})

    def ask(self, batch: "Batch", material: Material, epoch: int) -> Asked:
        """Queries at some moments of each span, and their answers."""
        assert material.codes is not None
        examples, windows, tokens = material.examples, material.windows, material.examples.tokens
        known = self._catalogue(material.codes)
        cuts = draw_cuts(
            batch,
            windows,
            tokens,
            examples.visible[windows.example],
            every=self.every,
            between=self.between,
            seed=material.seed,
            epoch=epoch,
        )
        complete = material.codes.matching(self.complete)[tokens.token[cuts.stop - 1]]
        rest = tokens.time[cuts.stop - 1] - cuts.time
        going = ~complete | (rest > 0)
        cuts, complete, rest = cuts.take(going), complete[going], rest[going]
        subject = tokens.subject_id[examples.subject[windows.example]][cuts.span]
        of = np.repeat(np.arange(len(cuts)), self.queries)  # the cut of each query
        query = np.arange(len(of)) - of * self.queries
        key = (material.seed, epoch, subject[of], cuts.time[of], query)
        horizon = self._horizons(key)
        ahead = [
            look_ahead(tokens, cuts, cut, int(mine.max()))
            for cut, mine in enumerate(horizon.reshape(-1, self.queries))
        ]
        code, weight = self._begun(ahead, known, horizon, key)
        owner, token = self._sets(code, known, key)
        first = np.searchsorted(owner, np.arange(len(of)))
        when = self._when(ahead, token, first)
        occurs = when <= horizon
        censored = ~occurs & (rest[of] < horizon) & ~complete[of]
        took = np.minimum(np.minimum(when, horizon), np.where(complete, rest, NEVER)[of])
        targets: dict[str, npt.NDArray[Any]] = {
            "tokens": token,
            "first": first,
            "horizon": (horizon / 1e6).astype(np.float32),
            "since": cuts.since[of].astype(np.float32),
            "begin": batch.cu_seqlens.numpy().astype(np.int64)[cuts.span][of],
            "end": cuts.end[of],
            "occurs": occurs.astype(np.float32),
            "censored": censored.astype(np.float32),
            "weight": weight.astype(np.float32),
            "known": np.where(censored, 0, weight * self._weight(took)).astype(np.float32),
        }
        return Asked(targets, {"occurs": int((~censored).sum()), "censored": len(of)})

    def _catalogue(self, codes: Codes) -> Catalogue:
        return _made(codes, self.power, self.focus, self.focused)

    def _horizons(self, key: tuple[Any, ...]) -> Integers:
        """[Q] microseconds."""
        days = self.shortest * (self.longest / self.shortest) ** draws.uniform(_HORIZON, *key)
        return np.asarray(days * _DAY * 1e6).astype(np.int64)

    def _when(self, ahead: Sequence[Ahead], token: Integers, first: Integers) -> Integers:
        """[Q] microseconds until each set first comes, as far as was looked ahead; else `NEVER`."""
        bounds = np.append(first, len(token))[:: self.queries]
        each = [a.first(token[i:j]) for a, (i, j) in zip(ahead, pairwise(bounds), strict=True)]
        if not each:
            return first
        return np.asarray(np.minimum.reduceat(np.concatenate(each), first))

    def _weight(self, took: Integers) -> Floats:
        """What answers weigh that took so many microseconds to be known."""
        if self.followed is None:
            return np.ones(len(took))
        return followed.weights(self.followed, self.longest * _DAY, took / 1e6, self.most)

    def _begun(
        self, ahead: Sequence[Ahead], known: Catalogue, horizon: Integers, key: tuple[Any, ...]
    ) -> tuple[Integers, Floats]:
        """The first code of each set [Q], and what the query weighs.

        With p(c) by frequency and focus, and h of sets begun with one of the n codes that come within the horizon,
        code c is drawn with (1 - h) p(c) + h / n if it comes, else (1 - h) p(c), and weighs p(c) over that.
        So whatever is summed with these weights is, on average, what codes by p alone would give.
        """
        code, u = known.drawn(known.begun, draws.uniform(_CODE, *key)), draws.uniform(_WHICH, *key)
        begins = draws.uniform(_AHEAD, *key) < self.happening
        n, comes = np.zeros(len(code), np.int64), np.zeros(len(code), bool)
        for cut, what in enumerate(ahead):
            mine = slice(cut * self.queries, (cut + 1) * self.queries)
            name, when = what.codes(known.code)
            if not len(name):
                continue
            n[mine] = np.searchsorted(when, horizon[mine], side="right")
            one = name[(u[mine] * n[mine]).astype(np.int64)]
            code[mine] = np.where(begins[mine] & (n[mine] > 0), one, code[mine])
            order = np.argsort(name)
            at = order[np.minimum(np.searchsorted(name[order], code[mine]), len(name) - 1)]
            comes[mine] = (name[at] == code[mine]) & (when[at] <= horizon[mine])
        h, p = np.where(n > 0, self.happening, 0.0), known.begun[code]
        return code, p / ((1 - h) * p + np.where(comes, h / np.maximum(n, 1), 0))

    def _sets(
        self, begun: Integers, known: Catalogue, key: tuple[Any, ...]
    ) -> tuple[Integers, Integers]:
        """The tokens of each query, as `Catalogue.told` gives them; [Q] `begun` is one code of each."""
        most = min(self.codes, len(known))
        size = np.ones(len(begun), np.int64)
        if most > 1:
            larger = draws.uniform(_LARGER, *key) < 0.5
            size += np.where(larger, 1 + draws.below(most - 1, _SIZE, *key), 0)
        query = np.repeat(np.arange(len(begun)), size)
        place = np.arange(len(query)) - (np.cumsum(size) - size)[query]
        pair = (*(part if np.ndim(part) == 0 else part[query] for part in key), place)
        other = known.drawn(known.share, draws.uniform(_OTHER, *pair))
        low = begun - draws.below(size, _PLACE, *key)
        low = np.clip(low, 0, len(known) - size)  # a run of neighbours that holds it
        related = draws.uniform(_RELATED, *key) < self.related
        code = np.where(related[query], low[query] + place, other)
        code = np.where((place == 0) & ~related[query], begun[query], code)
        return known.told(query, code, *self._bounds(code, known, pair))

    def _bounds(
        self, code: Integers, known: Catalogue, key: tuple[Any, ...]
    ) -> tuple[Integers, Integers]:
        """The tokens of each code that count: all, or a run of its bins from below, from above or within."""
        bins = known.bins[code]
        low, high = draws.below(bins, _LOW, *key), draws.below(bins, _HIGH, *key)
        low, high = np.minimum(low, high), np.maximum(low, high) + 1
        side = draws.below(3, _SIDE, *key)
        low, high = np.where(side == 0, 0, low), np.where(side == 1, bins, high)
        bounded = (bins > 1) & (draws.uniform(_BOUNDED, *key) < self.bounded)
        return np.where(bounded, low, 0), np.where(bounded, high, np.diff(known.first)[code])

    def loss(self, model: "PreTrainedModel", states: "Tensor", question: Question) -> Pairs:
        """The cross-entropy of each answer: of `occurs` where it is known, of `censored` everywhere."""
        import torch.nn.functional as F

        logits, told = answers(model, states, question), question.targets
        occurs, censored = (
            F.binary_cross_entropy_with_logits(
                logits[:, i], told[name], told[weight], reduction="sum"
            )
            for i, (name, weight) in enumerate([("occurs", "known"), ("censored", "weight")])
        )
        return {
            name: (value, question.counts[name])
            for name, value in {"occurs": occurs, "censored": censored}.items()
        }

    def scores(self, model: "PreTrainedModel", states: "Tensor", question: Question) -> None:
        """None: sums are enough."""

    def metrics(
        self,
        means: Mapping[str, float],
        scores: Any,  # noqa: ANN401, ARG002 -- none
        examples: Examples,  # noqa: ARG002
    ) -> dict[str, float]:
        """`loss`, the sum of `occurs_loss` and `censored_loss`, where both have a target."""
        found = {f"{name}_loss": means[name] for name in self.weights if name in means}
        if len(found) == len(self.weights):
            found["loss"] = sum(found.values())
        return found


def answers(model: "PreTrainedModel", states: "Tensor", question: Question) -> "Tensor":
    """Logits [Q, 2] of a question's queries, fp32."""
    from ehr_models.forecasts.query import Queries
    from ehr_models.heads.forecasts import forecast_head

    table = model.get_input_embeddings().weight
    queries = Queries(*(question.targets[name] for name in Queries._fields))
    logits: Tensor = forecast_head(model, "query")(states, table, queries)
    return logits.float()


@lru_cache(maxsize=8)
def _made(codes: Codes, power: float, focus: tuple[str, ...], focused: float) -> Catalogue:
    """Once for a vocabulary."""
    return catalogue(codes.words, power, codes.matching(focus), focused)
