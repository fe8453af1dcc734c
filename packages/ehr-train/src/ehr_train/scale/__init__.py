"""Several processes that train one model."""

from typing import Literal

Parallel = Literal["ddp", "fsdp"]
"""How they share a model."""
