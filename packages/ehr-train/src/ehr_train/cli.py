"""`ehr-train`: pretrain or fine-tune a model on tokens."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import ehr_train
from ehr_tracking.errors import Group
from ehr_tracking.options import PATH, config_options, overwrite_option
from ehr_train.options import device_option, nproc_option, resume_option
from ehr_train.slurm.command import slurm
from ehr_train.sweep.command import sweep
from ehr_train.text.command import text

if TYPE_CHECKING:
    from ehr_train.config import TrainConfig


@click.group(
    cls=Group,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(ehr_train.__version__, package_name="ehr-train")
@click.option("--tokens", type=PATH, help="Token data set (tokens/1).")
@click.option("--out", type=PATH, help="Run directory to write (run/1).")
@config_options("TrainConfig", "optim.lr=3e-4")
@nproc_option
@click.option(
    "--nnodes",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Machines that train together, each with --nproc processes; the command is given on each.",
)
@click.option(
    "--node-rank",
    type=click.IntRange(0),
    default=0,
    envvar="SLURM_NODEID",
    help="Which of them this is, from 0; srun says so.",
)
@click.option("--rdzv", metavar="HOST:PORT", help="Of the first of them: where they meet.")
@click.option(
    "--max-restarts",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    metavar="N",
    help="Start all processes anew where one dies, up to so often: they go on from the last checkpoint.",
)
@click.option(
    "--timeout",
    type=click.IntRange(1),
    default=600,
    show_default=True,
    metavar="SECONDS",
    help="How long processes wait for one that says nothing; longer than saving a checkpoint takes.",
)
@click.option(
    "--window",
    type=click.Choice(["random", "newest", "visits", "all"]),
    help="What of a record longer than the context is shown (data.window): `all` is every chunk of it.",
)
@click.option("--init", type=PATH, help="Run or checkpoint to start from.")
@click.option(
    "--labels",
    type=PATH,
    help="MEDS labels of one task, or a CSV file (see -s labels.subject, .time, .value).",
)
@device_option
@click.option(
    "--track",
    multiple=True,
    metavar="NAME[:WHERE]",
    help="Show the run while it trains: mlflow:http://127.0.0.1:5000, tensorboard or wandb (offline); "
    "may be repeated.",
)
@click.option(
    "--folds",
    type=click.IntRange(2),
    metavar="K",
    help="Train K runs, OUT/fold-1 and so on: each validates on a K-th of the subjects of train and tuning.",
)
@click.option(
    "--shots",
    type=PATH,
    help="Fine-tune --init on each draw of shots/1 (`ehr-eval ehrshot --shots`): a run each, below --out.",
)
@resume_option
@overwrite_option("a run")
@click.option(
    "--allow-changes",
    is_flag=True,
    help="With --resume: go on also with another learning rate, number of steps, and whatever else may change.",
)
@click.option(
    "--dry-run", is_flag=True, help="Print the resolved config and the plan; write nothing."
)
@click.option(
    "--interactive", is_flag=True, help="Ask for data, codes, model and training, step by step."
)
@click.pass_context
def main(
    context: click.Context,
    tokens: Path | None,
    out: Path | None,
    config_file: Path | None,
    overrides: tuple[str, ...],
    nproc: int,
    nnodes: int,
    node_rank: int,
    rdzv: str | None,
    max_restarts: int,
    timeout: int,
    window: str | None,
    init: Path | None,
    labels: Path | None,
    device: str | None,
    track: tuple[str, ...],
    folds: int | None,
    shots: Path | None,
    resume: bool,
    overwrite: bool,
    allow_changes: bool,
    dry_run: bool,
    interactive: bool,
) -> None:  # fmt: skip
    """Pretrain a model on tokens, or fine-tune one on labels.

    Example: ehr-train --tokens demo/tokens --out demo/runs/behrt --nproc 2 -c configs/train/behrt-mlm.yaml

    Labels of a CSV file: ehr-train --tokens T --init M --out R --labels file.csv -s labels.subject=patient
    -s labels.time=date -s labels.value=readmitted -s objective.kind=classification
    """
    if context.invoked_subcommand:
        if tokens or out:
            raise click.UsageError(
                f"options of a run stand behind {context.invoked_subcommand}, in its --run"
            )
        return
    if interactive:
        if any((tokens, window, init, labels, device, resume, overwrite, dry_run, track, folds)):
            raise click.UsageError("--interactive asks for all but --out, --nproc, -c and -s")
        from ehr_train.wizard.run import run

        run(config_file, overrides, out, nproc)
        return
    if tokens is None or out is None:
        raise click.UsageError("--tokens and --out are needed, or --interactive")
    several = bool(folds or shots)
    _refuse_alone(allow_changes, max_restarts, resume=resume, several=several)
    alone = not (folds or overwrite or dry_run)
    meeting = _meeting(nnodes, node_rank, rdzv, resumed=resume and alone)
    meeting |= {"max_restarts": max_restarts, "timeout": timeout}
    from ehr_tracking.backends import check_trackers
    from ehr_tracking.config import load_config
    from ehr_train.config import TrainConfig

    check_trackers(track)
    if window is not None:
        overrides = (*overrides, f"data.window={window}")
    config = load_config(TrainConfig, config_file, _with_objective(overrides, config_file, init))
    common: dict[str, Any] = {
        **{"nproc": nproc, "init": init, "labels": labels, "device": device},
        **{"resume": resume, "overwrite": overwrite},
        **({"allow_changes": True} if allow_changes else {}),
    }
    if dry_run:
        _plan(tokens, out, config, folds, shots, common)
    elif folds:
        _train_folds(tokens, out, config, folds, common | {"track": track})
    elif shots:
        _train_shots(tokens, out, config, shots, common)
    else:
        _train(tokens, out, config, meeting, common | {"track": track})


def _refuse_alone(allow_changes: bool, max_restarts: int, *, resume: bool, several: bool) -> None:
    if allow_changes and (several or not resume):
        raise click.UsageError("--allow-changes is for one run that goes on: it needs --resume")
    if max_restarts and several:
        raise click.UsageError("--max-restarts is for one run: leave out --folds and --shots")


def _meeting(nnodes: int, node_rank: int, rdzv: str | None, *, resumed: bool) -> dict[str, Any]:
    """How many machines, which of them, and where they meet; nothing for one."""
    if nnodes == 1:
        return {}
    if not rdzv or not resumed:
        raise click.UsageError(
            "--nnodes needs --rdzv HOST:PORT and --resume, and neither --folds, --overwrite nor --dry-run"
        )
    if not rdzv.rpartition(":")[0] or not rdzv.rpartition(":")[2].isdigit():
        raise click.UsageError(f"--rdzv {rdzv}: not HOST:PORT, such as node1:29500")
    if node_rank >= nnodes:
        raise click.UsageError(
            f"--node-rank {node_rank}: the last of {nnodes} machines is {nnodes - 1}"
        )
    return {"nnodes": nnodes, "node_rank": node_rank, "rdzv": rdzv}


def _plan(
    tokens: Path,
    out: Path,
    config: "TrainConfig",
    folds: int | None,
    shots: Path | None,
    common: dict[str, Any],
) -> None:
    import yaml

    from ehr_tracking.config import to_dict
    from ehr_train.few_shots import runs_of
    from ehr_train.folds import runs_of_folds
    from ehr_train.plan import plan, plan_all

    if folds:
        figures = plan_all(tokens, runs_of_folds(out, config, folds).items(), **common)
    elif shots:
        _require_init(common)
        figures = plan_all(
            tokens, runs_of(out, config, shots=shots).items(), **common | {"labels": shots}
        )
    else:
        figures = plan(tokens, config, out=out, **common)
    click.echo(yaml.safe_dump(to_dict(config), sort_keys=False))
    click.echo(_lines(figures))


def _train_folds(
    tokens: Path, out: Path, config: "TrainConfig", folds: int, common: dict[str, Any]
) -> None:
    from ehr_tracking.report import text_table
    from ehr_train.folds import train_folds

    click.echo(text_table(train_folds(tokens, out, config, folds=folds, **common)))
    click.echo(f"wrote {out}; see {out / 'report.html'}")


def _train_shots(
    tokens: Path, out: Path, config: "TrainConfig", shots: Path, common: dict[str, Any]
) -> None:
    from ehr_train.few_shots import train_shots

    _require_init(common)
    given = {name: value for name, value in common.items() if name != "labels"}
    runs = train_shots(tokens, out, config, shots=shots, **given)
    click.echo(f"wrote {len(runs):,} runs below {out}")


def _require_init(common: dict[str, Any]) -> None:
    from ehr_tracking.config import ConfigError

    if common["init"] is None or common["labels"] is not None:
        raise ConfigError("--shots needs --init, and has its own labels")


def _train(
    tokens: Path,
    out: Path,
    config: "TrainConfig",
    meeting: dict[str, Any],
    common: dict[str, Any],
) -> None:
    from ehr_tracking.imports import loading

    with loading():
        from ehr_train.run import train
        from ehr_train.scale.launch import Processes

    before = _manifest(out) if common["resume"] else None
    processes = Processes(**meeting)
    train(tokens, out, config, processes=processes, **common)
    if processes.node_rank:
        return
    if before == _manifest(out):
        click.echo(f"{out} is complete; nothing to resume")
    else:
        click.echo((out / "SUMMARY.txt").read_text(encoding="utf-8"), nl=False)
        click.echo(f"wrote {out}; see {out / 'report.html'}")


def _manifest(out: Path) -> bytes | None:
    path = out / "manifest.json"
    return path.read_bytes() if path.is_file() else None


def _with_objective(
    overrides: tuple[str, ...], config_file: Path | None, init: Path | None
) -> tuple[str, ...]:
    """The overrides, and where no objective is named that for which the kind of `--init` is pretrained."""
    import json

    from ehr_models.kinds import KINDS
    from ehr_models.kinds.auto import FIELD, told
    from ehr_tracking.checkpoints import resolve
    from ehr_tracking.config import read_yaml

    named = {item.partition("=")[0].partition(".")[0] for item in overrides}
    named |= read_yaml(config_file).keys() if config_file else set()
    if init is None or "objective" in named:
        return overrides
    tree = json.loads((resolve(init) / "config.json").read_text(encoding="utf-8"))
    kind = told(tree[FIELD]) if FIELD in tree else KINDS.get(tree.get("model_type"))
    return overrides if kind is None else (*overrides, f"objective.kind={kind.pretraining}")


def _lines(figures: dict[str, object]) -> str:
    return "\n".join(
        f"{name:<16} {value:,}" if isinstance(value, int | float) else f"{name:<16} {value}"
        for name, value in figures.items()
    )


main.add_command(slurm)
main.add_command(sweep)
main.add_command(text)
