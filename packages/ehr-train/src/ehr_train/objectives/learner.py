"""`Learner`: a model that answers the questions of its objective."""

from torch import Tensor, nn
from transformers import PreTrainedModel

from ehr_models.heads.token import hidden_states
from ehr_train.objectives import Objective
from ehr_train.objectives.parts import Pairs, Question


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
