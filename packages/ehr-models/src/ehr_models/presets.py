"""The sizes of each kind, as published where they are published; without torch."""

from typing import Any, Literal, NamedTuple

Objective = Literal["mlm", "clm"]


class Size(NamedTuple):
    """One row of a size table."""

    hidden: int
    layers: int
    heads: int
    intermediate: int
    max_positions: int


SIZES: dict[str, dict[str, Size]] = {
    "behrt": {
        "tiny": Size(64, 2, 4, 192, 2048),
        "small": Size(128, 2, 4, 384, 2048),
        "medium": Size(256, 4, 8, 704, 2048),
        "large": Size(512, 6, 8, 1408, 2048),
        "original": Size(288, 6, 12, 512, 512),
    },
    "gpt2": {
        "tiny": Size(128, 4, 4, 512, 1024),
        "small": Size(256, 6, 8, 1024, 1024),
        "base": Size(768, 12, 12, 3072, 1024),
        "medium": Size(1024, 24, 16, 4096, 1024),
        "large": Size(1280, 36, 20, 5120, 1024),
        "xlarge": Size(1600, 48, 25, 6400, 1024),
    },
    "bert": {
        "tiny": Size(128, 2, 2, 512, 512),
        "mini": Size(256, 4, 4, 1024, 512),
        "small": Size(512, 4, 8, 2048, 512),
        "medium": Size(512, 8, 8, 2048, 512),
        "base": Size(768, 12, 12, 3072, 512),
        "large": Size(1024, 24, 16, 4096, 512),
    },
    "llama": {
        "tiny": Size(128, 4, 4, 384, 2048),
        "small": Size(256, 6, 8, 704, 2048),
        "base": Size(768, 12, 12, 2048, 2048),
        "medium": Size(1024, 24, 16, 2816, 2048),
        "1b": Size(2048, 16, 32, 8192, 8192),
    },
}
"""kind -> size -> numbers. SwiGLU kinds hold about 8/3 of the width inside the MLP."""

KV_HEADS = {("llama", "1b"): 8}
"""Sizes with grouped-query attention (Llama 3.2 1B)."""

BEHRT_ORIGINAL: dict[str, Any] = {
    "age": "months",
    "time": "none",
    "static": False,
    "position": "sinusoid",
    "segment": True,
    "visit": False,
    "mlp": "gelu",
    "norm": "post",
    "bias": True,
    "dropout": 0.1,
    "attention_dropout": 0.1,
    "layer_norm_eps": 1e-12,
    "pooling": "cls",
}
"""How BEHRT as published (Li et al. 2020) differs from the defaults of `BehrtConfig`."""

OBJECTIVES: dict[str, Objective] = {"behrt": "mlm", "bert": "mlm", "gpt2": "clm", "llama": "clm"}
"""What each kind can be pretrained for: encoders by masking, causal decoders by the next token."""
