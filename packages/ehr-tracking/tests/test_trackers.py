"""Trackers against what others read of them: MLflow's client and server, TensorBoard's reader, W&B's file."""

import os
import re
import socket
import struct
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import ClassVar

import pytest

from ehr_tracking import backends
from ehr_tracking.backends import TRACKERS, Backend, Card, check_trackers
from ehr_tracking.backends.follow import following
from ehr_tracking.errors import UnfinishedError, UserError
from ehr_tracking.report import line_plot
from ehr_tracking.steps import StepLog

CARD = Card(name="behrt", params={"optim.lr": 3e-4, "seed": 0}, tags={"input.tokens": "c0ffee"})


class Server:
    """MLflow's own server over SQLite, on loopback."""

    FIRST = "/api/2.0/mlflow/experiments/search?max_results=1"

    def __init__(self, folder: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self.port}"
        self.folder = folder
        self.start()

    def start(self) -> None:
        environment = {
            **os.environ,
            "_MLFLOW_SERVER_FILE_STORE": f"sqlite:///{self.folder}/mlflow.db",
            "_MLFLOW_SERVER_ARTIFACT_ROOT": "mlflow-artifacts:/",
            "_MLFLOW_SERVER_ARTIFACT_DESTINATION": str(self.folder / "artifacts"),
            "_MLFLOW_SERVER_SERVE_ARTIFACTS": "true",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        }
        command = [sys.executable, "-m", "flask", "--app", "mlflow.server:app", "run"]
        with (self.folder / "server.log").open("a") as log:
            self.process = subprocess.Popen(
                [*command, "--port", str(self.port)], env=environment, stdout=log, stderr=log
            )
        while True:
            assert self.process.poll() is None, (self.folder / "server.log").read_text()
            # its first answer takes as long as its tables
            with suppress(OSError), urllib.request.urlopen(f"{self.uri}{self.FIRST}", timeout=60):
                return
            time.sleep(0.1)

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[Server]:
    found = Server(tmp_path_factory.mktemp("mlflow"))
    yield found
    found.stop()


@pytest.fixture
def client(server):
    with pytest.MonkeyPatch.context():
        from mlflow.tracking import MlflowClient

        import ehr_tracking.backends.mlflow  # noqa: F401 -- says that nothing is told to its makers

        return MlflowClient(server.uri)


def append(run: Path, *steps: int) -> None:
    for step in steps:
        figures = {"step": step, "tokens": 100 * step, "loss": 1 / step}
        StepLog(run).append(figures, {"step": step, "seconds": 0.5})


def killed_and_resumed(run: Path, spec: str) -> None:
    """Five steps, told in parts: a kill after three, of which one is done again, and one is never told."""
    run.mkdir(parents=True)
    with pytest.raises(UnfinishedError), following(run, [spec], CARD, pause=0.01):
        append(run, 1, 2)
        raise UnfinishedError("killed")
    append(run, 3)  # the tracker died first
    StepLog(run).rewind(2)
    append(run, 3)
    with following(run, [spec], CARD, pause=0.01):
        append(run, 4, 5)
        (run / "SUMMARY.txt").write_text("loss 0.2\n")
        line_plot(run / "plots/loss.png", {"train": [(1, 1.0)]}, title="t", x="step", y="loss")


LOSSES = [(step, pytest.approx(1 / step)) for step in range(1, 6)]


@pytest.mark.slow
def test_mlflow_has_a_run_with_each_step_once(server, client, tmp_path) -> None:
    killed_and_resumed(tmp_path / "behrt", f"mlflow:{server.uri}#readmission")
    experiment = client.get_experiment_by_name("readmission")
    (run,) = client.search_runs([experiment.experiment_id])
    assert (run.info.status, run.info.run_name) == ("FINISHED", "behrt")
    assert run.data.params == {"optim.lr": "0.0003", "seed": "0"}
    assert run.data.tags["input.tokens"] == "c0ffee"
    history = client.get_metric_history(run.info.run_id, "loss")
    assert sorted((m.step, m.value) for m in history) == LOSSES
    assert {"tokens", "seconds"} <= run.data.metrics.keys()
    found = client.download_artifacts(run.info.run_id, "", str(tmp_path))
    for name in ("SUMMARY.txt", "plots/loss.png"):
        assert Path(found, name).read_bytes() == (tmp_path / "behrt" / name).read_bytes()


