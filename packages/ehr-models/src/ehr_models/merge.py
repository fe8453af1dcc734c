"""`ehr-models merge`: an adapter and its base as one checkpoint that needs neither."""

import json
from pathlib import Path

from ehr_models import __version__
from ehr_models.checkpoint import load_checkpoint, save_checkpoint
from ehr_tracking.contracts import ADAPTER, CHECKPOINT, ContractError
from ehr_tracking.files import PathLike
from ehr_tracking.manifest import new_artifact


def merge_adapter(
    adapter: PathLike, out: PathLike, *, base: PathLike | None = None, overwrite: bool = False
) -> Path:
    """Write a plain `checkpoint/1`: W + scale B A in place of W, with the trained heads.

    It answers as base and adapter do to 1e-5. Of `qlora`, W is what 4 bits held of it, in fp32.

    Args:
        adapter: An `adapter/1` directory, or a run that holds such: its best, else its latest.
        out: The checkpoint to write.
        base: What it adapts, where that lies elsewhere than it did.
        overwrite: Replace a checkpoint in `out`.

    Returns:
        `out`.

    Raises:
        ContractError: If it is no adapter, or its base is another one.
        UserError: If `out` may not be written.
    """
    out = Path(out)
    read = [path for path in (adapter, base) if path is not None]
    with new_artifact(out, CHECKPOINT, overwrite=overwrite, inputs=read) as directory:
        loaded = load_checkpoint(adapter, base=base)
        if loaded.manifest.contract != ADAPTER.tag:
            raise ContractError(
                f"{loaded.directory} holds {loaded.manifest.contract}: there is no adapter to merge"
            )
        metrics = json.loads((loaded.directory / "metrics.json").read_bytes())
        save_checkpoint(
            directory,
            loaded.model,
            loaded.directory,
            metrics=metrics,
            producer=f"ehr-models {__version__}",
            config=loaded.manifest.config,
            seed=loaded.manifest.seed,
            inputs={"adapter": loaded.source},
        )
    return out
