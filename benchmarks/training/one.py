"""One training run of whatever version PYTHONPATH says: `python one.py TOKENS OUT KEY=VALUE...`.

Prints a JSON object: of each step the tokens so far, the wall and the CPU seconds of this process when
it was logged, and of the whole run the share of the time that steps waited for their data.
"""

import json
import sys
import time
from collections.abc import Mapping
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from ehr_tracking.config import load_config
from ehr_tracking.runs import RunLog, read_log
from ehr_train.config import TrainConfig
from ehr_train.run import train


def main() -> None:
    """Train, and print the marks."""
    tokens, out, *overrides = sys.argv[1:]
    marks: list[tuple[int, float, float]] = []
    append = RunLog.append

    def marked(log: RunLog, record: Mapping[str, Any]) -> None:
        append(log, record)
        if log.path.name == "metrics.jsonl":
            marks.append((record["tokens"], time.perf_counter(), time.process_time()))

    RunLog.append = marked  # type: ignore[method-assign]
    with redirect_stdout(sys.stderr):
        run = train(
            Path(tokens), Path(out), load_config(TrainConfig, None, overrides), device="cpu"
        )
    laps = read_log(run / "timings.jsonl")
    waited = [lap["waited"] for lap in laps if "waited" in lap]
    seconds = sum(lap["seconds"] for lap in laps)
    print(json.dumps({"marks": marks, "waited": sum(waited) / seconds if waited else None}))


if __name__ == "__main__":
    main()
