import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from ehr_tracking.errors import UserError
from ehr_tracking.experiments import BenchmarkTracker, ExperimentTracker
from ehr_tracking.experiments.directions import direction

PAGE = (Path(__file__).parents[3] / "docs" / "track.md").read_text()
SNIPPETS = re.findall(r"```python\n(.*?)```", PAGE.split("## Any torch loop\n")[1].split("\n## ")[0], re.DOTALL)  # fmt: skip


class Tied(nn.Module):
    """Two layers that share a matrix, as a tied decoder does."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self.second.weight = self.first.weight

    def forward(self, x):
        return self.second(torch.tanh(self.first(x)))


def loop(seed: int = 0):
    torch.manual_seed(seed)
    model = Tied()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    return model, optimizer, torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.5)


def train_epoch(model, x, optimizer):
    optimizer.zero_grad()
    loss = ((model(x) - x.flip(1)) ** 2).mean()
    loss.backward()
    optimizer.step()
    return loss, 0.5


@pytest.fixture
def told(tmp_path, monkeypatch):
    """The folder after the first snippet of the page, as it stands."""
    monkeypatch.chdir(tmp_path)
    model, optimizer, _ = loop()
    x = torch.randn(8, 4)
    losses = iter([0.9, 0.7, 0.8, *[0.75] * 18])
    exec(
        SNIPPETS[0],
        {
            "num_epochs": 21, "model": model, "optimizer": optimizer, "train_loader": x, "val_loader": x,
            "train_epoch": train_epoch, "validate": lambda *_: (next(losses), 0.5), "best_val_loss": 0.72,
        },
    )  # fmt: skip
    return tmp_path / "experiments" / "behrt_mlm_large", model, optimizer


def test_the_pages_loop_leaves_its_tree(told):
    folder, model, _ = told
    files = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    names = ("best_model", "latest", "checkpoint_epoch_10", "checkpoint_epoch_20")
    assert files == {
        *(f"checkpoints/{name}.{end}" for name in names for end in ("safetensors", "json")),
        "plots/loss_curve.png", "plots/accuracy_curve.png", "logs/metrics_history.json",
        "hyperparameters.json", "metadata.json", "summary.json", "SUMMARY.txt",
    }  # fmt: skip
    weights = load_file(folder / "checkpoints" / "latest.safetensors")
    for name, tensor in model.state_dict().items():
        assert torch.equal(weights[name], tensor)
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["best_metrics"]["val_loss"] == {"value": 0.7, "epoch": 1, "direction": "min"}
    assert summary["epochs"] == 21
    assert json.loads((folder / "checkpoints" / "best_model.json").read_text())["epoch"] == 1
    assert "val_loss: 0.7000 at epoch 1" in (folder / "SUMMARY.txt").read_text()
    history = json.loads((folder / "logs" / "metrics_history.json").read_text())
    assert history["val_loss"][:2] == [{"epoch": 0, "value": 0.9}, {"epoch": 1, "value": 0.7}]


def test_a_loop_that_is_gone_on_with_ends_bit_identical(tmp_path):
    x = torch.randn(8, 4, generator=torch.Generator().manual_seed(1))

    def run(tracker, model, optimizer, scheduler, epochs):
        for epoch in epochs:
            tracker.log_metrics(epoch, {"train_loss": train_epoch(model, x, optimizer)[0]})
            scheduler.step()
            tracker.save_checkpoint(model, optimizer, epoch, scheduler=scheduler)
        return tracker

    whole, parts = loop(), loop()
    one = run(ExperimentTracker("whole", tmp_path), *whole, range(6))
    cut = run(ExperimentTracker("cut", tmp_path), *parts, range(3))
    cut.log_metrics(3, {"train_loss": 9.0})  # told, but lost with the machine
    again = loop(seed=7)
    tracker = ExperimentTracker("cut", tmp_path, resume=True)
    note = tracker.load_checkpoint(*again[:2], scheduler=again[2])
    assert note["epoch"] == 2
    run(tracker, *again, range(3, 6))
    for a, b in zip(whole, again, strict=True):
        assert repr(a.state_dict()) == repr(b.state_dict())
    assert tracker.history == one.history
    assert tracker.metadata["resumed"] == 1


def test_a_checkpoint_is_whole_or_the_one_before(tmp_path):
    code = (
        "import os, sys; import torch, safetensors.torch as s\n"
        "from ehr_tracking.experiments import ExperimentTracker\n"
        "t = ExperimentTracker('e', sys.argv[1], resume=True); m = torch.nn.Linear(2, 2)\n"
        "t.save_checkpoint(m, None, 1, {'val_loss': 1.0})\n"
        "save = s.save_file\n"
        "def die(*a, **k): save(*a, **k); os.truncate(a[1], 40); os._exit(9)\n"
        "s.save_file = die\n"
        "t.save_checkpoint(m, None, 2, {'val_loss': 0.5})\n"
    )
    assert subprocess.run([sys.executable, "-c", code, tmp_path], check=False).returncode == 9
    tracker = ExperimentTracker("e", tmp_path, resume=True)
    note = tracker.load_checkpoint(nn.Linear(2, 2))
    assert note == {"epoch": 1, "metrics": {"val_loss": 1.0}}


def test_what_is_no_number_breaks_the_curve_and_is_never_the_best(tmp_path):
    tracker = ExperimentTracker("e", tmp_path)
    for epoch, loss in enumerate([0.5, float("nan"), float("inf"), 0.4]):
        tracker.log_metrics(epoch, {"val_loss": loss, "val_auroc": torch.tensor(loss)})
    assert tracker.best_metrics()["val_loss"]["value"] == 0.4
    assert tracker.best_metrics()["val_auroc"]["value"] == 0.5
    assert [p.name for p in tracker.plot_training_curves()] == ["loss_curve.png", "auroc_curve.png"]
    summary = tracker.save_summary()
    assert summary["not_a_number"] == {"val_loss": 2, "val_auroc": 2}
    json.loads((tmp_path / "e/summary.json").read_text(), parse_constant=pytest.fail)
    with pytest.raises(UserError, match="val_loss at epoch 4 is 'low', not a number"):
        tracker.log_metrics(4, {"val_loss": "low"})


def test_a_confusion_matrix_counts_pairs_and_wants_a_name_for_each_class(tmp_path):
    tracker = ExperimentTracker("e", tmp_path)
    path = tracker.plot_confusion_matrix(torch.tensor([0, 1, 1, 2]), [0, 1, 0, 2], ["a", "b", "c"])
    assert path.read_bytes()[:4] == b"\x89PNG"
    with pytest.raises(UserError, match="class 2 has no name: 2 labels were given"):
        tracker.plot_confusion_matrix([0, 2], [0, 1], ["a", "b"])


@pytest.mark.parametrize(
    ("name", "message"),
    [("../up", "name '../up' cannot be"), ("", "cannot be"), ("e", "exists; choose another name")],
)
def test_an_experiment_is_written_over_nothing(tmp_path, name, message):
    ExperimentTracker("e", tmp_path)
    with pytest.raises(UserError, match=message):
        ExperimentTracker(name, tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "records").touch()
    with pytest.raises(UserError, match="not written by a tracker"):
        ExperimentTracker("data", tmp_path, overwrite=True)
    ExperimentTracker("e", tmp_path, overwrite=True)


def test_a_checkpoint_that_does_not_fit_or_is_damaged_is_one_line(tmp_path):
    tracker = ExperimentTracker("e", tmp_path)
    model, optimizer, _ = loop()
    latest = tracker.save_checkpoint(model, None, 0)
    for given, message in [
        ((nn.Linear(3, 3),), "does not fit"),
        ((model, optimizer), "holds no state of optimizer"),
        ((model, None, "best_model"), "no such checkpoint"),
        ((model, None, "../x"), "cannot be the name"),
    ]:
        with pytest.raises(UserError, match=message) as caught:
            tracker.load_checkpoint(*given)
        assert "\n" not in str(caught.value)
    os.truncate(latest, 60)
    with pytest.raises(UserError, match="is damaged"):
        tracker.load_checkpoint(model)


def test_the_pages_benchmark_writes_the_pages_report(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(next(s for s in SNIPPETS if "BenchmarkTracker(" in s), {})
    folder = tmp_path / "benchmarks" / "survival_models_comparison"
    shown = re.search(r"```markdown\n(.*?)```", PAGE, re.DOTALL)[1]
    assert (folder / "REPORT.md").read_text() == shown
    assert (folder / "comparison_table.md").read_text() in shown
    assert (folder / "plots" / "performance_vs_size.png").read_bytes()[:4] == b"\x89PNG"
    page = (folder / "report.html").read_text()
    assert "data:image/png;base64" in page
    assert "http" not in page


def test_the_best_model_is_the_lowest_where_less_is_better_and_never_one_without_a_number(tmp_path):
    benchmark = BenchmarkTracker("b", tmp_path, directions={"params": "min", "oddity": "max"})
    nan = float("nan")
    benchmark.add_result("a", {"brier": 0.2, "auroc": nan, "params": 2e6, "oddity": 1, "n": 3})
    benchmark.add_result("b|c", {"brier": 0.1, "auroc": 0.5, "params": 1e6, "oddity": 1, "n": 5})
    assert benchmark.best_models() == {
        "brier": (["b|c"], 0.1), "auroc": (["b|c"], 0.5), "params": (["b|c"], 1e6), "oddity": (["a", "b|c"], 1),
    }  # fmt: skip
    assert "| b\\|c | 0.1000 | 0.5000 | 1,000,000 | 1 | 5 |" in benchmark.create_comparison_table()
    assert "| a | 0.2000 | NaN |" in benchmark.create_comparison_table()
    with pytest.raises(UserError, match="no model has c_index; there are brier"):
        benchmark.plot_performance_vs_size("c_index")
    again = BenchmarkTracker("b", tmp_path, resume=True)
    assert again.results == benchmark.results
    with pytest.raises(UserError, match="the direction of x is 'up'; say min or max"):
        BenchmarkTracker("other", tmp_path, directions={"x": "up"})


@pytest.mark.parametrize(
    ("name", "way"),
    [
        ("val_loss", "min"), ("training_time_hours", "min"), ("seconds_per_step", "min"), ("val_brier", "min"),
        ("tokens_per_second", "max"), ("time_dependent_auc", "max"), ("C-index", "max"), ("val_f1_score", "max"),
        ("params", None), ("epoch", None), ("lossless", None),
    ],
)  # fmt: skip
def test_words_of_a_name_tell_which_way_is_better(name, way):
    assert direction(name) == way
