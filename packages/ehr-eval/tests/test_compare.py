"""A comparison, against means, spreads and numbers worked out beside it."""

import csv
import re
import shutil
import statistics
from collections import Counter
from html.parser import HTMLParser

import numpy as np
import polars as pl
import pytest
from click.testing import CliRunner
from sklearn.metrics import roc_auc_score
from sklearn.utils import resample

from ehr_eval.cli import main
from ehr_eval.compare.run import run_compare
from ehr_eval.heads.lr import LogisticRegressionConfig
from ehr_eval.protocol.config import EhrshotConfig
from ehr_eval.protocol.ehrshot import run_ehrshot
from ehr_tracking.contracts import (
    AUDIT,
    CHECKPOINT,
    COMPARISON,
    FEATURES,
    PREDICTIONS,
    RESULTS,
    ContractError,
)
from ehr_tracking.errors import UserError
from ehr_tracking.manifest import load_manifest, new_artifact, seal, source, verify

SMALL = EhrshotConfig(
    ks=(4, -1),
    replicates=1,
    replicates_all=1,
    bootstraps=20,
    heads={"lr": LogisticRegressionConfig(c=(0.1,))},
    compare=(("counts", "m@0"),),  # that pair the other way round as well
)


@pytest.fixture(scope="module")
def work(tmp_path_factory, toys):
    """Two seeds of a model, a baseline, what the first seed says without a label, and the best possible risks."""
    root = tmp_path_factory.mktemp("compare")
    labels, features = toys.tasks(root)
    with new_artifact(root / "checkpoint", CHECKPOINT) as partial:
        seal(partial, CHECKPOINT, producer="test 0", config={})
    parent = {"checkpoint": source(root / "checkpoint")}
    resealed = root / "features" / "resealed"
    shutil.copytree(features["model"], resealed, ignore=shutil.ignore_patterns("manifest.json"))
    seal(resealed, FEATURES, producer="test 0", config={}, inputs=parent)
    with new_artifact(root / "tuned", CHECKPOINT) as partial:
        seal(partial, CHECKPOINT, producer="test 0", config={}, inputs=parent)
    write_perfect(root / "zero", labels, parent)
    write_perfect(root / "fine", labels, {"checkpoint": source(root / "tuned")})
    run_ehrshot(
        labels,
        {"m@0": resealed, "m@1": features["noise"], "counts": features["counts"]},
        root / "results",
        SMALL,
        predictions={"m-zeroshot@0": root / "zero", "m-tuned@0": root / "fine"},
        risks=write_risks(root / "risks", labels),
    )
    run_compare({"results": root / "results"}, root / "out")
    return root


def write_perfect(out, labels, inputs):
    """Predictions that are the outcomes of the held-out rows."""
    with new_artifact(out, PREDICTIONS) as partial:
        for task in ("told", "untold"):
            table = pl.read_parquet(labels / task / "labels.parquet")
            table = table.filter((pl.col("subject_id") - 1) % 3 == 2).with_columns(
                pl.lit(None, pl.Boolean).alias("predicted_boolean_value"),
                predicted_boolean_probability=pl.col("boolean_value").cast(pl.Float32),
            )
            (partial / task).mkdir()
            table.write_parquet(partial / task / "held_out.parquet")
        seal(partial, PREDICTIONS, producer="test 0", config={"estimator": "mc"}, inputs=inputs)


def write_risks(directory, labels):
    """Risks that rank the outcome well, but not quite."""
    directory.mkdir()
    rng = np.random.default_rng(7)
    for task in ("told", "untold"):
        table = pl.read_parquet(labels / task / "labels.parquet")
        risk = 0.3 * table["boolean_value"].to_numpy() + 0.6 * rng.random(len(table))
        table.with_columns(best_risk=risk).write_parquet(directory / f"{task}.parquet")
    return directory


def scores(work):
    """Metric, task, k and model -> the value that results tell."""
    table = pl.read_parquet(work / "results" / "results.parquet").filter(replicate=-1)
    return {(r["metric"], r["task"], r["k"], r["model"]): r for r in table.to_dicts()}


