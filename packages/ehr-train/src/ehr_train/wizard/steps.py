"""From answers to the commands that do what was asked for."""

import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ehr_train.wizard.find import Found

CONFIG, SCRIPT = "config.yaml", "again.sh"
"""What is written beside the artifacts: the training's config, and the commands."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Synthetic:
    """Patients that are made up."""

    num_patients: int
    novel_prob: float
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Codes:
    """Vectors of codes that a model starts from."""

    path: Path
    vocabularies: tuple[str, ...] = ()
    """Of a ClinVec directory."""
    hierarchy: bool = True
    resize: str = "auto"
    freeze: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """What the questions were answered with, beside the training's config."""

    folder: Path
    """Where everything is written."""
    data: Synthetic | Found
    train_share: float | None
    """Of subjects, where patients in JSON are split."""
    scheme: str | None
    """Of tokens, where such are made."""
    codes: Codes | None
    kind: str
    size: str
    nproc: int


def commands(answers: Answers) -> list[list[str]]:
    """The commands in their order, to be run in the folder of the answers.

    Examples:
        >>> answers = Answers(folder=Path("/w"), data=Found("tokens", Path("/t")), train_share=None,
        ...     scheme=None, codes=None, kind="behrt", size="tiny", nproc=1)
        >>> [shlex.join(command) for command in commands(answers)]
        ['ehr-train --tokens ../t --out run -c config.yaml --resume']
    """
    lines, tokens = _to_tokens(answers)
    train = ["ehr-train", "--tokens", tokens, "--out", "run", "-c", CONFIG]
    if answers.codes is not None:
        lines.append(_start(answers, answers.codes, tokens))
        train += ["--init", "start"]
    if answers.nproc > 1:
        train += ["--nproc", str(answers.nproc)]
    # made again the data are the same bytes, so that a run that was stopped goes on with them
    return [*([*line, "--overwrite"] for line in lines), [*train, "--resume"]]


def script(lines: Sequence[Sequence[str]]) -> str:
    """A shell script of commands, which runs them beside itself."""
    head = "#!/usr/bin/env bash\n# Does again what was asked for, without questions.\nset -euo pipefail\n"
    return head + 'cd "$(dirname "$0")"\n' + "".join(f"{shlex.join(line)}\n" for line in lines)


def _to_tokens(answers: Answers) -> tuple[list[list[str]], str]:
    """The commands up to tokens, and where these are."""
    data, lines = answers.data, []
    if isinstance(data, Synthetic):
        lines.append(
            ["ehr-tokenize", "synth", "--format", "json", "--num-patients", str(data.num_patients),
             "--novel-prob", str(data.novel_prob), "--seed", str(data.seed), "--out", "patients.json"]
        )  # fmt: skip
        form, source = "patients", "patients.json"
    else:
        form, source = data.form, relative(data.path, answers.folder)
    if form == "patients":
        line = ["ehr-tokenize", "from", "patients-json", source, "--out", "meds"]
        if answers.train_share is not None:
            line += ["-s", f"write.train={answers.train_share:g}"]
        lines.append(line)
        form, source = "meds", "meds"
    if form == "meds":
        line = ["ehr-tokenize", "--meds", source, "--out", "tokens"]
        lines.append([*line, "-s", f"scheme.kind={answers.scheme or 'joint'}"])
        source = "tokens"
    return lines, source


def _start(answers: Answers, codes: Codes, tokens: str) -> list[str]:
    line = ["ehr-models", "init", "--kind", answers.kind, "--size", answers.size]
    line += ["--tokens", tokens, "--codes", relative(codes.path, answers.folder), "--out", "start"]
    line += ["--resize", codes.resize, "--hierarchy" if codes.hierarchy else "--no-hierarchy"]
    if codes.vocabularies:
        line += ["--vocabularies", ",".join(codes.vocabularies)]
    return [*line, "--freeze-codes"] if codes.freeze else line


def relative(path: Path, folder: Path) -> str:
    """A path as it is written in a folder, so that the two can move together."""
    return os.path.relpath(path.resolve(), folder.resolve())
