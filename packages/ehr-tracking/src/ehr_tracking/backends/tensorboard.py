"""TensorBoard: event files, written by its own writer."""

import struct
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.text.summary_v2 import text_pb
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from ehr_tracking.backends import Card, Status


class TensorBoard:
    """Scalars by step, config and tags as text, and at the end the summary and the plots."""

    def __init__(self, where: str, run: Path, card: Card, known: str | None) -> None:
        """Begin event files, or go on behind those that are there.

        Args:
            where: Their folder; below the run directory, unless it is absolute.
            run: The run directory.
            card: What the run is.
            known: The folder, where the run has written there already.
        """
        self.id = where
        folder = run / where
        self.last = max(_told(folder), default=0) if known else 0
        self._writer = EventFileWriter(str(folder))
        if not known:
            self._write(0, [_text("config", card.params), _text("tags", card.tags)])

    def steps(self, steps: Sequence[Mapping[str, Any]]) -> None:
        """Write an event a step: whole in the file, or not there."""
        for step in steps:
            figures = {k: float(v) for k, v in step.items() if k != "step"}
            values = [Summary.Value(tag=k, simple_value=v) for k, v in figures.items()]
            self._add(step["step"], values)
        self._writer.flush()
        self.last = steps[-1]["step"]

    def end(self, status: Status, tags: Mapping[str, str], files: Mapping[str, Path]) -> None:
        """Write how it ended, and close the file."""
        values = [_text("end", {"status": status, **tags})]
        for name, path in files.items():
            if path.suffix == ".png":
                values.append(_image(name.removesuffix(".png"), path.read_bytes()))
            elif path.suffix == ".txt":
                text = path.read_text(encoding="utf-8").replace("\n", "\n    ")
                values += text_pb(name, f"    {text}").value
        self._write(self.last, values)
        self._writer.close()

    def _write(self, step: int, values: Sequence[Any]) -> None:
        self._add(step, values)
        self._writer.flush()

    def _add(self, step: int, values: Sequence[Any]) -> None:
        self._writer.add_event(
            Event(wall_time=time.time(), step=step, summary=Summary(value=values))
        )


def _told(folder: Path) -> Iterator[int]:
    """Steps whose scalars are in event files; a torn last event is none."""
    for path in sorted(folder.glob("events.out.tfevents.*")):
        for raw in RawEventFileLoader(str(path)).Load():
            event = Event.FromString(raw)
            if any(value.HasField("simple_value") for value in event.summary.value):
                yield event.step


def _text(tag: str, values: Mapping[str, Any]) -> Any:  # noqa: ANN401 -- of protobuf
    """A table in Markdown."""
    text = {k: " ".join(str(v).split()).replace("|", r"\|") for k, v in values.items()}
    rows = "".join(f"| {name} | {value} |\n" for name, value in text.items())
    return text_pb(tag, f"| | |\n|---|---|\n{rows}").value[0]


def _image(tag: str, png: bytes) -> Any:  # noqa: ANN401 -- of protobuf
    width, height = struct.unpack(">II", png[16:24])
    image = Summary.Image(width=width, height=height, colorspace=3, encoded_image_string=png)
    return Summary.Value(tag=tag, image=image)
