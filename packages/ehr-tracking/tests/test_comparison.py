import json
import struct
import subprocess
import tarfile
import zipfile
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from ehr_tracking.checkpoints import CheckpointStore, reading, resolve
from ehr_tracking.cli import main
from ehr_tracking.contracts import CHECKPOINT, FEATURES, RUN
from ehr_tracking.experiments import ExperimentTracker
from ehr_tracking.lineage import lineage_lines
from ehr_tracking.manifest import Source, new_artifact, seal, sha256, source, verify
from ehr_tracking.steps import StepLog

LOSSES = {10: 0.9, 20: 0.5, 30: 0.7, 40: 0.6}


def track(*args: object, code: int = 0) -> str:
    result = CliRunner().invoke(main, [str(a) for a in args])
    assert result.exit_code == code, result.output
    return result.output


def make_run(
    folder: Path, *, lr: float = 0.1, width: int = 8, shift: float = 0.0, sealed=True, init="0" * 64
) -> Path:
    """A run of 40 steps with four checkpoints, the second the best, as ehr-train leaves it."""
    folder.mkdir(parents=True)
    config = {"optim": {"lr": lr, "steps": 40}, "seed": 0}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    store = CheckpointStore(folder / "checkpoints", keep=4)
    for step in range(1, 41):
        figures = {"step": step, "loss": 1 / step, "tokens": 100 * step}
        if step in LOSSES:
            figures |= {"val_loss": LOSSES[step] + shift, "val_auroc": 1 - LOSSES[step] - shift}
            with store.save(step, score=LOSSES[step]) as directory:
                header = json.dumps(
                    {"w": {"dtype": "F32", "shape": [width, 4], "data_offsets": [0, 128]}}
                )
                blob = struct.pack("<Q", len(header)) + header.encode() + bytes(16 * width)
                (directory / "model.safetensors").write_bytes(blob)
                (directory / "metrics.json").write_text(json.dumps(figures))
                inputs = {
                    "init": Source(
                        contract="checkpoint/1", producer="ehr-train 0", fingerprint=init
                    )
                }
                seal(directory, CHECKPOINT, producer="ehr-train 0", config=config, inputs=inputs)
        StepLog(folder).append(figures, {"step": step, "seconds": 0.5})
    (folder / "SUMMARY.txt").write_text("loss <0.1>\n")
    if sealed:
        seal(folder, RUN, producer="ehr-train 0", config=config)
    return folder


def make_features(folder: Path, checkpoint: Path) -> Path:
    with new_artifact(folder, FEATURES) as partial:
        (partial / "x").write_text("x")
        inputs = {"checkpoint": source(checkpoint)}
        seal(partial, FEATURES, producer="ehr-eval 0", config={}, inputs=inputs)
    return folder


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make_run(tmp_path / "runs" / "behrt")


def test_runs_stand_beside_each_other_with_what_differs(run, tmp_path) -> None:
    other = make_run(
        tmp_path / "runs" / "wide", lr=0.2, width=16, shift=0.1, sealed=False, init="1" * 64
    )
    tracker = ExperimentTracker("mine", tmp_path / "runs")
    tracker.log_hyperparameters({"optim": {"lr": 0.1}, "dropout": 0.5})
    tracker.log_metrics(0, {"val_auroc": 0.2})
    tracker.log_metrics(1, {"val_auroc": float("nan")})
    text = track("compare", run, other, tmp_path / "runs/mine")
    figures, best, differing = (part.splitlines() for part in text.strip().split("\n\n"))
    cells = [line.split() for line in figures]
    assert cells[0] == ["run", "status", "parameters", "steps", "tokens", "seconds", "train_loss", "epochs", "val_loss", "val_auroc"]  # fmt: skip
    assert cells[1] == [
        "behrt",
        "finished",
        "32",
        "40",
        "4,000",
        "20",
        "0.026",
        "-",
        "0.5",
        "0.5",
    ]
    assert cells[2] == [
        "wide",
        "unfinished",
        "64",
        "40",
        "4,000",
        "20",
        "0.026",
        "-",
        "0.6",
        "0.4",
    ]
    assert cells[3] == ["mine", "running", "-", "-", "-", "-", "-", "2", "-", "0.2"]
    assert ["val_loss", "behrt", "0.5", "less"] in [line.split() for line in best]
    assert ["val_auroc", "behrt", "0.5", "more"] in [line.split() for line in best]
    assert [line.split() for line in differing[1:]] == [
        ["optim.lr", "0.1", "0.2", "0.1"], ["optim.steps", "40", "40", "-"], ["seed", "0", "0", "-"],
        ["input", "init", "checkpoint/1", "0" * 16, "checkpoint/1", "1" * 16, "-"], ["dropout", "-", "-", "0.5"],
    ]  # fmt: skip


