"""What holds on a GPU, and can be seen on one alone."""

from dataclasses import replace

import pytest
import torch

from ehr_tracking.checkpoints import CheckpointStore
from ehr_tracking.runs import read_log
from ehr_train.run import train

from .conftest import tiny_config

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


@pytest.mark.parametrize("kind", ["mlm", "clm"])
def test_compiled_runs_are_equal_to_the_bit_and_near_one_that_is_not(tokens, tmp_path, kind):
    """In fp32: bf16 has a fused kernel whose gradients are summed in no fixed order."""
    config = replace(tiny_config(kind), precision="fp32", compile=True)
    plain = replace(config, compile=False)
    runs = [
        train(tokens, tmp_path / name, chosen, device="cuda")
        for name, chosen in (("one", config), ("two", config), ("plain", plain))
    ]
    one, two, other = ([m["loss"] for m in read_log(run / "metrics.jsonl")] for run in runs)
    assert one == two
    lists = [CheckpointStore(run / "checkpoints").latest() / "manifest.json" for run in runs]
    assert lists[0].read_bytes() == lists[1].read_bytes()  # of files with their hashes
    assert torch.allclose(torch.tensor(one), torch.tensor(other), rtol=1e-3)
