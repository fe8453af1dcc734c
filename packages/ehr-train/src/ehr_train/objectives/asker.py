"""`Asker`: questions over windows; without a model."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch

from ehr_models.data.batch import pack
from ehr_models.data.windows import Windows
from ehr_train.data.codes import Codes
from ehr_train.data.examples import Examples
from ehr_train.objectives import Objective
from ehr_train.objectives.parts import Material, Question


@dataclass(frozen=True, slots=True, eq=False)
class Asker:
    """Makes questions; equal windows in equal epochs give equal questions on any process."""

    objective: Objective
    examples: Examples
    vocab_size: int
    seed: int
    codes: Codes | None = None

    def ask(self, windows: Windows, epoch: int, *, counted: bool = True) -> Question:
        """One question over the given windows.

        Args:
            windows: Laid end to end in this order.
            epoch: Masks change with it.
            counted: Whether the answers count.
        """
        batch = pack(self.examples.tokens, windows)
        material = Material(self.examples, windows, self.vocab_size, self.seed, self.codes)
        asked = self.objective.ask(batch, material, epoch)
        if asked.shown is not None:
            batch = replace(batch, input_ids=torch.from_numpy(asked.shown))
        if asked.subject:
            beside = {name: torch.from_numpy(value) for name, value in asked.subject.items()}
            batch = replace(batch, subject={**batch.subject, **beside})
        targets = {name: torch.from_numpy(value) for name, value in asked.targets.items()}
        return Question(batch, targets, asked.counts, windows.example, counted)

    def without_target(self, steps: Iterable[Windows]) -> list[str]:
        """The losses for which there is nothing to predict in any of these steps.

        Args:
            steps: Looked at until each loss has had a target, which is in the first as a rule.
        """
        missing = list(self.objective.weights)
        for windows in steps:
            counts = self.ask(windows, 0).counts
            missing = [name for name in missing if not counts[name]]
            if not missing:
                break
        return missing
