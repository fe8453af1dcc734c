"""An export sent to a stand-in of the hub's HTTP API, on this machine; nothing else is contacted."""

import base64
import hashlib
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from click.testing import CliRunner
from huggingface_hub import constants

from ehr_models.cli import main
from ehr_tracking.contracts import CHECKPOINT
from ehr_tracking.manifest import seal

TOKEN = "hf_of_nobody"
FILES = {
    "README.md": b"---\nlicense: apache-2.0\n---\n# A model\n",
    "config.json": b"{}\n",
    "model.safetensors": b"weights " * 1000,
    "model.py": b"class Model: ...\n",
    "tokenizer.json": b"{}\n",
    "metrics.json": b"{}\n",
}
METADATA = {
    "schema": "ehr-models-export/1", "name": "A model", "version": "1.2.0", "changelog": {"1.2.0": "Longer."},
    "licence": "apache-2.0", "metrics": {"loss": 1.0}, "results": {"x": []},
    "model": {"kind": "gpt2", "parameters": 1234, "adapter": False},
    "tokenizer": {"tokens": 9, "min_subjects": 20, "tokens_of_few_subjects": 0},
    "data": {"sources": {"meds": {"contract": "meds/0.4", "fingerprint": "ab" * 32}}},
}  # fmt: skip


class Hub(BaseHTTPRequestHandler):
    """What huggingface_hub asks for when a folder is committed: repository, branch, modes, LFS, commit."""

    def log_message(self, *_): ...

    def answer(self, body=None, code=200):
        data = json.dumps(body or {}).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def body(self):
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def do_PUT(self):
        self.server.lfs[self.path.rpartition("/")[2]] = self.body()
        self.answer()

    def do_POST(self):
        hub, body, path = self.server, self.body(), self.path.partition("?")[0]
        hub.asked.append(path)
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self.answer({"error": "Invalid username or password."}, 401)
        if path == "/api/repos/create":
            hub.made = json.loads(body)
            return self.answer({"url": f"{hub.url}/org/name"})
        if path.startswith("/api/models/org/name/branch/"):
            hub.branches.append(path.rpartition("/")[2])
            return self.answer()
        if path == "/api/validate-yaml":  # of the card
            _, front, _ = json.loads(body)["content"].split("---\n", 2)
            hub.front = yaml.safe_load(front)
            return self.answer({"errors": [], "warnings": []})
        if "/preupload/" in path:
            files = [
                {"path": f["path"], "shouldIgnore": False,
                 "uploadMode": "lfs" if f["path"].endswith(".safetensors") else "regular"}
                for f in json.loads(body)["files"]
            ]  # fmt: skip
            return self.answer({"files": files})
        if path == "/org/name.git/info/lfs/objects/batch":
            objects = [
                {**o, "actions": {"upload": {"href": f"{hub.url}/put/{o['oid']}"}}}
                for o in json.loads(body)["objects"]
            ]
            return self.answer({"transfer": "basic", "objects": objects})
        if "/commit/" in path:
            hub.commits.append(
                (path.rpartition("/")[2], [json.loads(line) for line in body.splitlines()])
            )
            return self.answer({"commitUrl": f"{hub.url}/org/name/commit/1", "commitOid": "1" * 40})
        return self.answer({"error": f"not of this stand-in: {path}"}, 404)


@pytest.fixture
def hub():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.url = f"http://127.0.0.1:{server.server_port}"
    server.asked, server.branches, server.commits, server.lfs, server.made = [], [], [], {}, None
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def export(tmp_path):
    """As `ehr-models export` leaves it."""
    directory = tmp_path / "export"
    directory.mkdir()
    for name, data in FILES.items():
        (directory / name).write_bytes(data)
    (directory / "metadata.json").write_text(json.dumps(METADATA))
    pq.write_table(pa.table({"id": [0], "token": ["[PAD]"]}), directory / "vocab.parquet")
    seal(directory, CHECKPOINT, producer="ehr-models 9", config={})
    return directory


@pytest.fixture
def push(tmp_path, monkeypatch):
    """The command, without a login and large storage other than Git's."""
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-login"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    (tmp_path / "token").write_text(f"{TOKEN}\n")

    def push(*words, code=0, token=True):
        given = ["--token-file", tmp_path / "token"] if token else []
        done = CliRunner().invoke(main, ["push", *map(str, [*words, *given])])
        assert done.exit_code == code, done.output
        return done.stdout if code == 0 else done.stderr

    return push


