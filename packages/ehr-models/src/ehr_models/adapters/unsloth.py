"""A decoder with an adapter as unsloth opens it: with its kernels, on a GPU, and each text a row of its own."""
# peft and transformers leave some methods untyped
# mypy: allow-untyped-calls

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from ehr_models.adapters.config import AdapterConfig
from ehr_models.adapters.inject import trained
from ehr_models.adapters.linears import linears
from ehr_models.kinds.auto import FIELD
from ehr_models.kinds.auto.model import adaptable
from ehr_tracking.errors import UserError

_KINDS = ("lora", "rslora", "qlora")
"""Adapters that it has kernels for."""


def require_unsloth(adapter: AdapterConfig | None) -> None:
    """Refuse what unsloth cannot do, and to go on without it.

    Raises:
        UserError: Saying what to take, or what to install.
    """
    if adapter is None or adapter.kind not in _KINDS or adapter.embeddings:
        raise UserError(
            f"text.framework = unsloth trains an adapter of kind {', '.join(_KINDS)}, without embeddings: set "
            "adapter.kind, or take peft"
        )
    if find_spec("unsloth") is None:
        raise UserError("text.framework = unsloth needs unsloth: pip install unsloth, or take peft")


def open_with_unsloth(
    base: Path,
    adapter: AdapterConfig,
    *,
    longest: int,
    dtype: torch.dtype | None,
    recompute: bool,
    seed: int,
) -> PreTrainedModel:
    """The model of a directory with a new adapter in it; all else of it is frozen.

    Its forward pass keeps texts apart by rows alone, so that its configuration says `padded`.

    Args:
        base: As `save_pretrained` of transformers writes one; a decoder with its head over tokens.
        adapter: What to put in.
        longest: Most tokens of a text.
        dtype: Of the weights that are frozen, bf16 or fp16; None lets unsloth choose.
        recompute: Whether states between blocks alone are kept, in its own way.
        seed: Of the adapter's weights.
    """
    fast: Any = import_module("unsloth").FastLanguageModel
    place = torch.cuda.current_device() if torch.cuda.is_available() else "cpu"
    model, _ = fast.from_pretrained(
        model_name=str(base),
        max_seq_length=longest,
        dtype=dtype,
        load_in_4bit=adapter.in_4_bits,
        device_map={"": place},
    )
    body = model.base_model_prefix
    head = [n for n, m in model.named_children() if n != body and any(True for _ in m.parameters())]
    said = {
        **{"sees": "past", "token_head": head, "adapters": adaptable(model)},
        **{"heads": ["token", "pooled"], "isolates": "padded", "caches": True},
    }
    adapted = fast.get_peft_model(
        model,
        r=adapter.rank,
        target_modules=_names(model, adapter),
        lora_alpha=adapter.alpha or 2 * adapter.rank,
        lora_dropout=adapter.dropout,
        bias="none",
        use_gradient_checkpointing="unsloth" if recompute else False,
        random_state=seed,
        use_rslora=adapter.kind == "rslora",
    )
    found: PreTrainedModel = adapted.get_base_model()
    setattr(found.config, FIELD, said)
    for parameter in trained(found).values():
        parameter.data = parameter.data.float()
    return found


def _names(model: PreTrainedModel, adapter: AdapterConfig) -> list[str]:
    """Last names of the modules that a config means."""
    if isinstance(adapter.targets, tuple):
        return list(adapter.targets)
    if adapter.targets == "attention":
        return adaptable(model)
    return sorted({name.rpartition(".")[2] for name in linears(model.base_model)})
