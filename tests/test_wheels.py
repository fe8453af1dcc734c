"""Each wheel, installed alone with what it declares, has a working command and working functions.

The five environments hand each other nothing but directories, as five machines would.
"""

import hashlib
import os
import runpy
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
UV = os.environ.get("UV", "uv")
COMMAND = {"ehr-tracking": "ehr-track"}

USES = {
    "ehr-tracking": """
from pathlib import Path
from ehr_tracking.checkpoints import CheckpointStore, resolve
from ehr_tracking.contracts import CHECKPOINT, LABELS
from ehr_tracking.lineage import lineage_lines
from ehr_tracking.manifest import load_manifest, new_artifact, seal, source, verify
from ehr_tracking.report import html_page, text_table
from ehr_tracking.runs import RunLog, environment, read_log

with new_artifact("sealed", LABELS) as partial:
    (partial / "a.txt").write_text("a")
    seal(partial, LABELS, producer="me 1", config={"n": 1})
assert verify("sealed") == []
assert load_manifest("sealed").files["a.txt"].bytes == 1
store = CheckpointStore("run/checkpoints")
with store.save(1, score=0.5) as partial:
    seal(partial, CHECKPOINT, producer="me 1", config={}, inputs={"x": source("sealed")})
assert resolve("run").name == "step-00000001"
assert "labels/1" in lineage_lines(resolve("run"), [Path()])[1]
RunLog("log.jsonl").append({"step": 1})
assert read_log("log.jsonl") == [{"step": 1}]
assert environment()["packages"]["ehr-tracking"] == "0.1.0"
assert "a" in html_page("t", [text_table([{"a": 1}])])
""",
    "ehr-tokenize": """
from pathlib import Path
from ehr_tokenize.meds.check import check
from ehr_tokenize.config import NumericConfig, TokenizeConfig
from ehr_tokenize.build.build import tokenize
from ehr_tokenize.build.inspection import inspect, record
from ehr_tokenize.synthetic.cohort import synthesize
from ehr_tokenize.synthetic.config import SynthConfig
from ehr_tokenize.tokenizer.tokenizer import Tokenizer

synthesize("other", SynthConfig(num_patients=15))
assert not check("meds").refused
summary = tokenize("meds", "tokens", TokenizeConfig(numeric=NumericConfig(n_bins=5)))
assert summary.lines()
assert Tokenizer.from_pretrained("tokens").tokens[0].text == "[PAD]"
assert inspect("tokens") and record("tokens", 1)
""",
    "ehr-models": """
from pathlib import Path
import torch
from ehr_models.data.batch import pack
from ehr_models.kinds.behrt import BehrtModelConfig
from ehr_models.describe import count_parameters
from ehr_models.heads.config import PooledConfig
from ehr_models.heads.pooled import build_classifier, classify, pool
from ehr_models.heads.token import hidden_states, token_logits
from ehr_models.kinds import KINDS
from ehr_models.registry import build
from ehr_models.data.store import open_split
from ehr_models.data.tokens import open_tokens
from ehr_models.data.windows import newest

data = open_tokens("tokens")
train = open_split(data, "train")
model = build(BehrtModelConfig(size="tiny"), data.vocab_size)
lengths = train.offsets[1:4] - train.offsets[:3]
batch = pack(train, newest(train, range(3), lengths, 64))
states = hidden_states(model, batch)
assert token_logits(model, states[:2]).shape == (2, data.vocab_size)
assert pool(states, batch.cu_seqlens, "mean").shape == (3, 64)
head = build_classifier(model, 1, PooledConfig(), problem="binary")
assert classify(head, batch).shape == (3, 1)
assert "behrt" in KINDS
assert count_parameters(BehrtModelConfig(size="tiny"), 100)
""",
    "ehr-train": """
from pathlib import Path
from ehr_models.checkpoint import load_checkpoint, require_same_vocabulary
from ehr_models.kinds.behrt import BehrtModelConfig
from ehr_models.data.tokens import open_tokens
from ehr_train.config import DataConfig, OptimConfig, TrainConfig
from ehr_train.run import train

config = TrainConfig(
    model=BehrtModelConfig(size="tiny"),
    data=DataConfig(context=64, batch_tokens=512, micro_tokens=512),
    optim=OptimConfig(steps=2),
)
run = train("tokens", "runs/behrt", config, device="cpu")
loaded = load_checkpoint("runs/behrt", head="token")
require_same_vocabulary(loaded, open_tokens("tokens"))
""",
    "ehr-eval": """
from pathlib import Path

from ehr_eval.counts.write import count_features
from ehr_eval.features.extract import extract_features
from ehr_eval.tasks.label_tasks import read_labels
from ehr_eval.heads.lr import LogisticRegressionConfig
from ehr_eval.protocol.config import EhrshotConfig
from ehr_eval.protocol.ehrshot import run_ehrshot
from ehr_eval.tasks.files import read_task_file
from ehr_eval.tasks.make import make_labels
from ehr_tracking.manifest import verify

make_labels("meds", "labels")
assert read_labels("labels")
assert read_task_file("guo_icu").outcome[0].codes  # with the tables of the library
extract_features("runs/behrt", "tokens", "labels", "features/behrt")
count_features("meds", "labels", "features/counts")
config = EhrshotConfig(
    ks=(1, -1), replicates=1, bootstraps=10, heads={"lr": LogisticRegressionConfig(c=(1.0,))}
)
features = {name: Path("features") / name for name in ("behrt", "counts")}
run_ehrshot("labels", features, "results", config)
assert verify("results") == []
assert Path("results/report.html").stat().st_size > 10_000
""",
}
"""What another project does with an installed wheel; each goes on from the files of those before."""


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The five of a release, and their source archives."""
    dist = tmp_path_factory.mktemp("dist") / "release"
    subprocess.run([sys.executable, ROOT / "scripts/release.py", "--out", dist], check=True, capture_output=True)  # fmt: skip
    return dist


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheelhouse of `ehr-tokenize` alone, which needs no torch."""
    out = tmp_path_factory.mktemp("house") / "wheels"
    script = ROOT / "scripts/wheelhouse.py"
    subprocess.run([sys.executable, script, "--python", sys.executable, "--out", out, "ehr-tokenize"], check=True, capture_output=True)  # fmt: skip
    return out


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("work")