def test_a_model_has_the_mean_of_its_seeds_and_their_spread(work):
    known, seen = scores(work), 0
    with (work / "out" / "curves.csv").open() as f:
        for row in csv.DictReader(f):
            told = row["metric"] != "share_of_best"
            if told and row["level"] == "task" and row["model"] == "m":
                of = [known[row["metric"], row["task"], int(row["k"]), f"m@{s}"] for s in (0, 1)]
                values = [r["value"] for r in of]
                assert float(row["value"]) == pytest.approx(sum(values) / 2, abs=1e-12)
                assert float(row["sd"]) == pytest.approx(statistics.stdev(values), abs=1e-12)
                assert [float(row["least"]), float(row["most"])] == sorted(values)
                assert (row["seeds"], int(row["n"])) == ("2", of[0]["n"])
                seen += 1
    assert seen == 2 * 2 * len({metric for metric, *_ in known})


def test_differences_are_of_the_means_and_count_seeds(work):
    known = scores(work)
    with (work / "out" / "differences.csv").open() as f:
        rows = [row for row in csv.DictReader(f) if (row["model"], row["other"]) == ("m", "counts")]
    assert {(row["task"], row["k"]) for row in rows} == {(t, k) for t in ("told", "untold", "all tasks") for k in ("4", "-1")}  # fmt: skip
    for row in rows:
        tasks = ("told", "untold") if row["level"] == "group" else (row["task"],)
        *ours, base = (
            np.mean([known["auroc", task, int(row["k"]), model]["value"] for task in tasks])
            for model in ("m@0", "m@1", "counts")
        )
        assert float(row["difference"]) == pytest.approx(sum(ours) / 2 - base, abs=1e-12)
        assert (row["pairs"], int(row["ahead"])) == ("2", sum(v > base for v in ours))


@pytest.fixture(scope="module")
def drawn(work):
    """Task and model -> [20] AUROC of scikit-learn on what scikit-learn draws of the patients, all training rows."""
    found = {}
    for task in ("told", "untold"):
        told = work / "results" / "predictions" / task
        tables = {m: pl.read_parquet(told / m / "lr.parquet") for m in ("m@0", "m@1", "counts")}
        risks = pl.read_parquet(work / "risks" / f"{task}.parquet").rename({"best_risk": "p"})
        key = ["subject_id", "prediction_time"]
        best = tables["counts"].select(*key, "boolean_value").join(risks.select(*key, "p"), on=key)
        tables["best"] = best.rename({"p": "predicted_boolean_probability"})
        for model, table in tables.items():
            people, said = np.unique(table["subject_id"]), table["predicted_boolean_probability"]
            draws = (Counter(resample(people, random_state=i).tolist()) for i in range(20))
            weights = ([draw[one] for one in table["subject_id"]] for draw in draws)
            found[task, model] = np.array(
                [roc_auc_score(table["boolean_value"], said, sample_weight=w) for w in weights]
            )
    return found


def bounds(row):
    return pytest.approx(np.percentile(row, [2.5, 97.5]), abs=1e-6)


def told(work, file, **where):
    """The bounds of one row of a table."""
    with (work / "out" / file).open() as f:
        (row,) = (r for r in csv.DictReader(f) if all(r[k] == v for k, v in where.items()))
    return [float(row["lower"]), float(row["upper"])]


