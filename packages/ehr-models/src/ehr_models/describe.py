"""True parameter counts, from models built on the meta device: no memory, no time."""

import torch
from torch import nn

from ehr_models.config import ModelConfig
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
        model = build(config, vocab_size)
    counts = {"embeddings": 0, "layers": 0, "head": 0}
    counted = set()
    part = "embeddings"  # until the layers come
    for child in model.base_model.children():
        if any(isinstance(module, nn.ModuleList) for module in child.modules()):
            part = "layers"
        for parameter in child.parameters():
            counts[part] += parameter.numel()
            counted.add(parameter)
    counts["head"] = sum(p.numel() for p in model.parameters() if p not in counted)
    return {**counts, "total": sum(counts.values())}
