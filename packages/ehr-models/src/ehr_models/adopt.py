"""A model of transformers with its own vocabulary, as a checkpoint that training can start from."""
# transformers leaves some methods untyped
# mypy: allow-untyped-calls

from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from safetensors import safe_open
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_MASKED_LM_MAPPING,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    PreTrainedConfig,
    PreTrainedModel,
)

from ehr_models import __version__
from ehr_models.checkpoint import save_checkpoint
from ehr_models.data.tokens import TokenSet
from ehr_models.heads.native import native_config
from ehr_models.kinds import KINDS
from ehr_models.kinds.auto import FIELD, AutoModelConfig, read
from ehr_models.kinds.auto.model import (
    UNBOUNDED,
    adaptable,
    check_head,
    configuration,
    load_weights,
    require_code,
)
from ehr_models.layers.attention import NAME, no_mask
from ehr_tracking.config import ConfigError
from ehr_tracking.contracts import CHECKPOINT
from ehr_tracking.errors import UserError
from ehr_tracking.files import PathLike
from ehr_tracking.manifest import new_artifact, raw_source, source

HUGGING_FACE = "hugging-face"
"""What the directory of such a model is in a lineage: it carries no manifest."""
_NEW = ("classifier.", "score.", ".pooler.")
"""Where weights may be new: a model that was made for other answers has not got them."""
View = Literal["past", "all"]
_HALF = {"BF16": torch.bfloat16, "F16": torch.float16}
"""What safetensors calls types of two bytes."""


def adopt(
    directory: PathLike, tokens: TokenSet, out: PathLike, *, pad: int, masked: bool = False
) -> Path:
    """Write a `checkpoint/1` of a directory: the same weights, the tokenizer of some tokens beside them.

    They have the type that they have there, two bytes or four; what loads them makes fp32 of them. An encoder
    gets the classification head of transformers, whose last layer is new; a decoder comes with its head over
    tokens. What transformers can keep apart in a packed row, which is tried, will be packed.

    Args:
        directory: `config.json` and safetensors weights, as `save_pretrained` writes them.
        tokens: `text_tokens/1` of its tokenizer.
        out: Where the checkpoint shall be.
        pad: Token id that pads, where the model names none.
        masked: Of an encoder take the head over tokens of its pretraining instead.

    Returns:
        `out`.

    Raises:
        ConfigError: If it is no encoder or decoder of transformers, or of another vocabulary, or has another
            head over tokens than is read here.
        ContractError: If it needs code that was not asked for (`EHR_TRUST_CODE`).
        UserError: If `out` is there.
    """
    directory, out = Path(directory), Path(out)
    with new_artifact(out, CHECKPOINT, inputs=[directory, tokens.directory]) as partial:
        model = _model(directory, tokens.vocab_size, pad, masked=masked)
        torch.nn.Module.to(model, _type_of(directory))  # in place
        save_checkpoint(
            partial,
            model,
            tokens.directory,
            metrics={},
            producer=f"ehr-models {__version__}",
            config={},
            seed=0,
            inputs={
                "model": raw_source(directory, contract=HUGGING_FACE),
                "tokens": source(tokens.directory),
            },
        )
    return out


def view_of(directory: PathLike) -> View:
    """Whether the model of a directory sees the past alone or all of a text.

    Raises:
        ConfigError: If it holds no such model.
    """
    directory = Path(directory)
    tree = read(directory)
    require_code(directory, tree)
    config = configuration(AutoModelConfig(path=directory, trust_code=True))
    named = str((tree.get("architectures") or [""])[0])
    if not tree.get("is_encoder_decoder"):
        if named.endswith(("ForCausalLM", "LMHeadModel")):
            return "past"
        if type(config) in MODEL_FOR_MASKED_LM_MAPPING:
            return "all"
        if type(config) in MODEL_FOR_CAUSAL_LM_MAPPING:
            return "past"
    raise ConfigError(
        f"{directory}: {named or tree['model_type']} is neither an encoder nor a decoder"
    )


