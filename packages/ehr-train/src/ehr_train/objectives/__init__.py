"""What a model is trained for: `Objective`, and `OBJECTIVES`, the table of all there are.

An objective is its own config: a frozen dataclass with a `kind`. To add one is to write its file and
its line in the table; `docs/extend.md` does it. `total.Sum` adds several up.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

from ehr_models.heads.config import Problem
from ehr_models.kinds.record import Forecast, HeadName
from ehr_train.data.codes import Codes
from ehr_train.data.examples import Examples
from ehr_train.objectives.classification import Classification
from ehr_train.objectives.clm import CLM
from ehr_train.objectives.events import Events
from ehr_train.objectives.label_words import LabelWords
from ehr_train.objectives.mlm import MLM
from ehr_train.objectives.multiclass import MultiClass
from ehr_train.objectives.multilabel import MultiLabel
from ehr_train.objectives.next_visit import NextVisit
from ehr_train.objectives.parts import Asked, Material, Pairs, Question, Score, Sees
from ehr_train.objectives.plos import PLOS
from ehr_train.objectives.query import Query
from ehr_train.objectives.regression import Regression
from ehr_train.objectives.survival import Survival
from ehr_train.objectives.time import Time

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from ehr_models.data.batch import Batch
    from ehr_models.data.tokens import Tokens
    from ehr_train.data.labels import LabelRows


class Objective(Protocol):
    """What a model is asked of a packed batch, and how its answers are judged.

    Questions are made in NumPy, by the thread that prepares steps; equal windows in an equal epoch
    give equal questions in any process. S spans, T tokens, D width, E examples.
    """

    @property
    def kind(self) -> str:
        """Its name in the table."""

    @property
    def head(self) -> HeadName:
        """Which head of a model answers."""

    @property
    def forecasts(self) -> tuple[Forecast, ...]:
        """Which heads beside that over tokens `attach` puts in."""

    @property
    def sees(self) -> Sees | None:
        """What of a record a token may attend to: `all`, the `past`, or either (None)."""

    @property
    def hides(self) -> bool:
        """Whether a model is shown other tokens than are there."""

    @property
    def cut(self) -> bool:
        """Whether examples end at some time, so that always the newest that is visible is shown."""

    @property
    def labelled(self) -> Problem | None:
        """What the labels that it learns from have to say; None where it needs none."""

    @property
    def figures(self) -> tuple[str, ...]:
        """What `metrics` may give; the last word of each is a name of `ehr_train.figures.MODES`."""

    @property
    def score(self) -> Score:
        """The one that says which checkpoint is best, where no other is asked for."""

    @property
    def weights(self) -> Mapping[str, float]:
        """Name of each loss -> its weight. The mean of each is over its own targets."""

    def examples(self, tokens: "Tokens", rows: "LabelRows | None") -> Examples:
        """What a model is shown of a split.

        Args:
            tokens: The split.
            rows: The labels, where it is `labelled`; of any subjects.

        Raises:
            ContractError: If labels and split do not fit together.
        """

    def fitted(self, train: Examples, codes: Codes | None = None) -> "Objective":
        """The same with what depends on the train examples worked out.

        Args:
            train: The examples.
            codes: Of the vocabulary, where it is known.

        Raises:
            ConfigError: If they do not allow for it.
        """

    def attach(self, model: "PreTrainedModel") -> "PreTrainedModel":
        """The model with the head that answers, from one with its pretraining head."""

    def ask(self, batch: "Batch", material: Material, epoch: int) -> Asked:
        """What is asked of a batch.

        Args:
            batch: On the CPU, as the records are.
            material: Where it came from.
            epoch: Draws change with it.
        """

    def loss(self, model: "PreTrainedModel", states: "Tensor", question: Question) -> Pairs:
        """Named (sum, count) pairs.

        Args:
            model: With the head.
            states: [T, D] what it makes of the question's batch.
            question: On the model's device.

        Returns:
            Of each name in `weights` the loss summed over its targets, and their number. In
            evaluation mode also of other figures, e.g. of how many answers were right.
        """

    def scores(self, model: "PreTrainedModel", states: "Tensor", question: Question) -> Any:  # noqa: ANN401 -- see below
        """What `metrics` wants of each span: a tensor [S, ...], several by name, or None for nothing."""

    def metrics(
        self,
        means: Mapping[str, float],
        scores: Any,  # noqa: ANN401 -- as `scores` gave them
        examples: Examples,
    ) -> dict[str, float]:
        """Validation figures.

        Args:
            means: Of each pair that `loss` gives in evaluation mode and that has a target; at least
                one loss is among them.
            scores: What `scores` gave, float64 arrays [E, ...] of every example.
            examples: Those that were asked about.

        Returns:
            `loss` and others; without those that are not defined here.
        """


OBJECTIVES: dict[str, type[Objective]] = {
    "mlm": MLM,
    "clm": CLM,
    "time": Time,
    "events": Events,
    "query": Query,
    "classification": Classification,
    "label_words": LabelWords,
    "multiclass": MultiClass,
    "multilabel": MultiLabel,
    "regression": Regression,
    "survival": Survival,
    "next_visit": NextVisit,
    "plos": PLOS,
}
"""kind -> class."""
