"""The MEDS_transforms driver writes what the in-process driver writes, byte for byte."""

import os
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
import yaml

from ehr_tokenize.build.build import tokenize
from ehr_tokenize.config import NumericConfig, TokenizeConfig, VisitsScheme
from ehr_tracking.config import validate
from ehr_tracking.manifest import load_manifest

PIPELINE = "pkg://ehr_tokenize.meds_stages.tokenize.yaml"


def run_pipeline(*overrides: str, pipeline: str = PIPELINE) -> subprocess.CompletedProcess[str]:
    scripts = str(Path(sys.executable).parent)  # the runner calls its stages by bare name
    return subprocess.run(
        [f"{scripts}/MEDS_transform-pipeline", pipeline, *(["--overrides"] if overrides else []),
         *overrides],
        env=os.environ | {"PATH": f"{scripts}:{os.environ['PATH']}"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def assert_same(one: Path, two: Path) -> None:
    names = [sorted(p.relative_to(d) for p in d.rglob("*") if p.is_file()) for d in (one, two)]
    assert names[0] == names[1]
    assert len(names[0]) > 3
    for name in names[0]:
        assert (one / name).read_bytes() == (two / name).read_bytes(), name


@pytest.mark.slow
def test_both_drivers_agree_on_files_in_any_order(write_meds, cohort, tmp_path):
    """Files that mix splits and hold subjects out of order: the stages seal them in order."""
    rows = cohort(60)
    files = [[r for s in rows[i::3][::-1] for r in s] for i in range(3)]
    splits = {s: ["train", "train", "train", "tuning", "held_out"][s % 5] for s in range(60)}
    meds = write_meds(*files, splits=splits, descriptions={"LAB//1": "a measurement"})
    config = TokenizeConfig(scheme=VisitsScheme(), numeric=NumericConfig(n_bins=4, min_values=5))
    tokenize(meds, tmp_path / "ours", config)
    done = run_pipeline(
        f"input_dir={meds}", f"output_dir={tmp_path}/work", f"tokens_dir={tmp_path}/stages",
        "ehr_tokenize.scheme.kind=visits", "+ehr_tokenize.numeric.n_bins=4",
        "+ehr_tokenize.numeric.min_values=5",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert_same(tmp_path / "ours", tmp_path / "stages")


@pytest.mark.slow
def test_both_drivers_agree_on_several_tokens_an_event(write_meds, cohort, tmp_path):
    """Levels, shared bins, time, age, units, texts, maps, roll-up, exclusions and delays at once."""
    rows = [[(*r, None, None) for r in s] for s in cohort(60)]
    for s in rows:
        at, text, unit = s[-1][1], *(("NEG", "mg") if s[0][0] % 2 else ("pos ", None))
        s += [(s[0][0], at, *r) for r in (
            ("ICD10CM//E11.65", None, None, None), ("CULTURE", None, text, None),
            ("LAB//0", 3.0, None, unit), (f"RARE//{s[0][0] // 2}", 1.0, None, None),
            ("OLD", None, None, None), ("BILL//1", None, None, None),
        )]  # fmt: skip
    schema = {"subject_id": pl.Int64, "time": pl.Datetime("us"), "code": pl.String,
              "numeric_value": pl.Float32, "text_value": pl.String, "unit": pl.String}  # fmt: skip
    frames = [
        pl.DataFrame([r for s in rows[i::2][::-1] for r in s], schema, orient="row") for i in (0, 1)
    ]
    frames[0] = frames[0].with_columns(hadm_id=pl.format("of {}", "subject_id"))
    splits = {s: ["train", "train", "train", "tuning", "held_out"][s % 5] for s in range(60)}
    meds = write_meds(*frames, splits=splits, descriptions={"ICD10CM//E11.65": "diabetes"})
    path = meds / "metadata/codes.parquet"
    known = pl.col("code").str.starts_with("RARE")
    pl.read_parquet(path).with_columns(
        parent_codes=pl.when(known).then(pl.lit(["RARE"])).otherwise("parent_codes")
    ).write_parquet(path)
    settings = {
        "scheme": {"kind": "timeline", "units": True, "text": True, "visits": "sep"},
        "numeric": {"n_bins": 4, "min_values": 5},
        "vocabulary": {"min_subjects": 3, "roll_up": True, "exclude": ["^BILL"]},
        "maps": [{"entries": {"OLD": "ICD10CM//E11.65"}}],
        "delay": {"^CULTURE": 0.5},
        "visits": {"end_codes": ["^BILL"], "most_days": 36_525},
    }
    tokenize(meds, tmp_path / "ours", validate(TokenizeConfig, settings, where="test"))
    pipeline = tmp_path / "pipeline.yaml"
    pipeline.write_text(
        yaml.safe_dump(
            {
                "input_dir": str(meds),
                "output_dir": f"{tmp_path}/work",
                "tokens_dir": f"{tmp_path}/stages",
                "polling_time": 1,
                "ehr_tokenize": settings,
                "stages": ["ehr_fit_bins", "ehr_fit_vocabulary", "ehr_tokenize", "ehr_seal"],
            }
        )
    )
    done = run_pipeline(pipeline=str(pipeline))
    assert done.returncode == 0, done.stderr[-3000:]
    assert_same(tmp_path / "ours", tmp_path / "stages")
    vocab = pl.read_parquet(tmp_path / "ours/vocab.parquet")
    assert {"RARE", "ICD10CM//E11", "CULTURE || NEG", "TIME//6mo", "Q2"} <= set(vocab["token"])
    assert not vocab["code"].str.starts_with("RARE//").any()


@pytest.mark.slow
def test_both_drivers_agree_on_the_mimic_demo(mimic_demo, tmp_path):
    tokenize(mimic_demo, tmp_path / "ours")
    done = run_pipeline(
        f"input_dir={mimic_demo}", f"output_dir={tmp_path}/work", f"tokens_dir={tmp_path}/stages"
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert_same(tmp_path / "ours", tmp_path / "stages")


@pytest.mark.slow
def test_stages_follow_filters_of_the_user(write_meds, cohort, tmp_path):
    """The pipeline that docs/tokenize.md shows, against a data set that was filtered by hand."""
    guide = Path(__file__).parents[3] / "docs/tokenize.md"
    shown = guide.read_text().partition("```yaml\n# mine.yaml")[2].partition("```")[0]
    tree = yaml.safe_load(shown.partition("\n")[2])
    splits = {s: ["train", "train", "tuning", "held_out"][s % 4] for s in range(40)}
    rows = cohort(40)
    meds = write_meds([r for s in rows for r in s], splits=splits)
    tree |= {
        "input_dir": str(meds),
        "output_dir": f"{tmp_path}/work",
        "tokens_dir": f"{tmp_path}/b",
    }
    assert tree["stages"][0].keys() == {"filter_subjects"}
    tree["stages"][0]["filter_subjects"]["min_events_per_subject"] = 8
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(tree))
    done = run_pipeline(pipeline=str(tmp_path / "mine.yaml"))
    assert done.returncode == 0, done.stderr[-3000:]
    kept = [s for s in rows if len({row[1] for row in s}) >= 8]  # its events: distinct times
    assert 0 < len(kept) < 40
    filtered = write_meds([r for s in kept for r in s], splits=splits, name="filtered")
    tokenize(filtered, tmp_path / "a", TokenizeConfig(scheme=VisitsScheme()))
    for path in (tmp_path / "a").rglob("*.parquet"):
        assert path.read_bytes() == (tmp_path / "b" / path.relative_to(tmp_path / "a")).read_bytes()
    tokenize(meds, tmp_path / "whole")
    inputs = [load_manifest(tmp_path / name).inputs for name in ("b", "whole")]
    assert inputs[0] == inputs[1]  # the data before the filters


@pytest.mark.slow
def test_a_wrong_setting_stops_the_pipeline(write_meds, cohort, tmp_path):
    meds = write_meds(cohort(3)[0])
    done = run_pipeline(
        f"input_dir={meds}", f"output_dir={tmp_path}/work", f"tokens_dir={tmp_path}/stages",
        "+ehr_tokenize.bins=4",
    )  # fmt: skip
    assert done.returncode != 0
    assert "unknown key bins" in done.stderr
    assert not (tmp_path / "stages").exists()