def test_an_interval_is_of_the_mean_over_seeds_and_tasks_in_each_draw_of_patients(work, drawn):
    seeds = {t: (drawn[t, "m@0"] + drawn[t, "m@1"]) / 2 for t in ("told", "untold")}
    shares = {t: (seeds[t] - 0.5) / (drawn[t, "best"] - 0.5) for t in seeds}
    of = {"model": "m", "head": "lr"}
    for task in seeds:
        assert told(work, "leaderboard.csv", task=task, metric="auroc", **of) == bounds(seeds[task])
        assert told(work, "leaderboard.csv", task=task, metric="share_of_best", **of) == bounds(shares[task])  # fmt: skip
        apart = seeds[task] - drawn[task, "counts"]
        assert told(work, "differences.csv", task=task, k="-1", other="counts", **of) == bounds(apart)  # fmt: skip
    for metric, by_task in (("auroc", seeds), ("share_of_best", shares)):
        mean = sum(by_task.values()) / 2
        assert told(work, "leaderboard.csv", task="all tasks", metric=metric, **of) == bounds(mean)
    apart = sum(seeds[task] - drawn[task, "counts"] for task in seeds) / 2
    assert told(work, "differences.csv", task="all tasks", k="-1", other="counts", **of) == bounds(apart)  # fmt: skip


def test_a_share_is_of_the_way_from_chance_to_the_best_risk(work):
    known, best = scores(work), dict(pl.read_parquet(work / "results/best.parquet")["task", "value"].iter_rows())  # fmt: skip
    for task, value in best.items():
        risks = pl.read_parquet(work / "risks" / f"{task}.parquet").filter(pl.col("subject_id") % 3 == 0)  # fmt: skip
        assert value == pytest.approx(roc_auc_score(risks["boolean_value"], risks["best_risk"]))
    shares = {t: (known["auroc", t, -1, "counts"]["value"] - 0.5) / (b - 0.5) for t, b in best.items()}  # fmt: skip
    with (work / "out" / "leaderboard.csv").open() as f:
        found = {r["task"]: float(r["value"]) for r in csv.DictReader(f) if (r["metric"], r["model"]) == ("share_of_best", "counts")}  # fmt: skip
    assert found == pytest.approx(shares | {"all tasks": sum(shares.values()) / 2})
    page = Page((work / "out" / "page.html").read_text())
    header, *rows = page.tables["Share of the way to the best"]
    assert (header, rows[-1][0]) == (["model", "head", "4", "all"], "m-tuned")
    assert next(r for r in rows if r[0] == "counts")[-1].startswith(f"{found['all tasks']:.3f} (")


class Page(HTMLParser):
    """Its tables below their headings, and everything that it would load."""

    def __init__(self, text):
        super().__init__()
        self.tables, self.loads, self.heading, self._open = {}, [], "", None
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.loads += [v for k, v in found.items() if k in ("src", "href", "srcset", "data")]
        assert tag not in ("script", "link", "iframe")
        if tag in ("h2", "h3", "td", "th"):
            self._open = tag
            if tag in ("h2", "h3"):
                self.heading = ""
        if tag == "tr":
            self.tables.setdefault(self.heading, []).append([])

    def handle_endtag(self, tag):
        if tag == self._open:
            self._open = None

    def handle_data(self, data):
        if self._open in ("h2", "h3"):
            self.heading += data
        elif self._open:
            self.tables[self.heading][-1].append(data.replace("\u00a0", " "))


def test_the_page_needs_no_other_file_and_has_the_leader_first(work):
    page = Page((work / "out" / "page.html").read_text())
    assert [each[:22] for each in page.loads if not each.startswith("data:image/png;base64,")] == []
    header, *rows = page.tables["Leaderboard"]
    means = [float(row[header.index("AUROC")].split()[0]) for row in rows]
    assert means == sorted(means, reverse=True)
    known = scores(work)
    mean = np.mean([known["auroc", t, -1, f"m@{s}"]["value"] for t in ("told", "untold") for s in (0, 1)])  # fmt: skip
    assert next(row for row in rows if row[0] == "m")[header.index("AUROC")].startswith(f"{mean:.3f} (")  # fmt: skip


def test_what_a_checkpoint_says_without_a_label_stands_beside_heads_on_its_features(work):
    page = Page((work / "out" / "page.html").read_text())
    header, *rows = page.tables["m-zeroshot beside m"]
    assert header == ["task", "head", "no label", "4", "all"]
    assert {row[0] for row in rows} == {"told", "untold"}
    assert all(row[2].startswith("1.000") for row in rows)
    assert [title for title in page.tables if " beside " in title] == ["m-zeroshot beside m"]
    captions = re.findall(
        "<figcaption>(.*?)</figcaption>", (work / "out" / "page.html").read_text()
    )
    levels = [text for text in captions if "m-zeroshot is what the checkpoint of m says" in text]
    assert [text.split(";")[0] for text in levels] == ["Share of the way to the best, mean over tasks", "Mean over tasks", "told", "untold"]  # fmt: skip


