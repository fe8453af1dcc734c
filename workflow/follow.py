"""What Snakemake's log tells of jobs, while it is written: which began, which failed."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal

Event = Literal["begun", "failed"]
_HEAD = re.compile(r"(?:(?:local)?rule|(Error in rule)) \S+:$")
_OUTPUT = "    output: "


class Follower:
    """Reads a log from where it ends now."""

    def __init__(self, log: Path, outputs: Mapping[str, str]) -> None:
        """Begin.

        Args:
            log: A file, or none yet.
            outputs: What the engine waits for -> id of the part.
        """
        self._log, self._outputs = log, outputs
        self._at = log.stat().st_size if log.exists() else 0
        self._event: Event | None = None

    def news(self) -> Iterator[tuple[Event, str]]:
        """What happened since the last call: event and id of the part."""
        with self._log.open("rb") as file:
            file.seek(self._at)
            told = file.read()
        whole = told[: told.rfind(b"\n") + 1]
        self._at += len(whole)
        for line in whole.decode("utf-8", "replace").splitlines():
            if head := _HEAD.match(line):
                self._event = "failed" if head[1] else "begun"
            elif line.startswith(_OUTPUT) and self._event is not None:
                part = self._outputs.get(line.removeprefix(_OUTPUT).split(",")[0])
                event, self._event = self._event, None
                if part is not None:
                    yield event, part
