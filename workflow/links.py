"""Names without keys: what stands below OUT leads into the store."""

import os
from collections.abc import Iterator
from pathlib import Path

from ehr_tracking.errors import UserError
from workflow.graph import Graph


def check_links(graph: Graph, out: Path) -> None:
    """Raise where something that is not ours stands in the place of a link.

    Raises:
        UserError: Naming it.
    """
    for node in graph.values():
        path = out / node.shown
        if path.exists() and not path.is_symlink() and not _is_of_links(path):
            raise UserError(
                f"{path} is in the way of a link to {node.stage}: move it, or choose another --out"
            )


def make_links(graph: Graph, out: Path, store: Path) -> None:
    """Link all that is there, in place of the links that an earlier comparison left.

    Args:
        graph: What may be there.
        out: Where links stand.
        store: Where they lead.
    """
    for link in list(_links(graph, out)):
        link.unlink()
    for node in graph.values():
        if node.is_done(store):
            path = out / node.shown
            if path.is_dir():
                path.rmdir()
            path.parent.mkdir(exist_ok=True)
            path.symlink_to(os.path.relpath(node.path(store), path.parent))


def _links(graph: Graph, out: Path) -> Iterator[Path]:
    """Links into the store, at and below the folders of a graph's stages."""
    for folder in sorted({out / node.shown.split("/")[0] for node in graph.values()}):
        if folder.is_symlink():
            yield folder
        elif folder.is_dir():
            yield from (path for path in folder.iterdir() if _is_ours(path))


def _is_ours(path: Path) -> bool:
    return path.is_symlink() and "store" in path.readlink().parts[:2]


def _is_of_links(path: Path) -> bool:
    return path.is_dir() and all(_is_ours(entry) for entry in path.iterdir())
