"""One training run as every process of it knows it: its inputs, as they were when it began."""

import json
from collections.abc import Mapping
from dataclasses import dataclass as plain_dataclass
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import numpy as np
from pydantic.dataclasses import dataclass

from ehr_models.data.store import open_split
from ehr_models.data.tokens import TokenSet, open_tokens
from ehr_tracking.checkpoints import CheckpointStore
from ehr_tracking.config import STRICT, ConfigError, load_config, to_dict, validate
from ehr_tracking.contracts import TRAIN, TUNING, ContractError
from ehr_tracking.files import write_whole
from ehr_tracking.manifest import MANIFEST, Source, sha256, source
from ehr_train.compiling import require_compiler
from ehr_train.config import TrainConfig
from ehr_train.data.codes import Codes
from ehr_train.data.examples import Examples
from ehr_train.data.folds import in_fold
from ehr_train.data.labels import LabelRows, read_rows, read_shots, refuse_unknown
from ehr_train.data.sampler import Sampler
from ehr_train.objectives import OBJECTIVES, Objective

INPUTS = "inputs.json"
_EPOCHS = 10
"""Of a run whose config says neither steps nor epochs."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Inputs:
    """What a run was begun with; no path in it is of a machine."""

    sources: dict[str, Source]
    """By role, as manifests name them."""
    checkpoint: str | None = None
    """What `--init` meant when the run began: the checkpoint, relative to what was given."""
    run: str | None = None
    """SHA-256 of the config of the run that it is of, where a run was given."""

    def write(self, out: Path) -> None:
        """Write them into a run directory."""
        write_whole(out / INPUTS, json.dumps(to_dict(self), indent=1) + "\n")

    @classmethod
    def read(cls, out: Path) -> Self:
        """Those of a run that was begun.

        Raises:
            ContractError: If the run directory was changed.
        """
        try:
            return validate(
                cls, json.loads((out / INPUTS).read_text("utf-8")), where=str(out / INPUTS)
            )
        except (OSError, ValueError) as e:
            raise ContractError(
                f"{out / INPUTS} is damaged: {e}; begin anew with --overwrite"
            ) from None


def _relative(checkpoint: Path, given: Path | None) -> str:
    return "." if given is None else checkpoint.relative_to(given).as_posix()


def _fingerprint(path: Path) -> str | None:
    config = path / "config.yaml"
    return sha256(config) if (path / "checkpoints").is_dir() and config.is_file() else None


@plain_dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """The paths of a run. Its config and its inputs lie in the run directory, resolved."""

    tokens: Path
    out: Path
    init: Path | None
    """A checkpoint, once the run has begun."""
    labels: Path | None
    device: str
    """cpu or cuda"""
    steps: int = 0
    """Optimizer steps in all, counted once for all processes."""

    @classmethod
    def from_spec(cls, spec: Mapping[str, Any]) -> Self:
        """From what a process was started with."""
        paths = ("tokens", "out", "init", "labels")
        values: dict[str, Any] = {k: Path(v) if v and k in paths else v for k, v in spec.items()}
        return cls(**values)

    def spec(self) -> dict[str, Any]:
        """As JSON values, to start a process with."""
        paths = {"tokens": self.tokens, "out": self.out, "init": self.init, "labels": self.labels}
        given = {k: str(v) if v else None for k, v in paths.items()}
        return {"device": self.device, "steps": self.steps, **given}

    def config(self) -> TrainConfig:
        """The resolved config of the run."""
        return load_config(TrainConfig, self.out / "config.yaml")

    def checkpoints(self) -> CheckpointStore:
        """Where the run keeps its checkpoints."""
        config = self.config()
        return CheckpointStore(
            self.out / "checkpoints",
            keep=config.checkpoint.keep,
            keep_every=config.checkpoint.keep_every,
            mode=config.score.mode,
        )

    def inputs(self) -> Inputs:
        """What the run was begun with."""
        return Inputs.read(self.out)

    def resolved(self, checkpoint: Path | None) -> tuple[Self, Inputs]:
        """The job with `init` as the checkpoint that it means now, and the inputs as they are now.

        Args:
            checkpoint: That `init` means, if it is given; nobody removes it meanwhile.

        Raises:
            ContractError: If labels are not to be read.
        """
        sources = self._data()
        if checkpoint is not None:
            sources["init"] = source(checkpoint)
        inputs = Inputs(
            sources=sources,
            checkpoint=None if checkpoint is None else _relative(checkpoint, self.init),
            run=_fingerprint(self.init) if self.init else None,
        )
        return replace(self, init=checkpoint), inputs

    def again(self, begun: Inputs) -> tuple[Self, list[str]]:
        """The job with `init` as what it meant when the run began, and what is not as it was then.

        The run that `init` is may have trained on, and may have removed that checkpoint.
        """
        changed = [
            f"{role}: another one"
            for role, now in self._data().items()
            if begun.sources.get(role) != now
        ]
        changed += [
            f"{role}: not given"
            for role in ("labels", "init")
            if role in begun.sources and getattr(self, role) is None
        ]
        if self.init is None:
            return self, changed
        checkpoint = self.init / (begun.checkpoint or ".")
        if (checkpoint / MANIFEST).is_file():
            same = begun.sources.get("init") == source(checkpoint)
        else:
            same = begun.run is not None and _fingerprint(self.init) == begun.run
        return replace(self, init=checkpoint), changed if same else [*changed, "init: another one"]

    def _data(self) -> dict[str, Source]:
        sources = {"tokens": source(self.tokens)}
        if self.labels is not None:
            from ehr_tracking.arrow.label_files import label_source

            sources["labels"] = label_source(self.labels)
        return sources

    def open_tokens(self) -> TokenSet:
        """The token set.

        Raises:
            ContractError: If it is not one that can be read.
        """
        return open_tokens(self.tokens, texts=True)

    def examples(self, config: TrainConfig, tokens: TokenSet, *splits: str) -> Examples:
        """What the model is shown of some splits.

        Raises:
            ContractError: If a split is missing or damaged, or the labels are.
        """
        return config.objective.examples(open_split(tokens, *splits), self._rows(config))

    def pooled_examples(self, config: TrainConfig, tokens: TokenSet) -> Examples:
        """What is shared out to folds: train, and tuning where there is one.

        Raises:
            ContractError: As `examples`.
        """
        return self.examples(config, tokens, TRAIN, *({TUNING} & {*tokens.splits}))

    def _of_fold(self, config: TrainConfig, tokens: TokenSet, *, validated: bool) -> Examples:
        assert config.fold is not None
        pooled = self.pooled_examples(config, tokens)
        mine = in_fold(pooled, config.fold.of, config.fold.number, config.seed)
        kept = np.flatnonzero(mine == validated)
        if len(kept) == 0:
            raise ContractError(
                f"fold {config.fold.number} of {config.fold.of} has {'no' if validated else 'each'} "
                f"subject of the {len(pooled):,} examples for objective {config.objective.kind}; take "
                "fewer folds"
            )
        return pooled.take(kept)

    def _rows(self, config: TrainConfig) -> LabelRows | None:
        if self.labels is None or config.objective.labelled is None:
            return None
        if config.shots is not None:
            return read_shots(self.labels, **to_dict(config.shots))
        return read_rows(self.labels, config.objective.labelled, config.labels)

    def train_examples(self, config: TrainConfig, tokens: TokenSet) -> Examples:
        """What the model learns from.

        Raises:
            ContractError: If there is nothing.
        """
        if config.fold is not None:
            return self._of_fold(config, tokens, validated=False)
        examples = self.examples(config, tokens, TRAIN)
        if len(examples) == 0:
            what = (
                f"{self.labels} labels no subject" if self.labels else f"{self.tokens} has no one"
            )
            raise ContractError(
                f"{what} of the train split that objective {config.objective.kind} could learn from"
            )
        return examples

    def tuning_examples(self, config: TrainConfig, tokens: TokenSet) -> Examples | None:
        """What the model is validated on; None where there is nothing."""
        if config.fold is not None:
            return self._of_fold(config, tokens, validated=True)
        if TUNING not in tokens.splits:
            return None
        examples = self.examples(config, tokens, TUNING)
        return examples if len(examples) else None

    def check(self, config: TrainConfig, nproc: int) -> None:
        """Refuse what cannot be trained, before anything is written.

        Raises:
            ConfigError: If config and options do not fit together.
            ContractError: If tokens or labels cannot be used.
        """
        labelled, kind = config.objective.labelled, config.objective.kind
        if labelled and self.labels is None:
            raise ConfigError(f"objective.kind = {kind} needs --labels DIRECTORY of one task")
        if self.labels is not None and not labelled:
            kinds = ", ".join(
                name for name, cls in OBJECTIVES.items() if getattr(cls, "labelled", None)
            )
            raise ConfigError(f"--labels are for objective.kind = {kinds}, not {kind}")
        if config.shots is not None and labelled != "binary":
            raise ConfigError("shots are of yes and no: take objective.kind = classification")
        if config.adapter is not None and self.init is None:
            raise ConfigError("adapter needs --init: the run or checkpoint that it adapts")
        if self.device == "cuda":
            _require_devices(nproc)
        if config.compile is True:
            require_compiler(self.device)
        tokens = self.open_tokens()
        rows = self._rows(config)
        if rows is not None and self.labels is not None:
            refuse_unknown(rows, tokens, where=self.labels)
        unvalidated = config.fold is None and TUNING not in tokens.splits
        if config.validation.patience is not None and unvalidated:
            raise ConfigError(
                f"validation.patience needs a tuning split, but {self.tokens} has only "
                f"{', '.join(tokens.splits)}"
            )


def sampler(config: TrainConfig, examples: Examples) -> Sampler:
    """The order of a run's steps."""
    data = config.data
    return Sampler(
        examples=examples,
        context=data.context,
        window="newest" if config.objective.cut else data.window,
        batch=data.batch_records if data.loader == "exact" else data.batch_tokens,
        seed=config.seed,
        loader=data.loader,
    )


