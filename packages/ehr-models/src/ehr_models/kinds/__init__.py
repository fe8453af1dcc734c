"""The kinds of models: a folder and a line each.

Whatever lists, builds, loads, trains or reads models takes what it needs from this table, so that a
kind is spelled nowhere else. `docs/extend.md` adds one.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

from ehr_models.kinds.auto import AUTO, FIELD, AutoModelConfig, read, sees, told
from ehr_models.kinds.behrt import BEHRT
from ehr_models.kinds.bert import BERT
from ehr_models.kinds.chrono import CHRONO
from ehr_models.kinds.exmed_bert import EXMED_BERT
from ehr_models.kinds.gpt2 import GPT2
from ehr_models.kinds.gpt2_moe import GPT2_MOE
from ehr_models.kinds.hyena import HYENA
from ehr_models.kinds.llama import LLAMA
from ehr_models.kinds.mamba2 import MAMBA2
from ehr_models.kinds.mistral import MISTRAL
from ehr_models.kinds.modernbert import MODERNBERT
from ehr_models.kinds.qwen3 import QWEN3
from ehr_models.kinds.record import ArchitectureConfig, Kind
from ehr_tracking.config import ConfigError

KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        *(BEHRT, EXMED_BERT, GPT2, GPT2_MOE, BERT, MODERNBERT),
        *(LLAMA, QWEN3, MISTRAL, CHRONO, MAMBA2, HYENA, AUTO),
    )
}


def kind_of(config: Any) -> Kind:  # noqa: ANN401 -- any architecture's
    """The kind of a model, from its configuration as transformers has it."""
    said = getattr(config, FIELD, None)
    return KINDS[config.model_type] if said is None else told(said)


def kind_for(config: ArchitectureConfig) -> Kind:
    """The kind of the model that a config of ours makes; of `auto`, as far as config.json tells.

    Raises:
        ConfigError: If a directory holds no model that is causal or masked, or one of ours.
    """
    return (
        kind_of_directory(config.path)
        if isinstance(config, AutoModelConfig)
        else KINDS[config.kind]
    )


def kind_of_directory(directory: Path) -> Kind:
    """The kind of the model of transformers that lies in a directory: that of its architecture, else `auto`.

    Raises:
        ConfigError: If it holds no model that is causal or masked, or one of ours.
    """
    tree = read(directory)
    if (directory / "manifest.json").is_file() or tree.get("true_vocab_size"):
        raise ConfigError(f"{directory} is a checkpoint of ours: go on from it with --init")
    view = sees(directory, tree)
    kind = KINDS.get(tree["model_type"])
    if kind is None or kind.files:
        return replace(AUTO, sees=view)
    if kind.sees != view:
        raise ConfigError(
            f"{directory}: {tree['architectures'][0]} {WORDS[view]}, but model kind {kind.name} "
            f"{WORDS[kind.sees]}"
        )
    return kind


WORDS = {"past": "sees the past alone", "all": "sees all of a record"}
