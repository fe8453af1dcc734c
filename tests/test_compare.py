"""The graph of a comparison: what a change makes anew, what is refused, and the engine once."""

import json
import re
import shutil
from pathlib import Path

import polars as pl
import pytest
import yaml
from click.testing import CliRunner

from ehr_tokenize.config import TokenizeConfig
from ehr_tracking.config import ConfigError, validate
from ehr_tracking.errors import UserError
from ehr_tracking.manifest import verify
from workflow.__main__ import main
from workflow.checks import check_data
from workflow.estimate import Estimate
from workflow.graph import Graph, build
from workflow.links import check_links, make_links
from workflow.loaded import load
from workflow.plan import made_anew, to_make
from workflow.progress import Progress

ROOT = Path(__file__).parents[1]
SMALL = {
    **{"model.hidden": 16, "model.layers": 1, "model.heads": 2, "model.intermediate": 16},
    **{"data.context": 32, "data.batch_tokens": 256, "data.micro_tokens": 256},
}
QUICK = {
    **{"ks": [-1], "replicates": 1, "replicates_all": 1, "bootstraps": 0},
    "heads": {"lr": {"kind": "lr", "c": [1.0]}},
}


def model(recipe: str, **settings) -> dict:
    path = str(ROOT / f"configs/train/{recipe}.yaml")
    return {"scheme": "joint", "recipe": path, "set": {**SMALL, "optim.steps": 2, **settings}}


def comparison() -> dict:
    """Two models with two seeds each."""
    return {
        "data": {"cohort": {"synth": {"set": {"num_patients": 60}}}},
        "schemes": {"joint": {}},
        "models": {
            "behrt": model("behrt-mlm") | {"seeds": [0, 1]},
            "gpt2": model("gpt2-clm") | {"seeds": [0, 1]},
        },
        "evaluate": {"set": {**QUICK}},
    }


@pytest.fixture
def graph(tmp_path):
    def graph(tree: dict) -> Graph:
        path = tmp_path / "c.yaml"
        path.write_text(yaml.safe_dump(tree))
        return build(load(path), raw={"mimic": "0" * 64})

    return graph


def stages(ids) -> list[str]:
    return sorted(one.rpartition("-")[0] for one in ids)


LAST = ["audit/cohort", "comparison/comparison", "results/cohort"]


def test_a_change_makes_anew_exactly_what_depends_on_it(graph) -> None:
    before = graph(comparison())
    assert len(before) == 3 + 2 * 4 + 1 + 3  # data, tokens, labels; runs and features; counts

    seed = comparison()
    seed["models"]["gpt2"]["seeds"] = [0, 2]
    of_seed = ["features/cohort.gpt2@2", "runs/gpt2@2"]
    assert stages(made_anew(before, graph(seed))) == sorted(LAST + of_seed)

    recipe = comparison()
    recipe["models"]["gpt2"]["set"]["optim.lr"] = 0.5
    of_model = [f"{kind}gpt2@{n}" for kind in ("features/cohort.", "runs/") for n in (0, 1)]
    assert stages(made_anew(before, graph(recipe))) == sorted(LAST + of_model)

    head = comparison()
    head["evaluate"]["set"] = {**QUICK, "bootstraps": 1}
    assert stages(made_anew(before, graph(head))) == LAST

    data = comparison()
    data["data"]["cohort"]["synth"]["set"]["seed"] = 1
    assert len(made_anew(before, graph(data))) == len(before)


def test_a_second_comparison_shares_data_tokens_and_models_with_the_first(graph) -> None:
    third = comparison()
    third["models"]["llama"] = model("llama-clm")
    of_llama = ["features/cohort.llama@0", "runs/llama@0"]
    assert stages(made_anew(graph(comparison()), graph(third))) == sorted(LAST + of_llama)


