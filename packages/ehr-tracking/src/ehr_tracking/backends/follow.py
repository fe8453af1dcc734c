"""Trackers read along in the log of a run: it never waits for one, and goes on without."""

import json
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import click

from ehr_tracking.backends import Card, Status, Tracker, check_trackers, open_tracker
from ehr_tracking.checkpoints import CheckpointStore
from ehr_tracking.errors import UnfinishedError, UserError
from ehr_tracking.files import PathLike, write_whole
from ehr_tracking.manifest import MANIFEST, sha256
from ehr_tracking.steps import StepReader

TRACKING = "tracking.json"
_PAUSE = 1.0
"""Seconds between two looks at the log."""
_RETRY = 30.0
"""Seconds after which one that is away is tried again."""
_SHOWN = ("SUMMARY.txt", "report.html", "config.yaml", "plots/*.png")


@contextmanager
def following(
    run: PathLike, specs: Sequence[str], card: Card, *, pause: float = _PAUSE
) -> Iterator[None]:
    """Show a run in trackers while the block trains it, and how it ended.

    A thread reads the run's own log and tells each tracker what it has not heard yet; so the run is the
    same with and without, and a run that is resumed brings each up to date, whatever got lost.

    A run that begins is refused where one cannot be reached. One that has steps already goes on: what
    is missed is told when the tracker is there again. That one is away is said in one line.

    Args:
        run: The run directory, which keeps each tracker's id of the run in `tracking.json`.
        specs: `NAME` or `NAME:WHERE` each; with none, nothing happens.
        card: What the run is.
        pause: Seconds between two looks at the log.

    Raises:
        UserError: If a tracker cannot be used, or cannot be reached by a run that begins.
    """
    check_trackers(specs)
    run = Path(run)
    followers = [_Follower(spec, run, card) for spec in specs]
    begins = not StepReader(run).read()
    stop = threading.Event()
    thread = threading.Thread(target=_follow, args=(followers, stop, pause), daemon=True)
    status: Status = "failed"
    try:
        for follower in followers:
            follower.begin(refuse=begins)
        if followers:
            thread.start()
        yield
        status = "finished"
    except (UnfinishedError, KeyboardInterrupt):
        status = "killed"
        raise
    finally:
        stop.set()
        if thread.is_alive():
            thread.join()
        for follower in followers:
            follower.end(status)


def _follow(followers: "Sequence[_Follower]", stop: threading.Event, pause: float) -> None:
    while not stop.wait(pause):
        for follower in followers:
            follower.advance()


class _Follower:
    """One tracker, and how far it has read."""

    def __init__(self, spec: str, run: Path, card: Card) -> None:
        self.spec, self.run, self.card = spec, run, card
        self._tracker: Tracker | None = None
        self._reader = StepReader(run)
        self._pending: list[dict[str, Any]] = []
        self._away, self._retry = False, 0.0

    def begin(self, *, refuse: bool) -> None:
        """Open the tracker.

        Raises:
            UserError: If it is named wrongly, or is away and the run is to be refused then.
        """
        try:
            self._open()
        except UserError:
            raise
        except Exception as e:
            if refuse:
                raise UserError(
                    f"tracker {self.spec} cannot be reached: {_reason(e)}; start it or leave --track out"
                ) from e
            self._missed(e)

    def advance(self, *, now: bool = False) -> bool:
        """Tell the tracker what it has not heard yet; whether it is there.

        Args:
            now: Even if it was away a moment ago.
        """
        if not now and time.monotonic() < self._retry:
            return False
        try:
            self._tell(self._tracker or self._open())
        except Exception as e:
            self._missed(e)
            return False
        if self._away:
            self._away = False
            self._say("is there again and knows all steps")
        return True

    def end(self, status: Status) -> None:
        """Tell the tracker the rest and how it ended; gives up where it is away."""
        opened = self._tracker is not None or self._away
        if opened and self.advance(now=True) and self._tracker:
            try:
                self._tracker.end(status, _fingerprints(self.run), _shown(self.run))
            except Exception as e:
                self._say(f"was not told that the run is {status} ({_reason(e)})")

    def _open(self) -> Tracker:
        self._tracker = open_tracker(self.spec, self.run, self.card, _ids(self.run).get(self.spec))
        ids = {**_ids(self.run), self.spec: self._tracker.id}
        write_whole(self.run / TRACKING, json.dumps(ids, indent=1) + "\n")
        return self._tracker

    def _tell(self, tracker: Tracker) -> None:
        while True:
            self._pending = self._pending or self._reader.read()
            if not self._pending:
                return
            if fresh := [s for s in self._pending if s["step"] > tracker.last]:
                tracker.steps(fresh)
            self._pending = []

    def _missed(self, error: Exception) -> None:
        self._tracker = None  # opened anew, it knows what it has heard
        self._retry = time.monotonic() + _RETRY
        if not self._away:
            self._away = True
            self._say(
                f"is away ({_reason(error)}); the run goes on, and what it misses is told when it is back"
            )

    def _say(self, what: str) -> None:
        click.echo(f"tracker {self.spec} {what}", err=True)


def _reason(error: BaseException) -> str:
    """What went wrong in a few words: of errors that led to each other, the system's own."""
    chain: list[BaseException] = [error]
    while following_one := chain[-1].__cause__ or chain[-1].__context__:
        chain.append(following_one)
    found = next((e for e in reversed(chain) if isinstance(e, OSError) and e.strerror), error)
    text = found.strerror if isinstance(found, OSError) and found.strerror else str(found)
    return " ".join(text.split())[:200] or type(error).__name__


def _ids(run: Path) -> dict[str, str]:
    with suppress(OSError, ValueError):
        found: dict[str, str] = json.loads((run / TRACKING).read_text(encoding="utf-8"))
        return found
    return {}


def _fingerprints(run: Path) -> Mapping[str, str]:
    store = CheckpointStore(run / "checkpoints")
    found = {"best": store.best(), "latest": store.latest()}
    return {f"checkpoint.{k}": sha256(path / MANIFEST) for k, path in found.items() if path}


def _shown(run: Path) -> Mapping[str, Path]:
    paths = sorted(path for pattern in _SHOWN for path in run.glob(pattern))
    return {path.relative_to(run).as_posix(): path for path in paths}
