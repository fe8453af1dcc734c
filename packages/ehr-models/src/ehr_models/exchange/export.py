"""`ehr-models export`: a checkpoint as a directory for others, with its card."""

import json
import shutil
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

from ehr_models import __version__
from ehr_models.checkpoint import load_checkpoint
from ehr_models.exchange.card import metadata, readme
from ehr_models.exchange.config import CARD, METADATA, CardConfig, is_of_export
from ehr_models.exchange.facts import Facts, gather, read_scores
from ehr_tracking.checkpoints import reading
from ehr_tracking.config import ConfigError, to_dict
from ehr_tracking.contracts import ADAPTER, CHECKPOINT
from ehr_tracking.files import PathLike
from ehr_tracking.manifest import load_manifest, new_artifact, seal

_PACKAGES = ("ehr-models", "ehr-tracking", "torch", "transformers", "safetensors", "peft")


def export(
    checkpoint: PathLike,
    out: PathLike,
    *,
    card: CardConfig,
    results: Mapping[str, PathLike],
    base: PathLike | None = None,
    overwrite: bool = False,
) -> Facts:
    """Write a checkpoint or an adapter with a card, and without what only training needs.

    What is written is itself `checkpoint/1` (or `adapter/1`): every command of ours that takes a checkpoint
    takes it, and `from_pretrained` of transformers and of the tokenizer do.

    Args:
        checkpoint: A run (its best checkpoint, else its latest), a checkpoint or an adapter.
        out: Directory to write.
        card: What only a person can say.
        results: Name of the model there -> `results/1`.
        base: Of an adapter, where it lies elsewhere than it did.
        overwrite: Replace an export in `out`.

    Raises:
        ContractError: If an input is not what it should be.
        ConfigError: If the card has no entry in its changelog for its version.
        UserError: If results say nothing of the model, or `out` may not be written.
    """
    if card.version not in card.changelog:
        raise ConfigError(f"changelog says nothing of version {card.version}; add what is new")
    out = Path(out)
    scores = tuple(read_scores(name, Path(path)) for name, path in results.items())
    with reading(checkpoint) as directory:
        contract = {c.tag: c for c in (ADAPTER, CHECKPOINT)}.get(
            load_manifest(directory).contract, CHECKPOINT
        )
        read = [Path(checkpoint), *map(Path, results.values())]
        with new_artifact(out, contract, overwrite=overwrite, inputs=read) as partial:
            loaded = load_checkpoint(directory, base=base)
            facts = gather(directory, loaded, scores)
            for name in loaded.manifest.files:
                if is_of_export(name) and name not in (CARD, METADATA):
                    shutil.copyfile(directory / name, partial / name)
            (partial / CARD).write_text(readme(facts, card), encoding="utf-8")
            described = metadata(facts, card, {name: version(name) for name in _PACKAGES})
            (partial / METADATA).write_text(
                json.dumps(described, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
            )
            inputs = {**loaded.manifest.inputs, "checkpoint": loaded.source}
            seal(
                partial,
                contract,
                producer=f"ehr-models {__version__}",
                config={**loaded.manifest.config, "card": to_dict(card)},
                seed=loaded.manifest.seed,
                inputs={**inputs, **{f"results.{s.name}": s.source for s in scores}},
            )
    return facts