@pytest.mark.slow
def test_a_server_that_goes_away_is_said_once_and_hears_the_rest_when_it_is_back(
    server, client, tmp_path, capsys
) -> None:
    run, said = tmp_path / "run", ""
    run.mkdir()
    with following(run, [f"mlflow:{server.uri}"], CARD, pause=0.01):
        append(run, 1)
        server.stop()
        for step in range(2, 1000):
            append(run, step)
            said += capsys.readouterr().err
            if "is away" in said:
                break
            time.sleep(0.05)
        server.start()
    said += capsys.readouterr().err
    assert said.count("is away (Connection refused); the run goes on") == 1
    assert said.count("\n") == said.count("is there again and knows all steps") + 1 == 2
    experiment = client.get_experiment_by_name("ehr-train")
    (found,) = client.search_runs([experiment.experiment_id])
    history = client.get_metric_history(found.info.run_id, "loss")
    assert sorted(m.step for m in history) == list(range(1, step + 1))


def test_tensorboard_reads_each_step_once(tmp_path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    killed_and_resumed(tmp_path / "behrt", "tensorboard")
    events = EventAccumulator(str(tmp_path / "behrt" / "tensorboard"), {"tensors": 0, "images": 0})
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("loss")] == LOSSES
    assert {"tokens", "seconds"} <= {*events.Tags()["scalars"]}
    (image,) = events.Images("plots/loss")
    assert image.encoded_image_string == (tmp_path / "behrt/plots/loss.png").read_bytes()
    text = {
        tag: events.Tensors(tag)[-1].tensor_proto.string_val[0] for tag in events.Tags()["tensors"]
    }
    assert b"| optim.lr | 0.0003 |" in text["config"]
    assert b"| input.tokens | c0ffee |" in text["tags"]
    assert b"loss 0.2" in text["SUMMARY.txt"]
    assert b"| status | finished |" in text["end"]


