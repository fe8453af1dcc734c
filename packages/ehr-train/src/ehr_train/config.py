"""What a training run is made of: one frozen config, every default fit to run as it stands."""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator
from pydantic.dataclasses import dataclass
from pydantic_core import ArgsKwargs

from ehr_models.adapters.config import AdapterConfig
from ehr_models.config import ModelConfig
from ehr_models.kinds import KINDS, kind_of_directory
from ehr_models.kinds.behrt import BehrtModelConfig
from ehr_tracking.arrow.label_csv import LabelColumns
from ehr_tracking.config import STRICT
from ehr_train.data.sampler import Loader, Window
from ehr_train.figures import mode_of
from ehr_train.objectives import OBJECTIVES, Objective
from ehr_train.objectives.choice import OneOf
from ehr_train.objectives.mlm import MLM
from ehr_train.objectives.parts import Score
from ehr_train.objectives.total import Sum
from ehr_train.scale import Parallel

Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class DataConfig:
    """How records become batches."""

    context: Annotated[int, Field(ge=2)] = 512
    """Most tokens of one window."""
    window: Window = "random"
    """Which part of a record longer than the context is seen: a `random` one, drawn anew in every
    epoch; the `newest`; or all of it in several windows, each behind the record's prefix: of whole
    `visits`, or `all` chunks from the first token to the last. Validation and fine-tuning always see
    the newest."""
    loader: Loader = "tokens"
    """What fills an optimizer step: `tokens`, as many windows as fit `batch_tokens`; or `exact`ly
    `batch_records` windows, however long (the last step of an epoch has what is left)."""
    batch_tokens: Count = 16_384
    """Most real tokens of one optimizer step, over all processes; of loader `tokens`."""
    batch_records: Count = 32
    """Windows of one optimizer step, over all processes; of loader `exact`."""
    micro_tokens: Count | Literal["auto"] = 8_192
    """Most tokens of one forward pass on one process; a step takes as many passes as it needs. `auto`
    tries, when the run begins, how many fit, and takes the fewest that are as fast as more."""
    ahead: Annotated[int, Field(ge=0)] = 2
    """Steps that a thread makes ready while others are trained; 0 makes each when its turn comes."""

    def unused(self, tokens: int, steps: int) -> float:
        """Share of what steps could hold that no token is in: nothing is padded, but windows are whole.

        Examples:
            >>> DataConfig(context=100, batch_tokens=1000, micro_tokens=100).unused(1500, 2)
            0.25
        """
        most = self.batch_tokens if self.loader == "tokens" else self.batch_records * self.context
        return 1 - tokens / (steps * most)

    @property
    def pass_tokens(self) -> int:
        """`micro_tokens` once it is a number."""
        assert self.micro_tokens != "auto"
        return self.micro_tokens

    @model_validator(mode="after")
    def _fits(self) -> Self:
        budgets = [self.context if self.micro_tokens == "auto" else self.micro_tokens]
        budgets += [self.batch_tokens] * (self.loader == "tokens")
        if min(budgets) < self.context:
            raise ValueError("batch_tokens and micro_tokens must hold one window of context tokens")
        return self


