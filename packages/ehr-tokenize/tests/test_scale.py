"""Parallel stages, killed and run again: docs/scale.md."""

import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from ehr_tokenize.build.build import tokenize
from ehr_tokenize.config import NumericConfig, ShardConfig, TokenizeConfig, VisitsScheme
from ehr_tokenize.meds_stages.record import RECORD, check_record
from ehr_tokenize.meds_stages.seal import seal_shards
from ehr_tokenize.tokenizer.tokenizer import Tokenizer
from ehr_tracking.errors import UserError
from ehr_tracking.manifest import MANIFEST, verify

GUIDE = Path(__file__).parents[3] / "docs/scale.md"
STAGES = ["ehr_fit_bins", {"other": {"n": 1}}]
CONFIG = TokenizeConfig()


def start(*overrides: str, runner: Path | None = None) -> subprocess.Popen[str]:
    scripts = str(Path(sys.executable).parent)  # the runner calls its stages by bare name
    return subprocess.Popen(
        [f"{scripts}/MEDS_transform-pipeline", "pkg://ehr_tokenize.meds_stages.tokenize.yaml",
         *(["--stage_runner_fp", str(runner)] if runner else []), "--overrides", *overrides],
        env=os.environ | {"PATH": f"{scripts}:{os.environ['PATH']}"},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip


@pytest.mark.slow
def test_two_workers_killed_and_run_again_write_what_one_process_writes(
    write_meds, cohort, tmp_path
):
    """Splits by hash; a folder called train that decides nothing."""
    subjects = cohort(60)
    meds = write_meds(
        *([r for s in subjects[i::6][::-1] for r in s] for i in range(6)), hashed=True
    )
    (meds / "data/train").mkdir()
    (meds / "data/0.parquet").rename(meds / "data/train/0.parquet")
    config = TokenizeConfig(numeric=NumericConfig(n_bins=4), shard=ShardConfig(subjects=7))
    tokenize(meds, tmp_path / "ours", config)
    runner, work, out = tmp_path / "joblib.yaml", tmp_path / "work", tmp_path / "stages"
    recipe = re.search(r"```yaml\n(# joblib.yaml\n.*?)```", GUIDE.read_text(), re.DOTALL)
    runner.write_text(recipe[1])
    place = [f"input_dir={meds}", f"output_dir={work}", f"tokens_dir={out}", "polling_time=0.2",
             "+ehr_tokenize.shard.subjects=7"]  # fmt: skip
    bins = "+ehr_tokenize.numeric.n_bins="

    killed = start(*place, f"{bins}4", runner=runner)
    while killed.poll() is None and not any((work / "data").glob("**/*.parquet")):
        time.sleep(0.05)
    os.killpg(killed.pid, signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL, killed.stderr.read()[-3000:]
    killed.communicate()
    assert {"0", "1"} <= {p.name for p in (work / "ehr_fit_bins/.logs").iterdir()}, "two workers"
    assert not out.exists()

    other = start(*place, f"{bins}3")
    assert "ehr_tokenize.numeric.n_bins = 4 (now 3); choose a new" in other.communicate()[1]
    assert other.returncode != 0
    assert not out.exists()

    again = start(*place, f"{bins}4", runner=runner)
    assert again.communicate()[1] == ""
    assert again.returncode == 0
    assert (out / MANIFEST).read_bytes() == (tmp_path / "ours" / MANIFEST).read_bytes()
    assert verify(out) == []

    few = tmp_path / "stretches"  # of a few shards each
    tokenizer = replace(Tokenizer.from_pretrained(out), config=config)
    seal_shards(work / "data", few, meds=meds, tokenizer=tokenizer, stretch_events=500)
    assert (few / MANIFEST).read_bytes() == (out / MANIFEST).read_bytes()

    # as if killed just before these two stages were noted as done
    for name in ["ehr_fit_bins", "ehr_seal", "_all_stages"]:
        (work / f".logs/{name}.done").unlink()
    sealed = (out / MANIFEST).stat()
    late = start(*place, f"{bins}4")
    assert late.communicate()[1] == ""
    assert late.returncode == 0
    assert (out / MANIFEST).stat() == sealed


@pytest.fixture
def begun(write_meds, cohort, tmp_path):
    meds = write_meds(*cohort(2))
    check_record(tmp_path / "work", CONFIG, STAGES, meds)
    return tmp_path / "work", meds


def test_a_directory_is_gone_on_with_as_it_was_begun(begun):
    work, meds = begun
    before = (work / RECORD).read_bytes()
    check_record(work, CONFIG, STAGES, meds)
    assert (work / RECORD).read_bytes() == before
    assert [p.name for p in work.iterdir()] == [RECORD]


@pytest.mark.parametrize(
    ("config", "stages", "said"),
    [
        (replace(CONFIG, seed=1), STAGES, "ehr_tokenize.seed = 0 (now 1)"),
        (
            replace(CONFIG, delay={"^ICD": 2.0}),
            STAGES,
            'ehr_tokenize.delay = {} (now {"^ICD": 2.0})',
        ),
        (replace(CONFIG, scheme=VisitsScheme()), STAGES, 'scheme.kind = "joint" (now "visits")'),
        (CONFIG, ["ehr_fit_bins", {"other": {"n": 2}}], 'stages = ["ehr_fit_bins", {"other"'),
    ],
)
def test_other_settings_are_refused(begun, config, stages, said):
    work, meds = begun
    before = (work / RECORD).read_bytes()
    with pytest.raises(UserError, match=re.escape(said)):
        check_record(work, config, stages, meds)
    assert (work / RECORD).read_bytes() == before


def test_other_input_is_refused(begun):
    work, meds = begun
    one, two = meds / "data/0.parquet", meds / "data/1.parquet"
    data, at = one.read_bytes(), one.stat().st_mtime_ns
    one.write_bytes(data)
    os.utime(one, ns=(at, at + 1))
    with pytest.raises(UserError, match=r"another data/0[.]parquet; choose a new output_dir"):
        check_record(work, CONFIG, STAGES, meds)
    os.utime(one, ns=(at, at))
    check_record(work, CONFIG, STAGES, meds)
    two.rename(meds / "data/2.parquet")
    with pytest.raises(UserError, match=r"the input file data/1[.]parquet, which is gone"):
        check_record(work, CONFIG, STAGES, meds)
    (meds / "data/1.parquet").write_bytes(data)
    with pytest.raises(UserError, match=r"another data/1[.]parquet"):
        check_record(work, CONFIG, STAGES, meds)
    (meds / "data/1.parquet").unlink()
    (meds / "data/2.parquet").rename(two)
    (meds / "data/3.parquet").write_bytes(data)
    with pytest.raises(UserError, match=r"without the input file data/3[.]parquet"):
        check_record(work, CONFIG, STAGES, meds)


def test_a_damaged_record_is_refused(begun):
    work, meds = begun
    (work / RECORD).write_text("{")
    with pytest.raises(UserError, match="is damaged"):
        check_record(work, CONFIG, STAGES, meds)
