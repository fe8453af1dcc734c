"""MLflow, through its own client: one run of an experiment on a tracking server."""

import logging
import os
import re
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ehr_tracking.backends import Card, Status
from ehr_tracking.errors import UserError

for _name, _value in {
    "MLFLOW_DISABLE_TELEMETRY": "true",  # nothing is told to anyone but the server that is named
    "DO_NOT_TRACK": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",  # seconds; ours are minutes in all
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
}.items():
    os.environ.setdefault(_name, _value)
logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)  # the run says it, once

from mlflow.entities import Metric, Param, Run, RunTag  # noqa: E402 -- reads the environment
from mlflow.exceptions import MlflowException  # noqa: E402
from mlflow.tracking import MlflowClient  # noqa: E402

_METRICS, _PARAMS = 1000, 100
"""Most of one request."""
_LONGEST = 5000
"""Characters of a parameter or a tag."""
_EVERY_STEP = "tokens"
"""A figure that every step has: by it the server knows how far it was told."""
_STATUS = {"finished": "FINISHED", "failed": "FAILED", "killed": "KILLED"}


class Mlflow:
    """Parameters, metrics by step, tags, and at the end the files that people read."""

    def __init__(self, where: str, run: Path, card: Card, known: str | None) -> None:  # noqa: ARG002
        """Begin a run on the server, or go on with the one of the id, if it is still there.

        Args:
            where: URI of the server, and behind a `#` the experiment (`ehr-train`).
            run: The run directory.
            card: What the run is.
            known: Its id on the server.

        Raises:
            UserError: If `where` is no URI, or holds a password.
            MlflowException: If the server is away, or does not want us.
        """
        uri, _, experiment = where.partition("#")
        parts = urlsplit(uri)
        if not parts.scheme or "://" not in uri:
            raise UserError(f"{uri} is no URI; say mlflow:http://HOST:PORT")
        if parts.password:
            raise UserError(
                "a URI with a password would be kept in the run; set MLFLOW_TRACKING_USERNAME and "
                "MLFLOW_TRACKING_PASSWORD instead"
            )
        self._client = MlflowClient(uri)
        found = self._find(known) if known else None
        self.id: str = found.info.run_id if found else self._begin(experiment or "ehr-train", card)
        self.last = self._heard() if found else 0
        if found:
            self._client.update_run(self.id, status="RUNNING")

    def steps(self, steps: Sequence[Mapping[str, Any]]) -> None:
        """Send the figures of steps, those of one in one request."""
        now = int(time.time() * 1000)
        batch: list[Metric] = []
        for step in steps:
            figures = [
                Metric(_key(k), float(v), now, step["step"]) for k, v in step.items() if k != "step"
            ]
            if len(batch) + len(figures) > _METRICS:
                self._send(batch)
                batch = []
            batch += figures
        self._send(batch)

    def end(self, status: Status, tags: Mapping[str, str], files: Mapping[str, Path]) -> None:
        """Send the files and how it ended."""
        for name, path in files.items():
            folder = name.rpartition("/")[0]
            self._client.log_artifact(self.id, str(path), folder or None)
        self._client.log_batch(self.id, tags=_tags(tags))
        self._client.set_terminated(self.id, _STATUS[status])

    def _send(self, batch: Sequence[Metric]) -> None:
        if batch:
            self._client.log_batch(self.id, metrics=batch)
            self.last = batch[-1].step

    def _find(self, known: str) -> Run | None:
        try:
            found = self._client.get_run(known)
        except MlflowException as e:
            if e.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return None
        return found if found.info.lifecycle_stage == "active" else None

    def _begin(self, experiment: str, card: Card) -> str:
        made = self._client.create_run(self._experiment(experiment), run_name=card.name)
        run_id: str = made.info.run_id
        params = [Param(_key(k), str(v)[:_LONGEST]) for k, v in card.params.items()]
        for i in range(0, len(params), _PARAMS):
            self._client.log_batch(run_id, params=params[i : i + _PARAMS])
        self._client.log_batch(run_id, tags=_tags(card.tags))
        return run_id

    def _experiment(self, name: str) -> str:
        with suppress(MlflowException):  # there already, or begun by another run at this moment
            self._client.create_experiment(name)
        found = self._client.get_experiment_by_name(name)
        if found is None:
            raise UserError(f"MLflow made no experiment {name}; name another behind the #")
        number: str = found.experiment_id
        return number

    def _heard(self) -> int:
        told = self._client.get_metric_history(self.id, _EVERY_STEP)
        return max((int(metric.step) for metric in told), default=0)


def _tags(tags: Mapping[str, str]) -> list[RunTag]:
    return [RunTag(_key(k), v[:_LONGEST]) for k, v in tags.items()]


def _key(name: str) -> str:
    return re.sub(r"[^\w\-. :/]", "_", name)