@dataclass(frozen=True, kw_only=True, config=STRICT)
class SkipConfig:
    """How many steps whose loss or gradient is not finite are passed over before a run is ended."""

    in_a_row: Annotated[int, Field(ge=0)] = 5
    """Most of them one after another; 0 ends the run at the first one."""
    in_all: Annotated[int, Field(ge=0)] = 50
    """Most of them in the whole run."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class OptimConfig:
    """The optimizer and its learning rate."""

    kind: Literal["adamw", "muon"] = "adamw"
    """`muon` moves the matrices of the model's layers by orthogonal updates of AdamW's size, and all else
    (embeddings, heads, norms, biases, stacked experts) by AdamW; both at rate `lr`."""
    lr: Positive = 1e-3
    betas: tuple[Share, Share] = (0.9, 0.98)
    """Of AdamW."""
    eps: Positive = 1e-8
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.95
    """Of Muon."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    """On matrices only: no norm, bias or embedding."""
    clip: Positive = 1.0
    """Largest norm of the gradient."""
    skip: SkipConfig = Field(default_factory=SkipConfig)
    ema: Annotated[float, Field(ge=0, lt=1)] | None = None
    """Decay of a moving average of the weights, which is then what is validated and kept: e.g. 0.999,
    the mean of about the last 1,000 steps. None: the weights themselves."""
    schedule: Literal["cosine", "linear", "constant", "wsd"] = "cosine"
    warmup: Annotated[float, Field(ge=0)] = 0.1
    """Below 1 a share of all steps, from 1 on a number of steps."""
    floor: Share = 0.0
    """What the schedule falls to, as a share of `lr`."""
    decay: Share = 0.2
    """Share of all steps that `wsd` takes to fall."""
    steps: Count | None = None
    """Optimizer steps in all."""
    epochs: Count | None = None
    """Passes over the train split in all; 10 where neither is given."""

    @model_validator(mode="after")
    def _one_length(self) -> Self:
        if self.steps is not None and self.epochs is not None:
            raise ValueError("give steps or epochs, not both")
        return self


@dataclass(frozen=True, kw_only=True, config=STRICT)
class TrainedConfig:
    """What of a model is trained beside its new head."""

    backbone: Literal["full", "frozen", "last"] = "full"
    """All of what makes states, nothing of it, or its last layers."""
    last: Count = 2
    """How many layers `backbone: last` trains; what comes behind them is trained as well."""
    codes: Literal["tuned", "frozen"] | None = None
    """Whether the table of code embeddings is trained, or kept as it is; None: as the checkpoint says
    (`ehr-models init --freeze-codes`), and trained where it says nothing."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ValidationConfig:
    """Measuring on the tuning split."""

    every: Count = 100
    """Steps between validations; the last step is always validated."""
    patience: Count | None = None
    """Stop after so many validations in a row without a better score."""
    best: str | None = None
    """The figure that says which checkpoint is best, e.g. `auroc`, `auprc`, `f1`, `c_index`, `loss`;
    of a sum `<part>_<figure>`. None: that of the objective."""
    max_tokens: Count | None = None
    """Most tokens that are measured on, of subjects drawn once and for all; None takes every one."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class FoldConfig:
    """One of several folds of the subjects of train and tuning, by a hash of seed and subject."""

    of: Annotated[int, Field(ge=2)]
    """How many folds there are."""
    number: Count
    """Which of them, from 1: the run validates on its subjects and trains on all others."""

    @model_validator(mode="after")
    def _is_one_of_them(self) -> Self:
        if self.number > self.of:
            raise ValueError(f"there is no fold {self.number} of {self.of}")
        return self


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ShotsConfig:
    """One draw of `shots/1`: learnt from are its rows of train, validated on those of tuning."""

    task: str
    k: int
    """Shots per class; -1 is all."""
    replicate: Annotated[int, Field(ge=0)] = 0


@dataclass(frozen=True, kw_only=True, config=STRICT)
class CheckpointConfig:
    """When a run is saved besides at its best and its end, and what is kept."""

    every: Count | None = 100
    """Steps between checkpoints; None, here and below: none for that reason."""
    tokens: Count | None = None
    """Real tokens between checkpoints, over all processes: behind the step that completes so many."""
    epochs: Count | None = None
    """Epochs between checkpoints, behind the last step of one."""
    minutes: Positive | None = None
    """Most minutes since the last checkpoint, by the clock of the first process."""
    keep: Count = 2
    """Newest ones kept, the best besides."""
    keep_every: Count | None = None
    """Steps between checkpoints that are saved and kept for good, as for a study of how a model comes to be."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class LogConfig:
    """When figures of steps are written down."""

    every: Count | None = None
    """Steps between two writings, each of which waits for the device; every step has its line either
    way. None: 1 on a CPU, 20 on a GPU. Before a validation, a checkpoint and the end all is written."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class TextConfig:
    """How texts become what a language model reads."""

    prompt: str | None = None
    """What stands behind every text, e.g. a question. None: nothing, but "Answer:" on a line of its own for
    objective label_words."""
    long: Literal["truncate", "refuse"] = "truncate"
    """Of a labelled text longer than the context: leave out its oldest tokens, or stop."""
    framework: Literal["peft", "unsloth"] = "peft"
    """Whose layers: those of transformers with adapters of peft, packed; or on a GPU those of unsloth, a row a text."""
    model: str | None = None
    """As `--model` named it: kept for the record."""
    revision: str | None = None
    """Commit of a model of the hub; of a name without it that which the local cache has."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class TrainConfig:
    """One training run."""

    model: ModelConfig = Field(default_factory=BehrtModelConfig)
    """Ignored where `--init` names a checkpoint: its model is taken."""
    objective: Annotated[Objective, OneOf(OBJECTIVES, {"sum": Sum})] = Field(default_factory=MLM)
    """Where none is named, the one for which the kind of `model` is pretrained."""
    trained: TrainedConfig = Field(default_factory=TrainedConfig)
    labels: LabelColumns = Field(default_factory=LabelColumns)
    """What the columns of `--labels FILE.csv` are called."""
    adapter: AdapterConfig | None = None
    """Train a few weights beside those of `--init`, which stay as they are, and keep them alone."""
    text: TextConfig | None = None
    """Of `ehr-train text`."""
    data: DataConfig = Field(default_factory=DataConfig)
    optim: OptimConfig = Field(default_factory=OptimConfig)
    validation: ValidationConfig = Field(default_factory=ValidationConfig)
    fold: FoldConfig | None = None
    """Train and validate on folds instead of on train and tuning; `--folds K` trains all."""
    shots: ShotsConfig | None = None
    """Where `--labels` is `shots/1`: which draw; `--shots` trains on all."""
    checkpoint: CheckpointConfig = Field(default_factory=CheckpointConfig)
    log: LogConfig = Field(default_factory=LogConfig)
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """`bf16` and `fp16` compute under autocast, weights stay fp32; `fp16` scales the loss. `auto` takes
    bf16 where it is the faster one, and fp16 on a GPU without it."""
    parallel: Parallel = "ddp"
    """How several processes share a model: `ddp` keeps all of it in each; `fsdp` a part of its weights, gradients
    and optimizer state, gathering block after block for the time that it is needed. The results are the
    same to rounding."""
    compile: bool | Literal["auto"] = "auto"
    """Compile the blocks of the model with `torch.compile`. `auto`: on a GPU, for a run of 1,000 steps or more,
    where there is a C compiler."""
    recompute: bool = False
    """Keep the states between blocks alone, and compute what is in them again for the gradients: less
    memory for long records, a third more work. The gradients are the same."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0

    @property
    def score(self) -> Score:
        """The validation figure that says which checkpoint is best."""
        name = self.validation.best
        return self.objective.score if name is None else Score(name, mode_of(name))

    @model_validator(mode="after")
    def _one_way_to_tune(self) -> Self:
        if self.adapter is not None and self.trained != TrainedConfig():
            raise ValueError("an adapter says what is trained: leave out what trained sets")
        return self

    @model_validator(mode="after")
    def _can_be_shared_out(self) -> Self:
        if self.parallel == "fsdp" and self.adapter is not None and self.adapter.kind == "qlora":
            raise ValueError(
                "parallel = fsdp cannot share out the 4-bit weights of adapter.kind = qlora: "
                "take parallel = ddp"
            )
        return self

    @model_validator(mode="after")
    def _has_the_figure(self) -> Self:
        best, figures = self.validation.best, self.objective.figures
        if best is not None and best not in figures:
            raise ValueError(
                f"validation.best = {best}, but objective {self.objective.kind} has "
                f"{', '.join(figures)}"
            )
        return self

    @model_validator(mode="before")
    @classmethod
    def _objective_of_the_kind(cls, given: Any) -> Any:  # noqa: ANN401 -- what a config is made of
        """Where no objective is named, that for which the kind of model is pretrained."""
        values = (given.kwargs or {}) if isinstance(given, ArgsKwargs) else given
        if not isinstance(values, dict) or "objective" in values or "model" not in values:
            return given
        model = values["model"]
        kind = model.get("kind") if isinstance(model, dict) else getattr(model, "kind", None)
        if kind not in KINDS:
            return given
        path = model.get("path") if isinstance(model, dict) else getattr(model, "path", None)
        found = KINDS[kind] if path is None else kind_of_directory(Path(path))
        values = {**values, "objective": OBJECTIVES[found.pretraining]()}
        return ArgsKwargs((), values) if isinstance(given, ArgsKwargs) else values