def require_targets(objective: Objective, order: Sampler, tokens: TokenSet) -> None:
    """Refuse a train split of which an objective can ask nothing.

    Args:
        objective: Fitted.
        order: Of the steps of a run.
        tokens: What they are of.

    Raises:
        ContractError: Naming the objective.
    """
    from ehr_train.objectives.asker import Asker

    asker = Asker(objective, order.examples, tokens.vocab_size, order.seed, Codes(tokens))
    missing = asker.without_target(order.epoch(0))
    if missing:
        kinds = ", ".join(name.rpartition("/")[0] or objective.kind for name in missing)
        raise ContractError(
            f"{tokens.directory}: nothing in the train split that objective {kinds} could predict "
            f"({len(order.examples):,} records); check the tokens, or take another objective"
        )


def nothing_to_validate(
    objective: Objective, config: TrainConfig, tuning: Examples | None, tokens: TokenSet
) -> bool:
    """Whether there is no target in the tuning split, so that no checkpoint will be the best.

    Args:
        objective: Fitted.
        config: Of the run.
        tuning: Examples of the split.
        tokens: What they are of.
    """
    if tuning is None:
        return True
    from ehr_train.objectives.asker import Asker

    order = sampler(config, tuning)
    asker = Asker(objective, tuning, tokens.vocab_size, config.seed, Codes(tokens))
    return bool(asker.without_target(order.epoch(0)))


def count_steps(order: Sampler, config: TrainConfig) -> int:
    """Optimizer steps of the whole run."""
    if config.optim.steps is not None:
        return config.optim.steps
    return order.steps_an_epoch * (config.optim.epochs or _EPOCHS)


def _require_devices(nproc: int) -> None:
    import torch

    found = torch.cuda.device_count()
    if nproc > found:
        raise ConfigError(f"{nproc} processes need {nproc} GPUs, but there are {found}")
