"""Generated tokens are read back as the tokenizer that wrote them reads them."""

from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from ehr_eval.generate.spelling import Spelling
from ehr_tokenize.tokenizer.tokenizer import Tokenizer

START = datetime(2020, 1, 1)  # noqa: DTZ001 -- MEDS times have no zone


@pytest.fixture(scope="module")
def meds(tmp_path_factory: pytest.TempPathFactory, shell: Callable[..., str]) -> Path:
    out = tmp_path_factory.mktemp("spelling") / "meds"
    shell("ehr-tokenize synth --num-patients 60 --seed 3 --out", out)
    return out


@pytest.mark.parametrize("scheme", ["timeline", "joint", "cookbook"])
def test_every_record_is_told_as_the_tokenizer_tells_it(
    meds: Path, scheme: str, tmp_path: Path, shell: Callable[..., str]
) -> None:
    out = tmp_path / "tokens"
    shell(f"ehr-tokenize -s scheme.kind={scheme} --meds", meds, "--out", out)
    spelling, tokenizer = Spelling.read(out), Tokenizer.from_pretrained(out)
    records = 0
    for path in sorted((out / "train").glob("*.parquet")):
        for ids in pq.read_table(path)["token"].to_pylist():
            found = spelling.events(np.array(ids))
            told = [spelling.told(state) for state in found.state.tolist()]
            known = [e for e in tokenizer.decode_timeline(ids, START) if e.code]
            assert [(t.code, t.lower, t.upper) for t in told if t] == [
                (
                    e.code,
                    -np.inf if e.lower is None else e.lower,
                    np.inf if e.upper is None else e.upper,
                )
                for e in known
            ]
            records += len(told)
    assert records > 1000