def records(path: Path) -> Iterator[bytes]:
    """Records of a W&B file: a log of LevelDB in blocks of 32 kB behind 7 bytes."""
    data, position, parts = path.read_bytes(), 7, b""
    while position + 7 <= len(data):
        if 32768 - position % 32768 < 7:
            position += 32768 - position % 32768
        length, kind = struct.unpack("<HB", data[position + 4 : position + 7])
        parts += data[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # full, or the last part
            yield parts
            parts = b""


@pytest.mark.slow
def test_the_offline_run_of_wandb_holds_each_step_once(tmp_path) -> None:
    from wandb.proto.wandb_internal_pb2 import Record

    run = tmp_path / "behrt"
    killed_and_resumed(run, "wandb:readmission")
    (folder,) = (run / "wandb").iterdir()
    (file,) = folder.glob("*.wandb")
    found, until = [], time.monotonic() + 20
    while not any(r.HasField("exit") for r in found):  # its service writes on for a moment
        assert time.monotonic() < until
        found = [Record.FromString(raw) for raw in records(file)]
    (begun,) = [r.run for r in found if r.HasField("run")]
    assert (begun.project, begun.display_name) == ("readmission", "behrt")
    config = {c.key: c.value_json for c in begun.config.update}
    assert config["optim.lr"] == "0.0003"
    assert "c0ffee" in config["tags"]
    steps = [
        {item.key or ".".join(item.nested_key): item.value_json for item in r.history.item}
        for r in found
        if r.HasField("history")
    ]
    assert [(int(s["_step"]), float(s["loss"])) for s in steps] == LOSSES
    assert [r.exit.exit_code for r in found if r.HasField("exit")] == [0]
    for name in ("SUMMARY.txt", "plots/loss.png"):
        assert (folder / "files" / name).read_bytes() == (run / name).read_bytes()
    assert not [p for p in run.rglob("*") if p.is_symlink()]


def test_the_tracker_of_the_page_has_each_step_once(tmp_path, monkeypatch) -> None:
    page = (Path(__file__).parents[3] / "docs" / "extend.md").read_text()
    file, line = re.findall(r"```python\n(.*?)```", page.split("## A tracker\n")[1], re.DOTALL)[:2]
    (tmp_path / "csv_tracker.py").write_text(file)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(TRACKERS, "csv", None)  # taken out again afterwards
    exec(
        line.replace("ehr_tracking.backends.csv", "csv_tracker"),
        {"TRACKERS": TRACKERS, "Backend": Backend},
    )
    killed_and_resumed(tmp_path / "behrt", "csv")
    lines = (tmp_path / "behrt" / "losses.csv").read_text().splitlines()
    assert [(int(s), float(x)) for s, x in (line.split(",") for line in lines)] == LOSSES


class Flaky:
    """A tracker of a user, whose library raises at every second call."""

    told: ClassVar[list[int]] = []
    calls = 0

    def __init__(self, where: str, run: Path, card: Card, known: str | None) -> None:
        self.id, self.last = "x", max(self.told, default=0)

    def steps(self, steps) -> None:
        Flaky.calls += 1
        if self.calls % 2:
            raise RuntimeError("the library broke")
        self.told.extend(s["step"] for s in steps)
        self.last = self.told[-1]

    def end(self, status, tags, files) -> None:
        raise RuntimeError("no end")


def test_a_tracker_that_breaks_stops_nothing(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setitem(TRACKERS, "flaky", Backend(__name__, "Flaky", "os", "here", ""))
    monkeypatch.setattr(backends, "import_module", lambda _: sys.modules[__name__])
    with following(tmp_path, ["flaky"], CARD, pause=60):
        append(tmp_path, 1, 2)
    assert Flaky.told == []
    with following(tmp_path, ["flaky"], CARD, pause=60):
        append(tmp_path, 3)
    assert Flaky.told == [1, 2, 3]
    first, second = capsys.readouterr().err.splitlines()
    assert "tracker flaky is away (the library broke); the run goes on" in first
    assert second == "tracker flaky was not told that the run is finished (no end)"


def test_a_run_that_begins_is_refused_where_a_tracker_is_away_and_one_that_goes_on_is_not(
    tmp_path, capsys
) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # nobody listens
        spec = f"mlflow:http://127.0.0.1:{unused.getsockname()[1]}"
        message = f"tracker {spec} cannot be reached: Connection refused; start it or leave --track"
        with pytest.raises(UserError, match=message), following(tmp_path, [spec], CARD):
            pytest.fail("began")
        assert list(tmp_path.iterdir()) == []
        append(tmp_path, 1)
        with following(tmp_path, [spec], CARD):
            append(tmp_path, 2)
    assert capsys.readouterr().err.count("is away (Connection refused); the run goes on") == 1


@pytest.mark.parametrize(
    ("specs", "message"),
    [
        (["mlfow"], "no tracker mlfow; choose one of mlflow, tensorboard, wandb"),
        (["mlflow"], "tracker mlflow has to know where"),
        (["wandb", "wandb"], "tracker wandb is named twice"),
        (["mlflow:runs"], "runs is no URI; say mlflow:http://HOST:PORT"),
        (["mlflow:http://me:secret@host"], "set MLFLOW_TRACKING_USERNAME"),
    ],
)
def test_a_tracker_that_cannot_be_is_one_line(tmp_path, specs, message) -> None:
    with pytest.raises(UserError, match=message) as caught, following(tmp_path, specs, CARD):
        pytest.fail("began")
    assert "\n" not in str(caught.value)
    assert "secret@" not in str(caught.value)


def test_a_library_that_is_not_installed_is_named_with_its_extra(monkeypatch) -> None:
    monkeypatch.setattr(backends, "find_spec", lambda _: None)
    with pytest.raises(UserError, match=r"needs wandb: install ehr-tracking\[wandb\]"):
        check_trackers(["wandb"])