def _type_of(directory: Path) -> torch.dtype:
    """Of the weights of a directory, where they are all of two bytes; else fp32."""
    found: set[str] = set()
    for path in directory.glob("*.safetensors"):
        with safe_open(path, "pt") as file:
            found |= {file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118 -- no mapping
    return _HALF.get(found.pop(), torch.float32) if len(found) == 1 else torch.float32


def _model(directory: Path, rows: int, pad: int, *, masked: bool) -> PreTrainedModel:
    view = view_of(directory)
    config = configuration(AutoModelConfig(path=directory, trust_code=True))
    if rows > config.vocab_size:
        raise ConfigError(
            f"{directory}: the tokenizer has {rows:,} tokens, but the model {config.vocab_size:,}: they do "
            "not belong together"
        )
    auto: Any = AutoModelForCausalLM
    if masked:
        auto = AutoModelForMaskedLM
    elif view == "all":
        auto, config = AutoModelForSequenceClassification, native_config(config, 1, "binary")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = load_weights(directory, config, auto, {}, new=_NEW)
    said: dict[str, Any] = {"true_vocab_size": config.vocab_size}
    if getattr(model.config, "pad_token_id", None) is None:
        said["pad_token_id"] = pad
    if getattr(model.config, "max_position_embeddings", None) is None:
        said["max_position_embeddings"] = UNBOUNDED
    for name, value in said.items():
        setattr(model.config, name, value)
    model.eval()
    if _kind_name(model.config, view) is None:
        setattr(model.config, FIELD, _described(model, directory, view, masked=masked))
    return model


def _kind_name(config: PreTrainedConfig, view: View) -> str | None:
    """Which kind of the zoo it is, where it is one as transformers has it."""
    kind = KINDS.get(config.model_type)
    return kind.name if kind is not None and kind.sees == view and not kind.files else None


def _described(
    model: PreTrainedModel, directory: Path, view: View, *, masked: bool
) -> dict[str, Any]:
    """What its configuration is to say of its kind (`FIELD`)."""
    body = model.base_model_prefix
    head = [n for n, m in model.named_children() if n != body and any(True for _ in m.parameters())]
    if masked:
        check_head(model, head, view, directory)
    answers = masked or view == "past"
    return {
        "sees": view,
        "token_head": head if answers else [],
        "adapters": adaptable(model),
        "heads": ["token", "pooled"] if answers else ["pooled"],
        "isolates": "spans" if _packs(model) else "padded",
        "caches": view == "past" and getattr(model.config, "use_cache", None) is not None,
    }


@torch.no_grad()
def _packs(model: PreTrainedModel) -> bool:
    """Whether texts that are laid end to end are read as each alone, in the way of `layers.attention`."""
    body: Any = model.base_model
    ids = torch.arange(3, 11) % model.config.vocab_size
    parts = ids.split([5, 3])
    alone = [body(input_ids=part[None]).last_hidden_state[0] for part in parts]
    before = model.config._attn_implementation
    try:
        model.set_attn_implementation(NAME)
        packed = body(
            input_ids=ids[None],
            position_ids=torch.cat([torch.arange(len(part)) for part in parts])[None],
            attention_mask=no_mask(ids.device),
            cu_seq_lens_q=torch.tensor([0, 5, 8], dtype=torch.int32),
            max_length_q=5,
            **({"use_cache": False} if getattr(model.config, "use_cache", None) else {}),
        ).last_hidden_state[0]
        return torch.allclose(packed, torch.cat(alone), atol=1e-4)
    except (RuntimeError, ValueError, TypeError, IndexError, AttributeError):
        return False
    finally:
        model.set_attn_implementation(before)


class Located(NamedTuple):
    """Where a model lies."""

    directory: Path
    revision: str | None
    """The commit, of one of the hub."""


def locate(model: PathLike, revision: str | None = None) -> Located:
    """A local directory, or the name of a model of the hub in the local cache; nothing is fetched.

    Args:
        model: Either.
        revision: Branch, tag or commit of a model of the hub.

    Raises:
        UserError: If it is neither.
    """
    path = Path(model)
    if path.is_dir():
        return Located(path, None)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    name = str(model)
    try:
        found = Path(snapshot_download(name, revision=revision, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError, FileNotFoundError):
        raise UserError(
            f"{name} is no local directory, and no model in the local cache of Hugging Face; fetch it "
            f"first: hf download {name}"
        ) from None
    return Located(found, found.name)
