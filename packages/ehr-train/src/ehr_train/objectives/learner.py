"""Questions put to a model: `Asker` makes them, `Learner` answers."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from ehr_models.data.batch import pack
from ehr_models.data.windows import Windows
from ehr_models.heads.token import hidden_states
from ehr_train.data.examples import Examples
from ehr_train.objectives import Objective
from ehr_train.objectives.parts import Material, Pairs, Question


@dataclass(frozen=True, slots=True, eq=False)
class Asker:
    """Makes questions; equal windows in equal epochs give equal questions on any process."""

    objective: Objective
    examples: Examples
    vocab_size: int
    seed: int

    def ask(self, windows: Windows, epoch: int, *, counted: bool = True) -> Question:
        """One question over the given windows.

        Args:
            windows: Laid end to end in this order.
            epoch: Masks change with it.
            counted: Whether the answers count.
        """
        batch = pack(self.examples.tokens, windows)
        material = Material(self.examples, windows, self.vocab_size, self.seed)
        asked = self.objective.ask(batch, material, epoch)
        if asked.shown is not None:
            batch = replace(batch, input_ids=torch.from_numpy(asked.shown))
        targets = {name: torch.from_numpy(value) for name, value in asked.targets.items()}
        return Question(batch, targets, asked.counts, windows.example, counted)


class Learner(nn.Module):
    """A model with its objective, so that one `forward` is all that data parallelism has to wrap."""

    def __init__(self, model: PreTrainedModel, objective: Objective) -> None:
        """Wrap a model of the zoo that has the head of the objective."""
        super().__init__()
        self.model = model
        self.objective = objective

    def forward(self, question: Question) -> Pairs:
        """Named sums over targets, fp32, and the number of these targets."""
        states_TD = hidden_states(self.model, question.batch)
        return self.objective.loss(self.model, states_TD, question)

    def judge(self, question: Question) -> tuple[Pairs, Tensor | None]:
        """The same and the score of each span [S], where the objective has such."""
        states_TD = hidden_states(self.model, question.batch)
        pairs = self.objective.loss(self.model, states_TD, question)
        return pairs, self.objective.scores(self.model, states_TD, question)
