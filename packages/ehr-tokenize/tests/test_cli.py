import re
import shutil

import pytest
from click.testing import CliRunner

from ehr_tokenize.build import inspection
from ehr_tokenize.cli import main
from ehr_tokenize.config import TokenizeConfig
from ehr_tracking.config import load_config
from ehr_tracking.errors import UserError


@pytest.fixture
def tokens(write_meds, cohort, tmp_path):
    rows = cohort(40)
    meds = write_meds(
        [r for s in rows for r in s],
        splits={s: ["train", "train", "tuning"][s % 3] for s in range(40)},
        descriptions={"GENDER//F": "female"},
    )
    out = tmp_path / "tokens"
    done = CliRunner().invoke(
        main, ["--meds", str(meds), "--out", str(out), "-s", "numeric.min_values=5"]
    )
    assert done.exit_code == 0, done.output
    assert done.output.splitlines()[1].startswith("train: 27 subjects, ")
    return out


def test_inspect_counts_what_is_there(tokens, cohort):
    found = inspection.inspect(tokens)
    sizes = [len(s) for s in cohort(40)]
    assert [(r["split"], r["subjects"]) for r in found.splits] == [("train", 27), ("tuning", 13)]
    assert sum(r["events"] for r in found.splits) == sum(sizes)
    assert sum(r["tokens"] for r in found.splits) == sum(sizes) + 40
    assert max(r["longest"] for r in found.splits) == max(sizes) + 1
    lengths = [size + 1 for size in sizes]
    for name, subjects in found.lengths:
        low, high = (int(x) for x in name.split(" - "))
        assert subjects == sum(low <= n <= high for n in lengths)
    assert sum(subjects for _, subjects in found.lengths) == 40
    assert found.splits[0]["unknown"] == "0.00%"
    assert [r["kind"] for r in found.vocabulary] == ["special", "code", "value"]
    assert sum(r["train events"] for r in found.vocabulary) == found.splits[0]["events"]
    shown = CliRunner().invoke(main, ["inspect", str(tokens)])
    assert shown.exit_code == 0
    assert "vocabulary used" in shown.output


def test_the_most_frequent_tokens_are_told_with_their_bounds(tokens):
    """`LAB//1//Q3` alone tells a reader nothing."""
    top = {r["token"]: r["meaning"] for r in inspection.inspect(tokens).top}
    binned = [said for token, said in top.items() if "//Q" in token]
    assert binned
    assert all(any(w in said for w in ("below ", " or more")) for said in binned)


def test_inspect_shows_one_timeline(tokens, cohort, tmp_path):
    page = tmp_path / "page.html"
    shown = CliRunner().invoke(
        main, ["inspect", str(tokens), "--subject", "4", "--html", str(page)]
    )
    assert shown.exit_code == 0, shown.output
    lines = shown.output.splitlines()
    assert len(lines) == 1 + 1 + len(cohort(40)[4]) + 1  # header, [BOS], events, what was written
    assert lines[2].split() == ["always", "known", "0", "0", "GENDER//F", "female"]
    text = page.read_text()
    assert "MEDS_BIRTH" in text
    for section in ("Splits", "Vocabulary", "Families of codes", "Tokens per subject", "Timeline"):
        assert f"<h2>{section}</h2>" in text
    assert "unknown in tuning" in text
    bars = inspection.inspect(tokens).lengths
    assert text.count("<rect") == len(bars)
    assert all(f"<title>{name}: {subjects}</title>" in text for name, subjects in bars)
    assert "##" not in text
    assert not re.search(r"<(script|link|img)|https?://", text)  # self-contained
    with pytest.raises(UserError, match="has no subject 99"):
        inspection.record(tokens, 99)
    missing = CliRunner().invoke(main, ["inspect", str(tmp_path)])
    assert missing.exit_code == 2
    nowhere = CliRunner().invoke(main, ["inspect", str(tokens), "--html", str(tmp_path / "a/b")])
    assert nowhere.exit_code == 2
    assert (
        nowhere.stderr == f"Error: {tmp_path}/a/b: cannot be written: No such file or directory\n"
    )


@pytest.mark.parametrize(
    "command", [[], ["check"], ["dictionary"], ["inspect"], ["narrate"], ["synth"]]
)
def test_help_has_an_example(command):
    shown = CliRunner().invoke(main, [*command, "--help"])
    assert shown.exit_code == 0
    assert "Example: ehr-tokenize" in shown.output


def test_both_paths_are_needed(tmp_path):
    assert CliRunner().invoke(main, ["--meds", str(tmp_path)]).exit_code == 2
    assert "Usage" in CliRunner().invoke(main, []).output


def test_the_defaults_are_a_config():
    assert load_config(TokenizeConfig) == TokenizeConfig()


@pytest.mark.parametrize("name", ["coverage.json", "train/0.parquet", "vocab.parquet"])
def test_inspect_opens_nothing_that_was_changed(tokens, tmp_path, name):
    copy = shutil.copytree(tokens, tmp_path / "copy")
    shard = next(copy.glob("train/*.parquet")) if "/" in name else copy / name
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    done = CliRunner().invoke(main, ["inspect", str(copy)])
    assert done.exit_code == 2
    assert f"{shard} was changed: its SHA-256 differs" in done.output
