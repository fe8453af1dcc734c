"""The kind that docs/extend.md adds is the one that goes through the zoo (`kinds/mixer`)."""

import json
import re
from pathlib import Path

from click.testing import CliRunner

from ehr_models.cli import main
from ehr_models.describe import count_parameters
from ehr_models.kinds import KINDS

PAGE = Path(__file__).parents[3] / "docs" / "extend.md"


def test_the_page_shows_the_files_of_the_kind():
    section = re.split(r"^## ", PAGE.read_text(), flags=re.MULTILINE)
    (section,) = [part for part in section if part.startswith("A model kind\n")]
    record, torch_half, line = re.findall(r"```python\n(.*?)```", section, flags=re.DOTALL)
    folder = Path(__file__).parent / "kinds" / "mixer"
    assert record == (folder / "__init__.py").read_text()
    assert torch_half == (folder / "model.py").read_text()
    table = {}
    exec(line, {"KINDS": table, "MIXER": KINDS["mixer"]})
    assert table == {"mixer": KINDS["mixer"]}


def test_an_added_kind_is_described():
    result = CliRunner().invoke(main, ["describe", "mixer-tiny", "-s", "taps=3"])
    assert result.exit_code == 0
    lines = result.output.splitlines()
    (architecture,) = [s for s in lines if s.startswith("architecture: ")]
    assert json.loads(architecture.removeprefix("architecture: "))["taps"] == 3
    total = count_parameters(KINDS["mixer"].config(size="tiny", taps=3), 1000)["total"]
    assert lines[-1].split() == ["total", f"{total:,}"]
