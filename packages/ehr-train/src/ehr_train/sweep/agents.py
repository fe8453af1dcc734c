"""The same sweep as a file for `wandb sweep`, whose agents then run `ehr-train`."""

import shlex
from collections.abc import Sequence
from pathlib import Path

import yaml

from ehr_tracking.config import parse_scalar, to_dict
from ehr_tracking.errors import UserError
from ehr_tracking.files import PathLike, write_whole
from ehr_train.sweep.space import Parameter, Space

_SHELL = """\
settings=(); for setting in "$@"; do settings+=(-s "$setting"); done; \
exec ehr-train {options} --out {out}/"$WANDB_RUN_ID" --resume --track wandb{project} "${{settings[@]}}"\
"""
"""An agent passes `key=value`, each of which is an option of its own here."""


def write_agents(
    path: PathLike, space: Space, arguments: Sequence[str], out: PathLike, *, overwrite: bool
) -> None:
    """Write a sweep for agents of W&B.

    Args:
        path: The file.
        space: What is sought.
        arguments: Options of each run but `--out` and `--resume`.
        out: Directory below which each run gets its own, by its id at W&B.
        overwrite: Replace a file that is there.

    Raises:
        UserError: If there is one.
    """
    path = Path(path)
    if path.exists() and not overwrite:
        raise UserError(f"{path} exists; pass --overwrite to replace it")
    config = space.config
    project = f":{config.project}" if config.project else ""
    line = _SHELL.format(
        options=shlex.join(arguments), out=shlex.quote(str(out)), project=shlex.quote(project)
    )
    tree = {
        **{k: v for k, v in to_dict(config).items() if v is not None},
        "metric": {"name": f"val_{config.metric.figure}", "goal": config.metric.goal},
        "parameters": {p.key: _told(p) for p in space.parameters},
        "program": "ehr-train",
        "command": ["bash", "-c", line, "sweep", "${args_no_hyphens}"],
    }
    write_whole(path, yaml.safe_dump(tree, sort_keys=False))


def _told(parameter: Parameter) -> dict[str, object]:
    """By the flat names and values that W&B takes."""
    if parameter.choices:
        values = [parse_scalar(text) for text in parameter.choices]
        # W&B would write a list in Python's way: the text stays as `-s` has it
        return {
            "values": [
                v if isinstance(v, int | float | str) else t
                for v, t in zip(values, parameter.choices, strict=True)
            ]
        }
    ends = {"min": parameter.low, "max": parameter.high}
    if parameter.step is not None:
        return {"distribution": "q_uniform", "q": parameter.step, **ends}
    if parameter.whole:
        return {"distribution": "int_uniform", **ends}
    return {"distribution": "log_uniform_values" if parameter.log else "uniform", **ends}
