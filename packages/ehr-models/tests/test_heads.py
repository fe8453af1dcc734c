"""Each pooling and each shape of head, against torch's own networks run on one subject at a time."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from ehr_models.checkpoint import load_checkpoint, save_checkpoint
from ehr_models.data.batch import pack
from ehr_models.heads.config import PooledConfig
from ehr_models.heads.losses import losses, problem_of, survival_nll
from ehr_models.heads.pooled import build_classifier, class_logits, classify, pool
from ehr_models.heads.token import hidden_states
from ehr_tracking.config import ConfigError, load_config
from ehr_tracking.contracts import BOS_ID, CLS_ID
from ehr_tracking.errors import UserError

from .conftest import EVERY_HEAD

WIDTH = 16


@pytest.fixture
def backbone(make_model):
    return make_model("behrt", hidden=WIDTH, heads=2, layers=1, intermediate=32)


@pytest.fixture
def make_head(backbone):
    """A classifier of three classes in evaluation mode, no weight of its head at zero."""

    def make(**head):
        torch.manual_seed(2)
        model = build_classifier(backbone, 3, PooledConfig(**head), problem="multiclass")
        with torch.no_grad():
            for parameter in (*model.pooling.parameters(), *model.classifier.parameters()):
                parameter.add_(torch.randn_like(parameter), alpha=0.3)
        return model.eval()

    return make


every_head = pytest.mark.parametrize(
    "head", EVERY_HEAD, ids=lambda h: "-".join(map(str, h.values()))
)


# --- poolings and shapes


@pytest.mark.parametrize("how", ["last", "mean", "max", "sum", "cls"])
def test_pooling_by_hand(how):
    hidden = torch.tensor([[1.0, -1], [3, -5], [2, 9], [7, 7]], requires_grad=True)
    ids = torch.tensor([CLS_ID, 10, 11, CLS_ID])
    expected = {
        "last": [[2.0, 9], [7, 7]],
        "mean": [[2.0, 1], [7, 7]],
        "max": [[3.0, 9], [7, 7]],
        "sum": [[6.0, 3], [7, 7]],
        "cls": [[1.0, -1], [7, 7]],
    }
    out = pool(hidden, torch.tensor([0, 3, 4], dtype=torch.int32), how, input_ids=ids)
    assert out.tolist() == expected[how]
    out.sum().backward()
    assert hidden.grad.sum().item() == pytest.approx(8 if how == "sum" else 4)


def alone(model, states):
    """The answer [C] to the states [L, D] of one subject, without what keeps subjects apart."""
    config, head = model.config, model.pooling
    if hasattr(head, "rnn"):
        out, _ = head.rnn(states[:, None])  # of a whole sequence, nothing padded
        width = head.rnn.hidden_size  # forwards at the last token, backwards at the first
        pooled = torch.cat([out[-1, 0, :width], out[0, 0, width:]])
    elif hasattr(head, "query"):
        pooled = (states @ head.query.weight[0]).softmax(0) @ states
    else:
        pooled = {
            "last": states[-1],
            "cls": states[0],
            "mean": states.mean(0),
            "max": states.amax(0),
            "sum": states.sum(0),
        }[config.pooling]
    layers = [m for m in model.classifier.modules() if isinstance(m, torch.nn.Linear)]
    for layer in layers[:-1]:
        pooled = F.relu(F.linear(pooled, layer.weight, layer.bias))
    return F.linear(pooled, layers[-1].weight, layers[-1].bias)


@every_head
def test_a_head_answers_packed_as_alone_and_padded_on_either_side(
    make_head, records, spans, batch, padded, head
):
    model = make_head(**head)
    with torch.no_grad():
        states = hidden_states(model, batch)
        together = class_logits(model, states, batch)
        by_hand = [alone(model, s) for s in states.split(batch.cu_seqlens.diff().tolist())]
        separate = [classify(model, pack(records, s)) for s in spans]
        sides = [model(**padded(model, batch, side)).logits for side in ("left", "right")]
    assert together.std() > 0.1
    for found in (torch.stack(by_hand), torch.cat(separate), *sides):
        assert (found - together).abs().max() < 1e-5


@every_head
def test_a_subject_is_answered_by_its_own_states_alone(make_head, batch, head):
    """Not one bit comes from its neighbours, and the same is answered twice."""
    model = make_head(**head)
    start, stop = batch.cu_seqlens[2], batch.cu_seqlens[3]
    states = torch.randn(len(batch.input_ids), WIDTH)
    other = torch.randn_like(states)
    other[start:stop] = states[start:stop]
    with torch.no_grad():
        first, again, changed = (class_logits(model, s, batch) for s in (states, states, other))
    assert torch.equal(first, again)
    assert torch.equal(first[2], changed[2])
    assert not torch.equal(first, changed)


@every_head
def test_every_weight_of_a_head_learns_and_comes_back(make_head, batch, tokens_dir, tmp_path, head):
    model = make_head(**head)
    before = classify(model, batch)
    before.square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in model.parameters())
    out = tmp_path / "c"
    out.mkdir()
    options = {"metrics": {}, "producer": "test 0", "config": {}, "seed": 0, "inputs": {}}
    save_checkpoint(out, model, tokens_dir, **options)
    assert torch.equal(before, classify(load_checkpoint(out, head="pooled").model, batch))


@every_head
def test_bf16_autocast_stays_near_fp32(make_head, batch, head):
    """Backwards too: recurrent networks and sums stay in fp32."""
    model = make_head(**head)
    exact = classify(model, batch)
    with torch.autocast("cpu", torch.bfloat16):
        rough = classify(model, batch)
    assert (rough - exact).abs().mean() < 0.05 * exact.abs().mean()
    rough.float().square().sum().backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_recurrent_heads_read_order_and_the_last_real_token(make_head, batch):
    """Of a padded row the last position would be padding, and the last token of another subject."""
    states = torch.randn(len(batch.input_ids), WIDTH)
    start, stop = int(batch.cu_seqlens[2]), int(batch.cu_seqlens[3])
    turned = states.clone()
    turned[start:stop] = states[start:stop].flip(0)
    last = states.clone()
    last[stop - 1] += 1
    for head in ({"shape": "gru"}, {"shape": "lstm"}, {"pooling": "bigru"}):
        model = make_head(**head)
        with torch.no_grad():
            a, b, c = (class_logits(model, s, batch)[2] for s in (states, turned, last))
        assert (a - b).abs().max() > 1e-3
        assert (a - c).abs().max() > 1e-3


def test_measurements_lie_beside_the_pooled_state(make_head, batch, padded):
    model = make_head(shape="ffn", layers=2, hidden=8, measurements=3)
    measured = replace(batch, subject={"measurements": torch.randn(7, 3)})
    with torch.no_grad():
        found = classify(model, measured)
        x = pool(hidden_states(model, batch), batch.cu_seqlens, "mean")
        x = torch.cat([x, measured.subject["measurements"]], 1)
        by_hand = model.classifier(x)
        inputs = padded(model, batch)
        out = model(**inputs, measurements=measured.subject["measurements"])
    assert [tuple(p.shape) for p in model.classifier.parameters() if p.ndim > 1] == [
        *((8, WIDTH + 3), (8, 8), (3, 8)),
    ]
    assert torch.equal(found, by_hand)
    assert (out.logits - found).abs().max() < 1e-5
    wrong = replace(batch, subject={"measurements": torch.randn(7, 2)})
    for one, there in ((batch, 0), (wrong, 2)):
        with pytest.raises(
            UserError, match=f"reads 3 measurements of each subject, but .* {there}"
        ):
            classify(model, one)


def test_dropout_is_before_each_layer_and_in_training_alone(make_head, batch):
    model = make_head(shape="ffn", layers=3, dropout=0.5)
    assert [m.p for m in model.modules() if isinstance(m, torch.nn.Dropout)].count(0.5) == 3
    assert torch.equal(classify(model, batch), classify(model, batch))
    model.train()
    assert not torch.equal(classify(model, batch), classify(model, batch))


def test_a_deep_head_begins_with_a_signal_however_narrow_the_model(backbone):
    """With the width of BERT's initialisation three layers of 16 leave a thousandth of it."""
    config = PooledConfig(shape="ffn", layers=3)
    torch.manual_seed(0)
    model = build_classifier(backbone, 1, config, problem="binary")
    x = torch.randn(500, WIDTH)
    with torch.no_grad():
        assert 0.2 < model.classifier[:-1](x).square().mean() / x.square().mean() < 5