def committed(hub):
    """File -> bytes, of the only commit."""
    [(_, lines)] = hub.commits
    found = {}
    for line in lines:
        if line["key"] == "file":
            found[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
        elif line["key"] == "lfsFile":
            found[line["value"]["path"]] = hub.lfs[line["value"]["oid"]]
    return found


@pytest.mark.filterwarnings("ignore:Use 'content=")  # of huggingface_hub's own call
def test_every_file_of_an_export_arrives_in_one_commit(export, hub, push):
    said = push(export, "--repo", "org/name", "--revision", "v1", "--endpoint", hub.url)
    assert f"sent to org/name at v1 (private if new): {hub.url}/org/name/commit/1" in said
    assert hub.made["name"] == "name"
    assert hub.made["organization"] == "org"
    assert hub.made["visibility"] == "private"
    assert hub.branches == ["v1"]
    assert [revision for revision, _ in hub.commits] == ["v1"]
    assert hub.commits[0][1][0]["value"]["summary"] == "A model, version 1.2.0"
    assert committed(hub) == {p.name: p.read_bytes() for p in export.iterdir()}
    weights = FILES["model.safetensors"]
    assert hub.front == {"license": "apache-2.0"}
    assert hub.lfs == {hashlib.sha256(weights).hexdigest(): weights}


def test_hub_and_token_may_be_those_of_the_environment(export, hub, tmp_path):
    """As a process: which hub is asked is settled when the library is imported."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING"))}
    kept |= {"HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_XET": "1", "HF_ENDPOINT": hub.url}
    line = [sys.executable, "-c", "from ehr_models.cli import main; main()"]
    line += ["push", str(export), "--repo", "org/name", "--public"]
    subprocess.run(line, check=True, env={**kept, "HF_TOKEN": TOKEN})
    assert hub.made["visibility"] == "public"
    assert [revision for revision, _ in hub.commits] == ["main"]


def test_a_dry_run_says_all_and_asks_nobody(export, hub, push):
    said = push(export, "--repo", "org/name", "--dry-run", "--endpoint", hub.url)
    assert hub.asked == []
    for told in ("8,000  model.safetensors", "licence: apache-2.0", "gpt2, 1,234 parameters",
                 "codes of at least 20 subjects", f"meds meds/0.4 {'ab' * 8}", "nothing was sent"):  # fmt: skip
        assert told in said


@pytest.mark.parametrize(
    ("name", "sealed", "message"),
    [
        (
            "notes.txt",
            False,
            "notes.txt is not in the manifest; only what the export holds may leave",
        ),
        ("train.parquet", True, "train.parquet is no file of an export; nothing was sent"),
        ("training_state/state.json", True, "is no file of an export"),
        ("vocab.parquet", True, "vocab.parquet holds rows of subjects; nothing was sent"),
        ("config.json", False, "config.json was changed"),
    ],
)
def test_what_is_not_of_an_export_does_not_leave(name, sealed, message, export, hub, push):
    (export / name).parent.mkdir(exist_ok=True)
    if name.endswith(".parquet"):
        pq.write_table(pa.table({"subject_id": [1], "token": [7]}), export / name)
    else:
        (export / name).write_text("x")
    if sealed:
        (export / "manifest.json").unlink()
        seal(export, CHECKPOINT, producer="ehr-models 9", config={})
    for options in (["--dry-run"], []):
        said = push(export, "--repo", "org/name", "--endpoint", hub.url, *options, code=2)
        assert message in said
        assert len(said.splitlines()) == 1
    assert hub.asked == []


def test_what_is_wrong_is_one_line(export, hub, push, tmp_path):
    (tmp_path / "another").write_text("hf_another")
    here, name = ["--endpoint", hub.url], ["--repo", "org/name"]
    for options, message in (
        (["--repo", "name"], "'name' is not of the form ORG/NAME"),
        (["--repo", "org/na--me"], "Cannot have -- or .."),
        ([*name, *here], "no token: set HF_TOKEN"),
        ([*name, *here, "--token-file", tmp_path / "none"], "No such file"),
        ([*name, *here, "--token-file", tmp_path / "another"],
         f"{hub.url}: org/name was not written: 401 Invalid username or password."),
        ([*name, "--endpoint", "http://127.0.0.1:1", "--token-file", tmp_path / "token"],
         "http://127.0.0.1:1: org/name was not written"),
    ):  # fmt: skip
        said = push(export, *options, code=2, token=False)
        assert message in said
        assert len(said.splitlines()) == 1
        assert "hf_another" not in said
    assert hub.commits == []
    (export / "metadata.json").unlink()
    (export / "manifest.json").unlink()
    seal(export, CHECKPOINT, producer="ehr-models 9", config={})
    said = push(export, *name, code=2)
    assert "is no export (it holds checkpoint/1); write one with ehr-models export" in said