def test_a_file_that_a_config_names_counts_by_what_is_in_it(graph, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("map.csv").write_text("from,to\nA,B\n")
    Path("mine.yaml").write_text("a: 1")
    tree = comparison()
    tree["schemes"]["joint"] = {"set": {"maps": [{"table": "map.csv", "from": "A//", "to": "B//"}]}}
    tree["labels"] = {"task_files": ["mine.yaml"]}
    before = graph(tree)
    tokens = next(node for node in before.values() if node.stage == "tokens")
    labels = next(node for node in before.values() if node.stage == "labels")
    [step] = validate(TokenizeConfig, dict(tokens.config), where="a job's config").maps
    assert step.table == tmp_path / "map.csv"
    assert str(tmp_path / "mine.yaml") in labels.words  # jobs run elsewhere
    assert graph(tree).keys() == before.keys()

    Path("mine.yaml").write_text("a: 2")
    of_labels = [n.id.rpartition("-")[0] for n in before.values() if "labels" in str(n.inputs)]
    assert stages(made_anew(before, graph(tree))) == sorted({*of_labels, *LAST, "labels/cohort"})
    Path("map.csv").write_text("from,to\nA,C\n")
    assert len(made_anew(before, graph(tree))) == len(before) - 1  # all but the data
    Path("map.csv").unlink()
    with pytest.raises(ConfigError, match=r"map\.csv: no such file"):
        graph(tree)


def test_a_model_that_starts_from_another_depends_on_it_of_the_same_seed(graph) -> None:
    tree = comparison()
    tree["models"]["on"] = model("gpt2-clm") | {"seeds": [1, 7], "init": "gpt2"}
    made = graph(tree)
    start = {n.name: n.inputs[-1].rpartition("-")[0] for n in made.values() if n.stage == "runs"}
    assert (start["on@1"], start["on@7"]) == ("runs/gpt2@1", "runs/gpt2@0")


def test_data_to_test_on_have_the_tokenizer_of_those_trained_on_and_train_nothing(graph) -> None:
    tree = comparison()
    tree["data"]["mimic"] = {"meds": "m", "test": True}
    before, after = graph(comparison()), graph(tree)
    added = stages(made_anew(before, after))
    assert not [one for one in added if one.startswith("runs/")]
    tokens = next(n for n in after.values() if (n.stage, n.name) == ("tokens", "mimic.joint"))
    fitted = next(n for n in after.values() if (n.stage, n.name) == ("tokens", "cohort.joint"))
    assert tokens.inputs == (fitted.id,)
    assert tokens.words[tokens.words.index("--tokenizer") + 1] == f"{{{fitted.id}}}"


def test_what_is_there_is_known_by_its_key_and_needs_nothing_of_what_it_was_made_from(
    graph, tmp_path
) -> None:
    made = graph(comparison())
    store = tmp_path / "store"

    def finish(*stages: str) -> None:
        for node in made.values():
            if node.stage in stages:
                node.proof(store).parent.mkdir(parents=True, exist_ok=True)
                node.proof(store).touch()

    finish("features", "counts")  # not what they are made from
    assert stages(to_make(made, store)) == [
        *("audit/cohort", "comparison/comparison", "labels/cohort", "meds/cohort"),
        *("results/cohort", "runs/behrt@0", "runs/behrt@1", "runs/gpt2@0", "runs/gpt2@1"),
        "tokens/cohort.joint",
    ]  # the page shows runs, tokens and labels as well
    finish("comparison")
    assert to_make(made, store) == {}


def test_what_is_left_is_told_by_what_such_parts_have_taken(graph, tmp_path) -> None:
    made = graph(comparison())
    thought = {one: Estimate(10, 100, "a guess") for one in made}
    progress = Progress(made, thought, dict.fromkeys(made, "x"), tmp_path, cores=2)
    run = next(one for one, node in made.items() if node.stage == "runs")
    progress.begun(run)
    progress.since[run] -= 30  # seconds ago
    progress.made(run)
    others = len(made) - 4  # three more runs are left
    left = progress.seconds_left(progress.start)
    assert left == pytest.approx((3 * 30 + others * 10) / 2, abs=1)
    assert Progress(made, thought, {}, tmp_path, cores=2).seconds_left(0) == 5 * len(made)


def test_names_below_out_leave_out_what_there_is_one_of(graph, tmp_path) -> None:
    one = comparison()
    one["models"] = {"gpt2": model("gpt2-clm")}
    (out := tmp_path / "o").mkdir()

    def shown(tree: dict) -> list[str]:
        made = graph(tree)
        for node in made.values():
            node.proof(out / "store").parent.mkdir(parents=True, exist_ok=True)
            node.proof(out / "store").touch()
        check_links(made, out)
        make_links(made, out, out / "store")
        return sorted(str(p.relative_to(out)) for p in out.rglob("*") if p.is_symlink())

    alone = ["audit", "comparison", "features/counts", "features/gpt2", "labels", "meds", "results"]
    assert shown(one) == [*alone, "runs/gpt2", "tokens"]
    assert (out / "tokens/manifest.json").is_file()
    (out / "runs/mine").mkdir()  # of its user

    two = comparison()
    two["data"]["mimic"] = {"meds": "m", "test": True}
    assert {"tokens/mimic", "runs/gpt2@1", "features/mimic.gpt2@1", "results/mimic"} < {*shown(two)}
    assert (out / "runs/mine").is_dir()
    assert shown(one) == [*alone, "runs/gpt2", "tokens"]

    (out / "tokens").unlink()
    (out / "tokens").mkdir()
    (out / "tokens/mine").touch()
    with pytest.raises(UserError, match="tokens is in the way of a link"):
        shown(one)


def test_the_readme_types_what_the_demo_runs(monkeypatch) -> None:
    monkeypatch.chdir(ROOT)
    made = build(load(ROOT / "configs/compare/demo.yaml"), {})

    def told(words: list[str]) -> tuple[str, set[str]]:
        """The command, and the words that lead into demo."""
        return " ".join(w for w in words[:2] if w[0] != "-"), {w for w in words if "demo/" in w}

    def typed(word: str) -> str:
        return re.sub(r"\{(\w+/[^}]+)\}", lambda found: f"demo/{made[found[1]].shown}", word)

    runs = {}
    for node in made.values():
        words = [typed(word.replace("{out}", f"{{{node.id}}}")) for word in node.words]
        runs[f"demo/{node.shown}"] = told([w for w in words if w != "{config}"])
    block = (ROOT / "README.md").read_text().partition("as one types it:\n")[2].split("```")[1]
    lines = [line.partition("  #")[0].split() for line in block.strip().splitlines()]
    shown = {w[w.index("--out") + 1]: w for w in lines if "--out" in w}
    assert len(shown) == len(runs) - 2  # neither the audit nor the page
    for out, words in shown.items():
        configs = {word for word in words if word.startswith("configs/")}
        command, leads = told(words)
        assert (command, leads - configs) == runs[out]


def without_tuning(path: Path) -> Path:
    """A MEDS data set of three subjects, none of them to tune on."""
    (path / "data").mkdir(parents=True)
    (path / "metadata").mkdir()
    times = pl.Series([None, 0, 1], dtype=pl.Int64).cast(pl.Datetime("us"))
    values = pl.Series([None] * 3, dtype=pl.Float32)
    rows = {"subject_id": [1, 2, 3], "time": times, "code": "A", "numeric_value": values}
    pl.DataFrame(rows).write_parquet(path / "data/0.parquet")
    splits = {"subject_id": [1, 2, 3], "split": ["train", "train", "held_out"]}
    pl.DataFrame(splits).write_parquet(path / "metadata/subject_splits.parquet")
    return path


def with_tuning(path: Path) -> Path:
    without_tuning(path)
    splits = {"subject_id": [1, 2, 3], "split": ["train", "tuning", "held_out"]}
    pl.DataFrame(splits).write_parquet(path / "metadata/subject_splits.parquet")
    return path


def _set(tree: dict, key: str, value: object) -> None:
    *above, last = key.split("/")
    for name in above:
        tree = tree.setdefault(name, {})
    tree[last] = value


BAD = {
    "no such kind": ({"models/gpt2/set/model.kind": "gtp2"}, "gtp2"),
    "no such recipe": ({"models/gpt2/recipe": "no.yaml"}, "no.yaml: no such config file"),
    "an unknown model": (
        {"compare": [["gpt3", "behrt"]]},
        "compare: unknown model gpt3; there are",
    ),
    "an unknown scheme": ({"models/gpt2/scheme": "jiont"}, "unknown scheme jiont; there are joint"),
    "a scheme that a kind cannot take": (
        {
            "schemes/joint/set": {"scheme.kind": "desc"},
            "models/ex": model("exmed-bert-mlm"),
        },
        "models.ex: scheme joint spells codes as subwords, but kind exmed_bert looks codes up",
    ),
    "no future without the past alone": (
        {"zeroshot": {"z": {"model": "behrt", "tasks": ["long_stay"]}}},
        "zeroshot.z: kind behrt of behrt cannot generate",
    ),
    "a circle": (
        {"models/gpt2/init": "behrt", "models/behrt/init": "gpt2"},
        "is a circle",
    ),
    "two models of one name": (
        {"zeroshot": {"gpt2": {"model": "gpt2", "tasks": ["long_stay"]}}},
        "two models are called gpt2",
    ),
    "the baseline's name": ({"models/counts": model("gpt2-clm")}, "two models are called counts"),
    "an unknown task": ({"labels/set/tasks": ["mortallity"]}, "unknown task mortallity"),
    "a task without labels": (
        {"labels/set/tasks": ["long_stay"], "evaluate/set/tasks": ["mortality_1y"]},
        "evaluate: task mortality_1y is none of those that are labelled",
    ),
    "two data sets to train on": (
        {"data/other": {"meds": "m"}},
        "one data set is trained on, not 2",
    ),
    "an unknown key": ({"model": {}}, "unknown key model"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_does_not_fit_is_one_line_before_anything_is_made(name, tmp_path) -> None:
    settings, said = BAD[name]
    tree = comparison()
    for key, value in settings.items():
        _set(tree, key, value)
    assert said in refused(tmp_path, yaml.safe_dump(tree))


def refused(tmp_path: Path, text: str, *more: str) -> str:
    """The one line that is said of a comparison that is refused."""
    (tmp_path / "c.yaml").write_text(text)
    done = CliRunner().invoke(main, [str(tmp_path / "c.yaml"), "--out", str(tmp_path / "o"), *more])
    assert done.exit_code == 2, done.output
    assert done.output.startswith("Error: ")
    assert done.output.count("\n") == 1
    assert not (tmp_path / "o/plan.json").exists()
    return done.output


def test_a_model_that_stands_twice_in_the_file_is_refused(tmp_path) -> None:
    text = "data: {}\nmodels:\n  gpt2: {}\n  gpt2: {}\n"
    assert "key gpt2 is there twice" in refused(tmp_path, text)


def test_data_are_refused_without_a_tuning_split_or_the_codes_of_a_task(tmp_path) -> None:
    text = yaml.safe_dump(comparison())
    poor = without_tuning(tmp_path / "poor")
    assert "poor has no tuning split" in refused(tmp_path, text, "--meds", f"cohort={poor}")
    tree = comparison() | {"labels": {"set": {"tasks": ["long_stay"]}}}
    bare = with_tuning(tmp_path / "bare")
    said = refused(tmp_path, yaml.safe_dump(tree), "--meds", str(bare))
    assert "data.cohort: " in said
    assert "long_stay" in said
    assert check_data("cohort", bare)[-1] == "can be tokenised"
    shutil.copy(bare / "data/0.parquet", bare / "data/1.parquet")
    with pytest.raises(UserError, match=r"data\.cohort: ERROR subjects: .* another file holds too"):
        check_data("cohort", bare)


def test_a_disk_that_will_be_full_is_foreseen(tmp_path) -> None:
    tree = comparison()
    tree["data"]["cohort"]["synth"]["set"]["num_patients"] = 100_000_000
    tree["models"]["gpt2"]["seeds"] = [*range(100)]  # some 80 TB
    assert "MB free, but what is to be made takes about" in refused(tmp_path, yaml.safe_dump(tree))


@pytest.mark.slow
def test_a_model_that_fails_says_why_and_all_else_is_made(tmp_path) -> None:
    tree = comparison() | {"audit": None, "labels": {"set": {"tasks": ["long_stay"]}}}
    tree["data"]["cohort"]["synth"]["set"]["num_patients"] = 400
    tree["models"] = {"gpt2": model("gpt2-clm", **{"data.context": 4096, "data.batch_tokens": 4096,
                                                  "data.micro_tokens": 4096})}  # fmt: skip
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(tree))
    out = tmp_path / "o"
    done = CliRunner().invoke(main, [str(tmp_path / "c.yaml"), "--out", str(out), "--cores", "2"])
    assert done.exit_code == 1, done.output
    assert "runs/gpt2 failed: " in done.output
    assert "4096" in done.output.partition("failed: ")[2]
    assert verify(out / "results") == []
    asked = json.loads((out / "results/manifest.json").read_bytes())["inputs"]
    assert [role for role in asked if role.startswith("features")] == ["features.counts"]
    assert not (out / "runs").exists()

    def planned() -> str:
        line = [str(tmp_path / "c.yaml"), "--out", str(out), "--dry-run"]
        done = CliRunner().invoke(main, line)
        assert done.exit_code in (0, 2)
        return done.output

    assert "Error: runs/gpt2: " in planned()  # as the tokens are there, the trainer is asked
    tree["models"] = {"gpt2": model("gpt2-clm")}
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(tree))
    assert "ehr-train --dry-run" in planned()