def test_the_same_inputs_give_the_same_bytes(work):
    run_compare({"results": work / "results"}, work / "again")
    assert (work / "again" / "manifest.json").read_bytes() == (work / "out" / "manifest.json").read_bytes()  # fmt: skip
    assert verify(work / "out") == []
    with (work / "out" / "leaderboard.csv").open() as f:
        assert next(csv.reader(f)) == [column.name for column in COMPARISON.columns]
    for name, columns in COMPARISON.beside.items():
        with (work / "out" / name).open() as f:
            assert next(csv.reader(f)) == [column.name for column in columns]


def test_what_is_of_another_lineage_is_refused(work, toys):
    results = {"results": work / "results"}
    with pytest.raises(UserError, match="--features x: no results have a model of that name"):
        run_compare(results, work / "no", features={"x": work / "features" / "noise"})
    with pytest.raises(ContractError, match="is not what model m@0 of these results was made from"):
        run_compare(results, work / "no", features={"m@0": work / "features" / "noise"})
    with new_artifact(work / "audit", AUDIT) as partial:
        seal(partial, AUDIT, producer="test 0", config={})
    with pytest.raises(ContractError, match="is the audit of something else"):
        run_compare(results, work / "no", audits=[work / "audit"])
    assert not (work / "no").exists()


@pytest.fixture(scope="module")
def words(work):
    """The command on results as they are, and as a version wrote them that kept no draws and no best risk."""
    of, old, costs = load_manifest(work / "results"), work / "before", work / "costs.csv"
    leave = shutil.ignore_patterns("manifest.json", "draws", "best.parquet")
    shutil.copytree(work / "results", old, ignore=leave)
    seal(old, RESULTS, producer=of.producer, config=of.config, inputs=of.inputs)
    costs.write_text("stage,name,seconds,memory_mb\ntokenize,all,12.5,\n")
    return ["compare", "--results", f"few={work / 'results'}", "--results", f"old={old}", "--predictions", f"m-zeroshot@0={work / 'zero'}", "--out", str(work / "both"), "--costs", str(costs)]  # fmt: skip


@pytest.fixture(scope="module")
def both(work, words):
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 0, done.output
    assert done.stdout.splitlines()[-1] == f"page: {work / 'both' / 'page.html'}"
    return work / "both"


def test_results_without_draws_have_the_means_of_bounds_of_seeds_and_that_is_said(work, both):
    known = scores(work)
    with (both / "leaderboard.csv").open() as f:
        rows = [row for row in csv.DictReader(f) if row["results"] == "old"]
    assert "share_of_best" not in {row["metric"] for row in rows}
    of = [known["auroc", "told", -1, f"m@{seed}"]["lower"] for seed in (0, 1)]
    (row,) = (r for r in rows if (r["task"], r["metric"], r["model"]) == ("told", "auroc", "m"))
    assert float(row["lower"]) == pytest.approx(sum(of) / 2)
    for file in ("page.html", "leaderboard.md"):
        assert "old: made by a version that kept no bootstrap draws" in (both / file).read_text()
        assert "kept no bootstrap draws" not in (work / "out" / file).read_text()


def test_a_costs_file_is_told_and_a_bad_one_refused(work, both, words):
    assert "estimator: mc\n" in (both / "methods.md").read_text()
    assert "tokenize,all,12.5,,costs\n" in (both / "costs.csv").read_text()
    (work / "costs.csv").write_text("stage,name,seconds\ntokenize,all,12.5\n")
    done = CliRunner().invoke(main, [*words, "--overwrite"])
    assert done.exit_code == 2
    assert re.search(r"costs\.csv has no column memory_mb", done.output)
