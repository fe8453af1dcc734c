"""Whether a run is compiled, and what that takes."""

import os
import shutil
import sys

from ehr_tracking.config import ConfigError
from ehr_train.config import TrainConfig

STEPS = 1000
"""From so many on a GPU wins more by it than compiling takes, which is some ten seconds a kind of model."""


def pays(config: TrainConfig, device: str, steps: int) -> bool:
    """What `compile: auto` means: on a GPU, for a run that is not short, where there is a compiler.

    Args:
        config: Of the run; the layers of unsloth bring their own kernels.
        device: cpu or cuda.
        steps: Of the whole run.

    Examples:
        >>> pays(TrainConfig(), "cpu", 100_000), pays(TrainConfig(), "cuda", 100)
        (False, False)
    """
    if config.text is not None and config.text.framework == "unsloth":
        return False
    return device == "cuda" and steps >= STEPS and _compiler(device) is not None


def require_compiler(device: str) -> None:
    """Refuse to compile without what `torch.compile` calls for it.

    Raises:
        ConfigError: Naming it.
    """
    if _compiler(device) is None:
        variable, names = _called(device)
        raise ConfigError(
            f"compile = true needs a {'C' if device == 'cuda' else 'C++'} compiler, but there is no "
            f"{' or '.join(names)}; install it, name another in the environment variable {variable}, "
            "or leave compile at auto"
        )


def _called(device: str) -> tuple[str, tuple[str, ...]]:
    """The variable that names a compiler, and those that are looked for."""
    variable = "CC" if device == "cuda" else "CXX"
    if named := os.environ.get(variable):
        return variable, (named,)
    if device == "cuda":
        return variable, ("gcc", "clang")
    return variable, ("clang++" if sys.platform == "darwin" else "g++",)


def _compiler(device: str) -> str | None:
    return next((name for name in _called(device)[1] if shutil.which(name)), None)