# --- what is refused


def test_pooling_by_cls_needs_one(make_head, batch, padded):
    hidden = torch.zeros(len(batch.input_ids), 4)
    with pytest.raises(UserError, match="needs sequences that begin with"):
        pool(hidden, batch.cu_seqlens, "cls")
    ids = batch.input_ids.clone()
    ids[batch.cu_seqlens[3]] = BOS_ID
    without = replace(batch, input_ids=ids)
    model = make_head(pooling="cls")
    with pytest.raises(UserError, match="needs sequences that begin with"):
        classify(model, without)
    with pytest.raises(ValueError, match="needs sequences that begin with"):
        model(**padded(model, without, "left"))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"pooling": "median"}, "pooling = 'median': Input should be 'last', 'mean'"),
        ({"shape": "gru", "pooling": "max"}, "gru is asked at the last position"),
        ({"hidden": 3}, "shape = linear has no hidden layer"),
        ({"dropout": 1}, "dropout = 1"),
    ],
)
def test_heads_that_there_are_not_are_refused_in_one_line(fields, message):
    with pytest.raises(ConfigError, match=message) as error:
        load_config(PooledConfig, None, [f"{key}={value}" for key, value in fields.items()])
    assert "\n" not in str(error.value)


def test_a_recurrent_shape_means_the_last_position():
    assert PooledConfig(shape="lstm").pooling == "last"
    assert PooledConfig().pooling == "mean"
    with pytest.raises(UserError, match="unknown pooling 'attention'; one of last"):
        pool(torch.zeros(1, 1), torch.tensor([0, 1]), "attention")