def test_a_page_of_runs_asks_for_nothing_else(run, tmp_path) -> None:
    other = make_run(tmp_path / "other" / "behrt", shift=0.2)
    out = tmp_path / "page.html"
    track("report", run, other, "--out", out)
    asked = []

    class Reader(HTMLParser):
        def handle_starttag(self, tag, attrs):
            asked.extend(v for k, v in attrs if k in {"src", "href", "srcset"})

    page = out.read_text()
    Reader().feed(page)
    assert len(asked) == 3
    assert all(v.startswith("data:image/png;base64,") for v in asked)
    assert "loss &lt;0.1&gt;" in page
    assert "<h2>other/behrt</h2>" in page  # of one name, told apart by their folders
    assert "exists; choose another path or pass --overwrite" in track(
        "report", run, "--out", out, code=2
    )
    track("plot", run, other, "--metric", "val_auroc", "--out", tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes()[:4] == b"\x89PNG"
    said = track("plot", run, "--metric", "auprc", "--out", tmp_path / "b.png", code=2)
    assert "no run has auprc; there are: train_loss, val_loss, val_auroc" in said
    assert not (tmp_path / "b.png").exists()


@pytest.mark.parametrize("ending", ["tar.gz", "zip"])
@pytest.mark.parametrize(
    ("options", "kept"),
    [([], [10, 20, 30, 40]), (["--best-only"], [20]), (["--without-checkpoints"], [])],
)
def test_an_archive_of_a_run_verifies_and_is_the_same_twice(
    run, tmp_path, ending, options, kept
) -> None:
    (run.parent / ".behrt.lock").touch()
    (run / ".config.yaml.partial").touch()
    archives = [tmp_path / f"{i}.{ending}" for i in range(2)]
    for archive in archives:
        said = track("export", run, "--out", archive, *options)
        (run / "config.yaml").touch()  # times are not kept
    assert archives[0].read_bytes() == archives[1].read_bytes()
    into = tmp_path / "unpacked"
    if ending == "zip":
        with zipfile.ZipFile(archives[0]) as packed:
            packed.extractall(into)
    else:
        with tarfile.open(archives[0]) as packed:
            packed.extractall(into, filter="data")
    (run / ".config.yaml.partial").unlink()
    unpacked = into / "behrt"
    assert f"{sum(p.is_file() for p in unpacked.rglob('*'))} files" in said
    assert verify(unpacked) == []
    assert [int(p.name[5:]) for p in sorted(unpacked.glob("checkpoints/step-*"))] == kept
    if kept:
        assert sha256(resolve(unpacked) / "manifest.json") == sha256(resolve(run) / "manifest.json")
        assert CheckpointStore(unpacked / "checkpoints").fall_back() is None
    else:
        assert (unpacked / "metrics.jsonl").read_bytes() == (run / "metrics.jsonl").read_bytes()
    assert verify(run) == []


def test_what_an_archive_is_not_written_to(run, tmp_path) -> None:
    for out, said in [
        (run / "a.zip", "lies inside the run"),
        (tmp_path / "a.rar", "an archive ends in .tar.gz, .tgz, .zip"),
        (run, "exists; choose another path"),
    ]:
        assert said in track("export", run, "--out", out, code=2)
    assert "is neither a run nor an experiment" in track("export", run / "checkpoints", "--out", "a.zip", code=2)  # fmt: skip
    assert not list(tmp_path.rglob("*.partial"))


def test_pruning_keeps_best_newest_and_what_others_were_made_from(run, tmp_path) -> None:
    store = CheckpointStore(run / "checkpoints")
    features = make_features(tmp_path / "features", store.directory / "step-00000010")
    before = {p.name for p in store.directory.iterdir()}
    planned = track("prune", run, "--in", tmp_path, "--dry-run")
    assert {p.name for p in store.directory.iterdir()} == before
    said = track("prune", run, "--in", tmp_path)
    assert said.replace("removed", "would go") == planned
    rows = {line.split()[0]: line.split(maxsplit=2)[2] for line in said.splitlines()[1:5]}
    assert rows == {
        "step-00000010": f"input of {features}", "step-00000020": "best", "step-00000030": "removed",
        "step-00000040": "latest",
    }  # fmt: skip
    assert verify(run) == []
    assert (store.best().name, store.latest().name) == ("step-00000020", "step-00000040")
    assert "CHANGED" not in "".join(lineage_lines(features, [tmp_path]))
    assert "behrt/checkpoints/step-00000010 (verified)" in "".join(
        lineage_lines(features, [tmp_path])
    )
    track("prune", run, "--in", tmp_path / "runs")  # where the features are not seen
    assert not (store.directory / "step-00000010").exists()
    assert verify(run) == []
    assert "0 removed" in track("prune", run, "--in", tmp_path)


def test_a_run_that_others_name_as_sealed_is_not_resealed(run, tmp_path) -> None:
    made = make_features(tmp_path / "runs" / "made", run)
    said = track("prune", run, code=2)
    assert said == f"Error: {made} was made from {run} as it is sealed\n"
    assert verify(run) == []
    assert len(list((run / "checkpoints").glob("step-*"))) == 4


def test_a_checkpoint_that_is_read_stays_until_the_next_time(run) -> None:
    with reading(run / "checkpoints" / "step-00000030") as read:
        track("prune", run)
        assert verify(read) == []
    track("prune", run)
    assert not read.exists()
    assert verify(run) == []


def test_an_experiment_is_thinned_and_packed(tmp_path) -> None:
    torch = pytest.importorskip("torch")
    tracker = ExperimentTracker("e", tmp_path, checkpoint_every=1)
    for epoch in range(12):
        tracker.save_checkpoint(torch.nn.Linear(2, 2), None, epoch, is_best=epoch == 3)
    said = track("prune", tracker.directory)
    assert "10 removed" in said
    names = {p.stem for p in (tracker.directory / "checkpoints").iterdir()}
    assert names == {"best_model", "latest", "checkpoint_epoch_11"}
    track("export", tracker.directory, "--out", tmp_path / "e.tgz", "--best-only")
    listed = subprocess.run(
        ["tar", "tzf", tmp_path / "e.tgz"], capture_output=True, text=True, check=True
    )
    held = {name for name in listed.stdout.split() if "checkpoints" in name}
    assert held == {"e/checkpoints/best_model.safetensors", "e/checkpoints/best_model.json"}
