"""The questions, in four steps; every answer is looked at before the next is asked for."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from ehr_models.codes.resize import METHODS
from ehr_models.kinds import KINDS
from ehr_models.kinds.record import size_of
from ehr_tracking.config import load_config
from ehr_tracking.errors import UserError
from ehr_train.config import TrainConfig
from ehr_train.wizard.find import Found, data_below, form_of, vectors_below, vocabularies_of
from ehr_train.wizard.steps import Answers, Codes, Synthetic

T = TypeVar("T")
# ehr-tokenize is not imported: its Parquet is all that a trainer knows of it
SCHEMES = ("joint", "visits", "cehr", "timeline", "clmbr", "cookbook", "desc")
_SHARE = click.FloatRange(0, 1, min_open=True, max_open=True)


def ask(
    config_file: Path | None, overrides: tuple[str, ...], folder: Path | None, nproc: int
) -> tuple[Answers, TrainConfig]:
    """Ask for everything that a training needs.

    Args:
        config_file: Of the training; its values are offered as answers.
        overrides: Settings on top of it.
        folder: Where everything goes; asked for where None.
        nproc: Processes that train.

    Raises:
        ConfigError: If the config that is offered is wrong.
    """
    config = load_config(TrainConfig, config_file, overrides)
    folder = (
        _checked(folder)
        if folder
        else _prompt("Folder for everything that is made", "exmed", _checked)
    )
    click.echo(heading(1, "Data"))
    data = _data()
    click.echo(heading(2, "Conversion"))
    patients = isinstance(data, Synthetic) or data.form == "patients"
    share = _number("Share of patients to train on", 0.8, _SHARE) if patients else None
    scheme = None
    if isinstance(data, Synthetic) or data.form != "tokens":
        scheme = click.prompt("Scheme of tokens", default="joint", type=click.Choice(SCHEMES))
    kind = click.prompt(
        "Kind of model",
        default=config.model.kind,
        type=click.Choice([n for n, k in KINDS.items() if k.sizes]),
    )
    offered = config.model.size if kind == config.model.kind else next(iter(KINDS[kind].sizes))
    size = click.prompt("Size", default=offered, type=click.Choice(list(KINDS[kind].sizes)))
    longest = size_of(KINDS[kind], KINDS[kind].config(size=size)).max_positions
    context = min(config.data.context, longest)
    context = _number("Maximum sequence length", context, click.IntRange(2, longest))
    click.echo(heading(3, "Pretrained vectors of codes"))
    codes = _codes()
    epochs = _number("Passes over the data", config.optim.epochs or 10, click.IntRange(1))
    rate = _number("Learning rate", config.optim.lr, click.FloatRange(0, min_open=True))
    answers = Answers(
        folder=folder, data=data, train_share=share, scheme=scheme, codes=codes, kind=kind, size=size,
        nproc=nproc,
    )  # fmt: skip
    settings = [f"model.kind={kind}", f"model.size={size}", f"data.context={context}"]
    settings += ["optim.steps=null", f"optim.epochs={epochs}", f"optim.lr={rate}"]
    settings += [f"data.batch_tokens={max(config.data.batch_tokens, context)}"]
    if config.data.micro_tokens != "auto":
        settings += [f"data.micro_tokens={max(config.data.micro_tokens, context)}"]
    return answers, load_config(TrainConfig, config_file, [*overrides, *settings])


def _data() -> Synthetic | Found:
    found = data_below(Path.cwd())
    if found:
        click.echo("Found here:")
        for number, each in enumerate(found, 1):
            click.echo(f"  [{number}] {each.path.relative_to(Path.cwd())} ({each.form})")
    if click.confirm("Generate new synthetic data?", default=not found):
        return Synthetic(
            num_patients=_number("Number of patients to generate", 1000, click.IntRange(1)),
            novel_prob=_number("Novel code probability (0.0-1.0)", 0.01, click.FloatRange(0, 1)),
            seed=_number("Seed", 0, click.IntRange(0)),
        )

    def chosen(answer: str) -> Found:
        if answer.isdigit() and 1 <= int(answer) <= len(found):
            return found[int(answer) - 1]
        path = Path(answer).expanduser()
        return Found(form_of(path), path)

    what = "Number or path of the data" if found else "Path of patients (JSON), MEDS or tokens"
    return _prompt(what, "1" if found else None, chosen)


def _codes() -> Codes | None:
    found = vectors_below(Path.cwd())
    for each in found:
        click.echo(f"  [FOUND] {each.relative_to(Path.cwd())}")
    if not click.confirm("Use pretrained vectors of codes?", default=bool(found)):
        return None
    offered = str(found[0].relative_to(Path.cwd())) if found else None
    path = _prompt("ClinVec directory, or a table of vectors", offered, _existing)
    vocabularies: list[str] = []
    if path.is_dir():
        there = vocabularies_of([p.name for p in path.iterdir()])
        vocabularies = [
            v for v in there if click.confirm(f"  [FOUND] {v}: include it?", default=True)
        ]
        if not vocabularies:
            click.echo("None was included: codes start at random.")
            return None
    return Codes(
        path=path,
        vocabularies=tuple(vocabularies),
        hierarchy=click.confirm("Start novel codes from the code above them?", default=True),
        resize=click.prompt("Embedding resize method", default="auto", type=click.Choice(METHODS)),
        freeze=click.confirm("Keep the vectors as they are while training?", default=False),
    )


def _existing(answer: str) -> Path:
    path = Path(answer).expanduser()
    if path.is_dir() and not vocabularies_of([p.name for p in path.iterdir()]):
        raise UserError(f"{path} holds no ClinVec_<vocabulary>.csv")
    if not path.exists():
        raise UserError(f"{path} does not exist")
    return path


def _checked(answer: str | Path) -> Path:
    folder = Path(answer).expanduser()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} holds something already; name a folder that is new or empty")
    return folder


def _prompt(text: str, default: str | None, convert: Callable[[str], T]) -> T:
    """Ask until the answer can be used."""

    def value(answer: str) -> T:
        try:
            return convert(answer)
        except UserError as e:
            raise click.BadParameter(str(e)) from None

    answered: T = click.prompt(text, default=default, value_proc=value)
    return answered


def _number(text: str, default: float, kind: click.ParamType[Any]) -> Any:  # noqa: ANN401 -- of that kind
    return click.prompt(text, default=default, type=kind)


def heading(number: int, text: str) -> str:
    """Of a step."""
    return f"\n{'=' * 42}\nSTEP {number}: {text}\n{'=' * 42}\n"