def install(name: str, dist: Path, env: Path) -> Path:
    """A new environment with one of our wheels and what it declares, at the pinned versions."""
    pins = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["uv"]
    constraints = env.with_suffix(".txt")
    constraints.write_text("\n".join(pins["constraint-dependencies"]))
    subprocess.run([UV, "venv", "--quiet", "--clear", env], check=True)
    refresh = [f"--refresh-package={p.name}" for p in (ROOT / "packages").iterdir()]
    subprocess.run(
        [
            UV, "pip", "install", "--quiet", "--link-mode=symlink", "--python", env / "bin/python",
            "--find-links", dist, "--constraints", constraints, *refresh, name,
        ],
        cwd=dist, check=True,
    )  # fmt: skip
    return env / "bin"


def install_offline(name: str, house: Path, env: Path, without: list[str]) -> Path:
    """The same from a wheelhouse, as one without a network does it, and with nothing of this machine's settings."""
    beside = {n: v for n, v in os.environ.items() if not n.startswith(("PIP_", "UV_"))}
    alone = {
        **beside,
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_NO_COMPILE": "1",
        "PYTHON": sys.executable,
    }
    subprocess.run([*without, "sh", house / "install.sh", env, name], check=True, env=alone)
    return env / "bin"


@pytest.mark.slow
@pytest.mark.parametrize("name", USES)
def test_a_wheel_works_alone(
    name: str, wheels: Path, work: Path, request: pytest.FixtureRequest
) -> None:
    # each at the same place, so that what one compiles of torch the next one finds
    without: list[str] = []
    if name == "ehr-tokenize":  # all of it where there is no network, if such a place may be made
        without = request.getfixturevalue("offline")
        house = request.getfixturevalue("house")
        programs = install_offline(name, house, work / "env", without)
        synth = [programs / name, "synth", "--num-patients", "150", "--out", "meds"]
        subprocess.run([*without, *synth], cwd=work, check=True)
    else:
        programs = install(name, wheels, work / "env")
    command = programs / COMMAND.get(name, name)
    said = subprocess.run([command, "--version"], capture_output=True, text=True, check=True).stdout
    assert "0.1.0" in said
    frozen = subprocess.run(
        [UV, "pip", "freeze", "--python", programs / "python"], capture_output=True, text=True, check=True
    ).stdout  # fmt: skip
    ours = {
        line.split("==")[0].split(" @")[0]
        for line in frozen.splitlines()
        if line.startswith("ehr-")
    }
    assert ours == {name} | SIBLINGS[name]
    script = work / f"{name}.py"
    script.write_text(USES[name])
    # -P: not the folder of the script, so that only what is installed can be imported
    compiled = {**os.environ, "PYTHONPYCACHEPREFIX": str(work / "compiled")}
    subprocess.run(
        [*without, programs / "python", "-P", script], cwd=work, check=True, env=compiled
    )


