"""`Learner`: a model that answers the questions of its objective."""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from ehr_models.heads.token import Answer, answer
from ehr_models.kinds import kind_of
from ehr_train.objectives import Objective
from ehr_train.objectives.parts import Pairs, Question

SHARES = "expert_shares"
"""Name of the pair of a mixture of experts whose sum is a tensor [layers, E]."""
UNNAMED = ""
"""Of the scores of an objective that names none."""


class Learner(nn.Module):
    """A model with its objective, so that one `forward` is all that data parallelism has to wrap."""

    def __init__(self, model: PreTrainedModel, objective: Objective) -> None:
        """Wrap a model of the zoo that has the head of the objective."""
        super().__init__()
        self.model = model
        self.objective = objective
        config, auxiliary = model.config, kind_of(model.config).auxiliary
        self.expert_layers: list[int] = config.expert_layers if auxiliary else []
        """Those of the model that have experts."""
        self.auxiliary = {
            f"aux_{name}": float(getattr(config, field))
            for name, field in auxiliary.items()
            if self.expert_layers
        }
        """Losses of the model's own, by name -> weight; they are means over tokens."""
        self.shares = tuple(
            f"share_layer{layer}_expert{expert}"
            for layer in self.expert_layers
            for expert in range(config.experts)
        )
        """Names of the experts' shares of tokens."""

    def forward(self, question: Question) -> Pairs:
        """Named sums over targets, fp32, and the number of these targets; of `auxiliary` over tokens."""
        made = answer(self.model, question.batch)
        pairs = self.objective.loss(self.model, made.states, question)
        return pairs | _beside(made, len(question.batch.input_ids))

    def judge(self, question: Question) -> tuple[Pairs, dict[str, Tensor]]:
        """Those of the objective alone and its scores of each span [S, ...], by name where it names them."""
        states_TD = answer(self.model, question.batch).states
        pairs = self.objective.loss(self.model, states_TD, question)
        scores = self.objective.scores(self.model, states_TD, question)
        if scores is None:
            return pairs, {}
        return pairs, scores if isinstance(scores, dict) else {UNNAMED: scores}

    def rebalance(self, shares: Tensor, found: Tensor) -> None:
        """Tell the model of a step's shares [layers E] of tokens, in the order of `shares`.

        Where `found` is 1 the step must change nothing: it is told of even shares.
        """
        if self.shares:
            backbone: Any = self.model.base_model
            rows = shares.view(len(self.expert_layers), -1)
            backbone.rebalance(torch.where(found.bool(), 1 / rows.shape[1], rows))


def _beside(made: Answer, tokens: int) -> Pairs:
    pairs: Pairs = {f"aux_{n}": (mean * tokens, tokens) for n, mean in made.auxiliary.items()}
    if made.expert_shares is not None:
        pairs[SHARES] = (made.expert_shares * tokens, tokens)
    return pairs