@pytest.mark.parametrize(
    ("n", "problem", "edges", "message"),
    [
        (2, "binary", None, "a binary head has 1 output, not 2"),
        (1, "multiclass", None, "a multiclass head has at least 2, not 1"),
        (0, "regression", None, "a regression head has at least 1, not 0"),
        (2, "survival", None, "needs 3 ascending edges in days, from 0, not None"),
        (2, "survival", [0, 30, 20], r"not \[0, 30, 20\]"),
        (2, "survival", [0, 30], "needs 3 ascending edges"),
        (2, "survival", [1, 30, 90], "from 0, not"),
        (3, "multilabel", [0, 1, 2, 3], "survival_edges are of survival heads"),
    ],
)
def test_outputs_have_to_go_with_the_problem(backbone, n, problem, edges, message):
    with pytest.raises(ConfigError, match=message):
        build_classifier(backbone, n, PooledConfig(), problem=problem, survival_edges=edges)


# --- losses


def softplus(x):
    return x.exp().log1p()


@pytest.mark.parametrize(
    ("problem", "n", "labels", "cost", "named"),
    [
        (
            "binary",
            1,
            torch.tensor([1.0, 0]),
            lambda z, y: softplus(z[:, 0]) - y * z[:, 0],
            "multi_label_classification",
        ),
        (
            "multiclass",
            3,
            torch.tensor([2, 0]),
            lambda z, y: z.exp().sum(1).log() - z[[0, 1], y],
            "single_label_classification",
        ),
        (
            "multilabel",
            2,
            torch.tensor([[1.0, 0], [1, 1]]),
            lambda z, y: (softplus(z) - y * z).mean(1),
            "multi_label_classification",
        ),
        (
            "regression",
            2,
            torch.tensor([[1.5, -2], [0, 8]]),
            lambda z, y: ((z - y) ** 2).mean(1),
            "regression",
        ),
        (
            "survival",
            2,
            torch.tensor([[40.0, 1], [31, 0]]),
            lambda z, y: torch.stack([softplus(z[0, 0]) + softplus(-z[0, 1]), softplus(z[1, 0])]),
            "multi_label_classification",
        ),
    ],
)
def test_the_loss_is_that_of_the_problem(backbone, problem, n, labels, cost, named):
    """Through the model's own forward, as one uses it who has none of these packages."""
    edges = [0, 30, 365] if problem == "survival" else None
    model = build_classifier(backbone, n, PooledConfig(), problem=problem, survival_edges=edges)
    assert (problem_of(model.config), model.config.problem_type) == (problem, named)
    ids = torch.tensor([[CLS_ID, 20], [CLS_ID, 30]])
    column = torch.zeros_like(ids)
    given = {"age": column.float(), "time": column, "visit": column, "segment": column}
    out = model.eval()(ids, labels=labels, **given)
    expected = cost(out.logits.detach().double(), labels)
    assert out.loss.item() == pytest.approx(expected.mean().item(), rel=1e-5)
    each = losses(model.config, out.logits, labels)
    torch.testing.assert_close(each, expected.float(), rtol=1e-5, atol=1e-5)
    # of a model that says nothing, as older ones: floats are 0/1, whole numbers classes
    if problem in ("binary", "multiclass", "multilabel"):
        model.config.problem_type = None
        assert model(ids, labels=labels, **given).loss.item() == out.loss.item()