SIBLINGS: dict[str, set[str]] = {
    "ehr-tracking": set(),
    "ehr-tokenize": {"ehr-tracking"},
    "ehr-models": {"ehr-tracking"},
    "ehr-train": {"ehr-models", "ehr-tracking"},
    "ehr-eval": {"ehr-models", "ehr-tracking"},
}


def test_a_wheelhouse_of_everything_has_our_packages_and_what_runs_comparisons() -> None:
    script = runpy.run_path(str(ROOT / "scripts/wheelhouse.py"))
    names = {name.split("[")[0] for name in script["everything"]()}
    assert names == {*SIBLINGS, "snakemake", "snakemake-executor-plugin-slurm"}


def test_a_wheelhouse_refuses_another_python_and_damaged_wheels(
    house: Path, tmp_path: Path
) -> None:
    def refusal(**settings: str) -> tuple[int, str]:
        done = subprocess.run(["sh", house / "install.sh", tmp_path / "env"], env={**os.environ, **settings},
                              capture_output=True, text=True, check=False)  # fmt: skip
        return done.returncode, done.stderr

    code, said = refusal(PYTHON="true")
    assert code == 2
    assert f"these wheels are for Python 3.{sys.version_info[1]}" in said
    wheel = next(house.glob("tqdm-*.whl"))
    whole = wheel.read_bytes()
    wheel.write_bytes(whole[:-1])
    code, said = refusal(PYTHON=sys.executable)
    wheel.write_bytes(whole)
    assert code == 1
    assert "1 computed checksum did NOT match" in said
    assert not (tmp_path / "env").exists()


def test_a_release_names_five_wheels_by_their_bytes(wheels: Path) -> None:
    named = dict(reversed(line.split("  ")) for line in (wheels / "SHA256SUMS").read_text().splitlines())  # fmt: skip
    assert len([name for name in named if name.endswith(".whl")]) == len(named) / 2 == 5
    for name, digest in named.items():
        assert hashlib.sha256((wheels / name).read_bytes()).hexdigest() == digest
    notes = (wheels / "NOTES.md").read_text()
    for package in (ROOT / "packages").iterdir():
        first = (package / "CHANGELOG.md").read_text().partition("\n- ")[2].splitlines()[0]
        assert f"## {package.name} 0.1.0" in notes
        assert f"- {first}" in notes


def damage(name: str, text: bytes) -> list[tuple[str, bytes]]:
    """What becomes of a file of the wheel of ehr-eval."""
    if name in ("ehr_eval/py.typed", "ehr_eval/judge/ranks.py"):
        return []
    if name.endswith("LICENSE"):
        return [(name, b""), ("ehr_eval/tests/test_it.py", b""), ("other/module.py", b"")]
    text = text.replace(b"ehr-models<0.2,>=0.1", b"ehr-models<0.1")
    text = text.replace(b"ehr-tracking[arrow,plots]", b"ehr-tracking[drawings]")
    return [(name, text.replace(b"Summary: ", b"Keywords: "))]


def test_a_release_that_is_not_whole_is_refused(wheels: Path, tmp_path: Path) -> None:
    find_faults = runpy.run_path(str(ROOT / "scripts/release.py"))["find_faults"]
    for path in wheels.iterdir():
        (tmp_path / path.name).symlink_to(path)
    assert find_faults(tmp_path) == []
    wheel = next(tmp_path.glob("ehr_eval-*.whl"))
    wheel.unlink()
    with zipfile.ZipFile(wheels / wheel.name) as whole, zipfile.ZipFile(wheel, "w") as damaged:
        for name in whole.namelist():
            for written, text in damage(name, whole.read(name)):
                damaged.writestr(written, text)
    assert {fault.partition(".whl: ")[2] for fault in find_faults(tmp_path)} == {
        "metadata without summary",
        "wants ehr-models<0.1, but ehr-models is 0.1.0",
        "wants ehr-tracking[drawings]<0.2,>=0.1, but there is no extra drawings",
        "ehr_eval/tests/test_it.py has no place in it",
        "other/module.py is not of it",
        "ehr_eval/py.typed is missing",
        "ehr_eval/judge/ranks.py is missing",
        "the licence is missing, or another",
    }
    next(tmp_path.glob("ehr_train-*.tar.gz")).unlink()
    assert find_faults(tmp_path) == ["ehr-train: 1 wheels and 0 source archives, not one each"]
