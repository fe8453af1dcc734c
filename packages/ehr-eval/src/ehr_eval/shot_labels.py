"""The labels of one draw of `shots/1`, for a model that was fine-tuned on it."""

import re
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ehr_eval.frames import KEY, PRODUCER
from ehr_tracking.contracts import HELD_OUT, SHOTS, TUNING, ContractError
from ehr_tracking.files import PathLike
from ehr_tracking.manifest import MANIFEST, check_file, read_manifest

_RUN = re.compile(r"^(?P<task>.+)/k=(?P<k>-1|[1-9]\d*)/replicate=(?P<replicate>\d+)$")


class ShotDraw(NamedTuple):
    """One draw of the shots of a task."""

    task: str
    k: int
    replicate: int


def shot_labels(shots: Path, draw: ShotDraw) -> dict[str, pa.Table]:
    """The task with the rows that it is judged on, and those of tuning of the draw; each once.

    Raises:
        ContractError: If it is no `shots/1`, or has no such draw.
    """
    manifest = read_manifest(shots, SHOTS, reader=PRODUCER)
    table = pq.read_table(check_file(shots, manifest, "shots.parquet"))
    table = table.filter(pc.equal(table["task"], draw.task))
    judged = pc.equal(table["split"], HELD_OUT)
    chosen = pc.and_(
        pc.equal(table["split"], TUNING),
        pc.and_(pc.equal(table["k"], draw.k), pc.equal(table["replicate"], draw.replicate)),
    )
    if not pc.any(chosen).as_py():
        raise ContractError(
            f"{shots} has no shots of task {draw.task}, k {draw.k}, replicate {draw.replicate}"
        )
    rows = table.filter(pc.fill_null(pc.or_kleene(judged, chosen), fill_value=False))
    once = (
        rows.group_by([*KEY, "boolean_value"])
        .aggregate([])
        .sort_by([(k, "ascending") for k in KEY])
    )
    return {draw.task: once.select([*KEY, "boolean_value"])}


def shot_runs(directory: PathLike) -> dict[ShotDraw, Path]:
    """The finished runs of `ehr-train --shots`, by draw.

    Raises:
        ContractError: If there is none.
    """
    found = {}
    directory = Path(directory)
    for path in sorted(directory.glob(f"*/k=*/replicate=*/{MANIFEST}")):
        named = _RUN.match(path.parent.relative_to(directory).as_posix())
        if named:
            draw = ShotDraw(named["task"], int(named["k"]), int(named["replicate"]))
            found[draw] = path.parent
    if not found:
        raise ContractError(
            f"{directory} holds no finished run <task>/k=<k>/replicate=<r>, as `ehr-train --shots` writes them"
        )
    return found
