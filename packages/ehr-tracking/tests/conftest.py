from collections.abc import Callable
from pathlib import Path

import pytest

from ehr_tracking.contracts import TOKENS, Contract
from ehr_tracking.manifest import Source, new_artifact, seal


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Path]:
    def make(
        name: str,
        *,
        contract: Contract = TOKENS,
        inputs: dict[str, Source] | None = None,
        text: str = "x",
        overwrite: bool = False,
    ) -> Path:
        out = tmp_path / name
        with new_artifact(out, contract, overwrite=overwrite) as partial:
            (partial / "train").mkdir()
            (partial / "train" / "0.parquet").write_text(text)
            (partial / "vocab.parquet").write_text("v")
            seal(partial, contract, producer="ehr-tokenize 0.1.0", config={"n": 1}, inputs=inputs)
        return out

    return make
