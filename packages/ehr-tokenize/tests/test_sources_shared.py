"""What all sources share: recipes, MEDS's own schemas, threads, help."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from ehr_tokenize.cli import main
from ehr_tokenize.sources.config import EventsConfig, MimicConfig, OmopConfig, PatientsJsonConfig
from ehr_tokenize.sources.events import from_events
from ehr_tracking.arrow.splits import read_splits
from ehr_tracking.config import ConfigError, load_config
from ehr_tracking.errors import UserError

RECIPES = Path(__file__).parents[3] / "configs" / "sources"
EVENTS = EventsConfig(subject="p", code="c", time="t", value="v")


def table(path):
    rows = (
        f"{i % 97},2020-01-{i % 28 + 1:02d} {i % 24:02d}:00:00,C{i % 13},{i % 7 - 3}"
        for i in range(5000)
    )
    path.write_text("\n".join(["p,t,c,v", *rows]) + "\n")
    return path


@pytest.mark.parametrize(
    ("name", "config"),
    [("mimic", MimicConfig), ("omop", OmopConfig), ("patients-json", PatientsJsonConfig)],
)
def test_recipes_say_what_the_defaults_are(name, config):
    assert load_config(config, RECIPES / f"{name}.yaml") == config()


def test_everything_that_is_written_fits_the_schemas_of_meds(tmp_path, is_valid_meds):
    from_events(table(tmp_path / "e.csv"), tmp_path / "out", EVENTS)
    files = list((tmp_path / "out").glob("data/*/*.parquet"))
    assert {p.parent.name for p in files} == {"train", "tuning", "held_out"}
    is_valid_meds(tmp_path / "out")


def test_the_number_of_threads_does_not_show(tmp_path):
    table(tmp_path / "e.csv")
    outputs = []
    for threads in ("1", "3"):
        out = tmp_path / f"out{threads}"
        script = "from ehr_tokenize.cli import main; main()"
        command = [
            sys.executable,
            "-c",
            script,
            "from",
            "events",
            str(tmp_path / "e.csv"),
            "--out",
            str(out),
        ]
        settings = [x for k in ("subject=p", "code=c", "time=t", "value=v") for x in ("-s", k)]
        env = {**os.environ, "POLARS_MAX_THREADS": threads}
        subprocess.run([*command, *settings], check=True, env=env, capture_output=True)
        outputs.append({p.relative_to(out): p.read_bytes() for p in out.rglob("*") if p.is_file()})
    assert outputs[0] == outputs[1]
    assert outputs[0]


def test_a_file_of_splits_is_followed_and_must_name_everybody(tmp_path):
    source = tmp_path / "e.csv"
    source.write_text("p,t,c\n1,2020-01-01,A\n2,2020-01-01,A\n")
    (tmp_path / "s.csv").write_text("subject_id,split\n1,tuning\n2,train\n3,train\n")
    settings = ["subject=p", "code=c", "time=t", f"write.splits={tmp_path / 's.csv'}"]
    from_events(source, tmp_path / "out", load_config(EventsConfig, None, settings))
    assert read_splits(tmp_path / "out").of(np.array([1, 2])).tolist() == [1, 0]
    (tmp_path / "s.csv").write_text("subject_id,split\n1,tuning\n")
    with pytest.raises(UserError, match="subject 2 has no split"):
        from_events(source, tmp_path / "other", load_config(EventsConfig, None, settings))
    assert not (tmp_path / "other").exists()


def test_the_share_of_train_is_a_setting_and_the_rest_is_halved(tmp_path):
    source, subjects = tmp_path / "e.csv", np.arange(1, 2001)
    source.write_text("p,t,c\n" + "".join(f"{i},2020-01-01,A\n" for i in subjects))
    split = {}
    for share in ("0.5", "0.8"):
        settings = ["subject=p", "code=c", "time=t", f"write.train={share}"]
        from_events(source, tmp_path / share, load_config(EventsConfig, None, settings))
        split[share] = read_splits(tmp_path / share).of(subjects)
    assert np.abs(np.bincount(split["0.5"]) / 2000 - [0.5, 0.25, 0.25]).max() < 0.03
    assert (split["0.8"][split["0.5"] == 0] == 0).all()


@pytest.mark.parametrize(
    ("override", "message"),
    [("kode=x", "unknown key kode"), ("without_time=perhaps", "without_time = 'perhaps'"),
     ("extras={code: {column: x}}", "extras.code: that column is made by the mapping")],
)  # fmt: skip
def test_wrong_settings_are_told_by_their_key(override, message):
    with pytest.raises(ConfigError) as caught:
        load_config(EventsConfig, None, ["subject=p", "code=c", "time=t", override])
    assert message in str(caught.value)


def test_a_setting_without_default_is_named_where_it_is_left_out():
    with pytest.raises(ConfigError, match=r"^config: code has to be set$"):
        load_config(EventsConfig, None, ["subject=p", "time=t"])


@pytest.mark.parametrize("name", ["mimic", "omop", "events", "patients-json"])
def test_every_source_has_help_with_an_example(name):
    result = CliRunner().invoke(main, ["from", name, "--help"])
    assert result.exit_code == 0
    assert f"Example: ehr-tokenize from {name} " in " ".join(result.output.split())


def test_help_loads_nothing_heavy():
    script = (
        "import sys\nfrom click.testing import CliRunner\nfrom ehr_tokenize.cli import main\n"
        "CliRunner().invoke(main, ['from', 'mimic', '--help'])\n"
        "print({'polars', 'pyarrow', 'pydantic'} & sys.modules.keys())"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True
    )
    assert done.stdout.strip() == "set()"
