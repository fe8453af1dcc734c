"""Where a MEDS data set of ours goes: written beside, moved when it is whole, over nothing but our own."""

import json
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from meds.schema import dataset_metadata_filepath

from ehr_tracking.errors import UserError
from ehr_tracking.outputs import held, refuse_inputs, swap_in

ETL = "ehr-tokenize"
"""`etl_name` in `dataset.json` of every MEDS data set that we write."""


@contextmanager
def new_dataset(out: Path, *, overwrite: bool, inputs: Iterable[Path] = ()) -> Iterator[Path]:
    """Yield an empty directory beside `out`; move it there when the block ends without error.

    Args:
        out: Where the data set shall be; no other process can write it meanwhile.
        overwrite: Replace a data set that we wrote, from whatever source; never anything else.
        inputs: What the command reads: never replaced, nor what holds it or lies inside of it.

    Raises:
        UserError: If `out` exists and is no data set that we wrote, or may not be replaced.
    """
    with held(out):
        _refuse_existing(out, overwrite=overwrite, inputs=inputs)
        partial = out.with_name(f".{out.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        try:
            partial.mkdir(parents=True)
            yield partial
            swap_in(partial, out)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def _refuse_existing(out: Path, *, overwrite: bool, inputs: Iterable[Path]) -> None:
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    refuse_inputs(out, inputs)
    try:
        ours = json.loads((out / dataset_metadata_filepath).read_bytes())["etl_name"] == ETL
    except (OSError, ValueError, KeyError, TypeError):
        ours = False
    if not ours:
        raise UserError(f"{out} exists and is not a data set that we wrote; choose another path")
    if not overwrite:
        raise UserError(f"{out} exists; choose another path or pass --overwrite")
