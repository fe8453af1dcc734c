import pytest
import torch

from ehr_models import registry
from ehr_models.data.store import open_split
from ehr_models.data.tokens import open_tokens
from ehr_tracking.config import ConfigError, load_config
from ehr_train.config import OptimConfig, TrainConfig
from ehr_train.data.examples import whole_records
from ehr_train.data.loader import Share
from ehr_train.data.sampler import Position, Sampler
from ehr_train.objectives import CLM, MLM, Classification
from ehr_train.objectives.asker import Asker
from ehr_train.objectives.learner import Learner
from ehr_train.objectives.total import Part, Sum
from ehr_train.step import Stepper

from .conftest import tiny_config


def stepper_and_step(tokens, objective):
    """A model that is the same each time, and a step of several passes."""
    token_set = open_tokens(tokens)
    examples = whole_records(open_split(token_set, "train"))
    config = tiny_config("clm", optim=OptimConfig(lr=1e-3, clip=1e9, steps=10))
    torch.manual_seed(0)
    model = registry.build(config.model, token_set.vocab_size).train()
    stepper = Stepper(Learner(model, objective), config, torch.device("cpu"))
    sampler = Sampler(examples, 32, "newest", 400, 0)
    share = Share(rank=0, world=1, micro_tokens=100, c=0.0)
    asker = Asker(objective, examples, token_set.vocab_size, 0)
    step = next(share.prepare(sampler.steps(Position()), asker.ask))
    assert len(step.passes) > 2
    return stepper, step


def gradient(stepper, step):
    means, counts, *_ = stepper._backward(step.passes)
    return means, counts, [p.grad.clone() for p in stepper.learner.parameters()]


def test_losses_and_gradients_of_a_sum_are_those_of_its_parts_alone(tokens, visit_codes):
    other = visit_codes[0]()
    both = Sum(parts=(Part(objective=CLM(), weight=0.3), Part(objective=other, weight=2.0)))
    means, counts, together = gradient(*stepper_and_step(tokens, both))
    alone = [gradient(*stepper_and_step(tokens, o)) for o in (CLM(), other)]
    assert counts.tolist() == [c.item() for _, c, _ in alone]
    assert counts[0] != counts[1]  # each has its own denominator
    torch.testing.assert_close(means, torch.cat([m for m, _, _ in alone]))
    for found, clm, visit in zip(together, alone[0][2], alone[1][2], strict=True):
        torch.testing.assert_close(found, 0.3 * clm + 2.0 * visit, atol=1e-6, rtol=1e-5)


def test_the_same_part_twice_is_told_apart_by_number():
    twice = Sum(parts=(Part(objective=CLM()), Part(objective=CLM(), weight=0.5)))
    assert twice.weights == {"clm/loss": 1.0, "clm_2/loss": 0.5}


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ("[{objective: {kind: clm}}]", "at least 2 items"),
        (
            "[{objective: {kind: plos}}, {objective: {kind: classification}}]",
            "one pooled head, but of these parts plos and classification need one each",
        ),
        ("[{objective: {kind: clm}}, {objective: {kind: mlm}}]", "one sees all, one the past"),
        ("[{objective: {kind: mlm}}, {objective: {kind: mlm}}]", "at most one may hide tokens"),
        ("[{objective: {kind: sum}}, {objective: {kind: clm}}]", "sum"),
        ("[{objective: {kind: clm}, weight: 0}, {objective: {kind: clm}}]", "weight = 0"),
    ],
)
def test_what_no_model_can_be_trained_for_is_refused_in_one_line(parts, message):
    with pytest.raises(ConfigError, match=message) as error:
        load_config(TrainConfig, overrides=["objective.kind=sum", f"objective.parts={parts}"])
    assert "\n" not in str(error.value)


def test_a_part_that_reads_labels_makes_the_sum_do_so():
    both = Sum(parts=(Part(objective=MLM()), Part(objective=Classification())))
    assert both.labelled == "binary"
    assert both.head == "both"
