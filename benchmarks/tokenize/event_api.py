"""Milliseconds that `tokenizer(events)` takes for 100 events, after loading.

python benchmarks/tokenize/event_api.py TOKENS
"""

import sys
import time
from datetime import datetime, timedelta
from pathlib import Path

from ehr_tokenize.tokenizer.tokenizer import Tokenizer


def main(tokens: Path) -> None:
    """Print the best of many calls."""
    tokenizer = Tokenizer.from_pretrained(tokens)
    codes = [t.code for t in tokenizer.tokens if t.kind == "code"][:20]
    noon = datetime(2020, 1, 1, 12)  # noqa: DTZ001 -- MEDS times have no zone
    events = [(noon + timedelta(hours=i), codes[i % len(codes)], 1.0) for i in range(100)]
    tokenizer(events)
    times = []
    for _ in range(200):
        start = time.perf_counter()
        tokenizer(events)
        times.append(time.perf_counter() - start)
    print(round(1000 * min(times), 3))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
