"""True parameter counts, from models built on the meta device: no memory, no time."""

import torch

from ehr_models.config import ModelConfig
from ehr_models.presets import OBJECTIVES
from ehr_models.registry import build


def count_parameters(config: ModelConfig, vocab_size: int) -> dict[str, int]:
    """Trainable numbers of the pretraining model; a tied weight counts once.

    Args:
        config: Kind, size and overrides.
        vocab_size: Rows of the vocabulary; the embedding has the next multiple of 64.

    Returns:
        `embeddings`, `layers` (final norm included), `head`, and `total`.
    """
    with torch.device("meta"):
        model = build(config, vocab_size, OBJECTIVES[config.kind])
    counts = {"embeddings": 0, "layers": 0, "head": 0}
    for name, parameter in model.named_parameters():
        counts[_part(name.removeprefix(f"{model.base_model_prefix}."), name)] += parameter.numel()
    return {**counts, "total": sum(counts.values())}


def _part(inner: str, name: str) -> str:
    if inner == name:  # not below the base model
        return "head"
    first = inner.split(".")[0]
    return "embeddings" if first in {"embeddings", "embed_tokens", "wte", "wpe"} else "layers"
