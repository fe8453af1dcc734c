"""The fingerprint of a MEDS data set, kept in the store by the size and time of its files."""

import json
from pathlib import Path

from ehr_tracking.contracts import MEDS
from ehr_tracking.files import write_whole
from ehr_tracking.manifest import raw_source
from ehr_tracking.tree import files_below


def fingerprint(meds: Path, store: Path) -> str:
    """The SHA-256 of all that a data set holds, by content; hashed once while no file of it changes.

    Args:
        meds: The directory.
        store: Where what is known of it is kept.
    """
    kept = store / "raw.json"
    known: dict[str, list[str]] = json.loads(kept.read_bytes()) if kept.is_file() else {}
    files = [(str(path.relative_to(meds)), path.stat()) for path in files_below(meds, quiet=True)]
    state = json.dumps([[name, s.st_size, s.st_mtime_ns] for name, s in files])
    place = str(meds.resolve())
    if known.get(place, [""])[0] != state:
        found = raw_source(meds, contract=MEDS).fingerprint
        store.mkdir(parents=True, exist_ok=True)
        write_whole(kept, json.dumps({**known, place: [state, found]}))
        return found
    return known[place][1]