@pytest.mark.parametrize(
    ("days", "happened", "survived", "event"),
    [
        (0.0, 1, [], 0),
        (10.0, 1, [], 0),
        (30.0, 1, [], 0),  # intervals hold their ends
        (30.5, 1, [0], 1),
        (365.0, 1, [0, 1], 2),
        (366.0, 1, [0, 1, 2], None),  # behind the last edge: not come there
        (0.0, 0, [], None),
        (29.0, 0, [], None),  # nothing is said of the interval in which it was lost
        (30.0, 0, [0], None),
        (400.0, 0, [0, 1, 2], None),
    ],
)
def test_survival_by_hand(days, happened, survived, event):
    hazard = torch.tensor([0.1, 0.25, 0.7], dtype=torch.float64)
    chance = torch.prod(1 - hazard[survived]) * (1 if event is None else hazard[event])
    found = survival_nll(
        hazard.logit()[None], torch.tensor([days]), torch.tensor([happened]), [0, 30, 90, 365]
    )
    assert found.exp().item() == pytest.approx(1 / chance.item())


def test_hazards_learn_the_life_table():
    """Of one group of subjects the best hazards are events over those at risk."""
    torch.manual_seed(0)
    days, edges = torch.rand(500) * 120, [0, 30, 60, 90]
    happened = (torch.rand(500) < 0.6).long()
    logits = torch.zeros(1, 3, requires_grad=True)
    steps = torch.optim.LBFGS([logits], max_iter=50, line_search_fn="strong_wolfe")

    def closure():
        steps.zero_grad()
        loss = survival_nll(logits.expand(500, 3), days, happened, edges).mean()
        loss.backward()
        return loss

    steps.step(closure)
    for k in range(3):
        event = (days > edges[k]) & (days <= edges[k + 1]) & (happened == 1)
        at_risk = event | (days >= edges[k + 1])
        assert logits[0, k].sigmoid().item() == pytest.approx(
            (event.sum() / at_risk.sum()).item(), abs=1e-3
        )
