"""With what an output directory was begun, so that nothing else is mixed into it.

MEDS_transforms goes on after a kill by whether files are there, whatever they were made with.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ehr_tokenize.build.build import PRODUCER
from ehr_tokenize.config import TokenizeConfig
from ehr_tracking.arrow.meds import data_files
from ehr_tracking.config import to_dict
from ehr_tracking.errors import UserError

RECORD = ".ehr_tokenize.json"
_MAX_SHOWN = 60


def check_record(work: Path, config: TokenizeConfig, stages: object, meds: Path) -> None:
    """Write down with what `work` is begun, or compare with what it was begun with.

    Input files are told by size and time of change: each worker of each stage looks at all of them.

    Args:
        work: The pipeline's `output_dir`.
        config: Resolved.
        stages: Of the pipeline, with their settings, as plain values.
        meds: The pipeline's `input_dir`.

    Raises:
        UserError: Naming the first setting or input file that differs.
    """
    now = {
        "producer": PRODUCER,
        "ehr_tokenize": to_dict(config),
        "stages": stages,
        "files": _files(meds, config),
    }
    path = work / RECORD
    try:
        then = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        _write(path, now)
        return
    except ValueError:
        raise UserError(f"{path} is damaged; choose a new output_dir, or remove this one") from None
    # through JSON as `then` was: a tuple and a list are the same
    for difference in _differences(then, json.loads(json.dumps(now))):
        raise UserError(
            f"{work} was begun with something else, {difference}; choose a new output_dir, or "
            "remove this one to begin again"
        )


def _files(meds: Path, config: TokenizeConfig) -> dict[str, list[int]]:
    """Path -> bytes and time of change, of every file that decides what is written."""
    names = ["metadata/codes.parquet", "metadata/subject_splits.parquet"]
    listed = [(n, meds / n) for n in names if (meds / n).is_file()]
    listed += [(p.relative_to(meds).as_posix(), p) for p in data_files(meds)]
    if config.subwords.path:
        listed.append(("ehr_tokenize.subwords.path", config.subwords.path))
    stats = [(name, path.stat()) for name, path in sorted(listed)]
    return {name: [s.st_size, s.st_mtime_ns] for name, s in stats}


def _write(path: Path, record: dict[str, Any]) -> None:
    # several workers may do so at once: each writes the same, beside, and renames
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.uname().nodename}.{os.getpid()}")
    partial.write_text(json.dumps(record, indent=1), encoding="utf-8")
    partial.replace(path)


def _differences(then: dict[str, Any], now: dict[str, Any]) -> Iterator[str]:
    """One line for each, that of the settings first."""
    for name in ("producer", "ehr_tokenize", "stages"):
        yield from _differ(name, then.get(name), now[name])
    files, found = then.get("files") or {}, now["files"]
    for name in sorted(files.keys() | found.keys()):
        if name not in found:
            yield f"the input file {name}, which is gone"
        elif files.get(name) != found[name]:
            yield f"without the input file {name}" if name not in files else f"another {name}"


def _differ(key: str, then: object, now: object) -> Iterator[str]:
    if then and now and isinstance(then, dict) and isinstance(now, dict):
        # a scheme's kind decides its other fields
        for k in sorted(then.keys() | now.keys(), key=lambda k: (k != "kind", k)):
            yield from _differ(f"{key}.{k}", then.get(k), now.get(k))
    elif then != now:
        yield f"{key} = {_short(then)} (now {_short(now)})"


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}..."
