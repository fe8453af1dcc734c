"""A comparison, against means, spreads and numbers worked out beside it."""

import csv
import re
import shutil
import statistics
from html.parser import HTMLParser

import numpy as np
import polars as pl
import pytest
from click.testing import CliRunner

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
    ContractError,
)
from ehr_tracking.errors import UserError
from ehr_tracking.manifest import new_artifact, seal, source, verify

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
    """Two seeds of a model, a baseline, and what the first seed says without a label."""
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


def scores(work):
    """Metric, task, k and model -> the value that results tell."""
    table = pl.read_parquet(work / "results" / "results.parquet").filter(replicate=-1)
    return {(r["metric"], r["task"], r["k"], r["model"]): r for r in table.to_dicts()}


def test_a_model_has_the_mean_of_its_seeds_and_their_spread(work):
    known, seen = scores(work), 0
    with (work / "out" / "curves.csv").open() as f:
        for row in csv.DictReader(f):
            if row["level"] == "task" and row["model"] == "m":
                of = [known[row["metric"], row["task"], int(row["k"]), f"m@{s}"] for s in (0, 1)]
                values = [r["value"] for r in of]
                assert float(row["value"]) == pytest.approx(sum(values) / 2, abs=1e-12)
                assert float(row["sd"]) == pytest.approx(statistics.stdev(values), abs=1e-12)
                assert [float(row["least"]), float(row["most"])] == sorted(values)
                assert float(row["lower"]) == pytest.approx(sum(r["lower"] for r in of) / 2)
                assert (row["seeds"], int(row["n"])) == ("2", of[0]["n"])
                seen += 1
    assert seen == 2 * 2 * len({metric for metric, *_ in known})


def test_differences_are_of_the_means_and_count_seeds(work):
    known = scores(work)
    with (work / "out" / "differences.csv").open() as f:
        rows = [row for row in csv.DictReader(f) if (row["model"], row["other"]) == ("m", "counts")]
    assert {(row["task"], row["k"]) for row in rows} == {(t, k) for t in ("told", "untold") for k in ("4", "-1")}  # fmt: skip
    for row in rows:
        at = row["task"], int(row["k"])
        ours = [known["auroc", *at, f"m@{seed}"]["value"] for seed in (0, 1)]
        base = known["auroc", *at, "counts"]["value"]
        assert float(row["difference"]) == pytest.approx(sum(ours) / 2 - base, abs=1e-12)
        assert (row["pairs"], int(row["ahead"])) == ("2", sum(v > base for v in ours))


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


def test_a_costs_file_is_told_and_a_bad_one_refused(work):
    costs = work / "costs.csv"
    costs.write_text("stage,name,seconds,memory_mb\ntokenize,all,12.5,\n")
    words = ["compare", "--results", f"few={work / 'results'}", "--results", f"again={work / 'results'}", "--predictions", f"m-zeroshot@0={work / 'zero'}", "--out", str(work / "costly"), "--costs", str(costs)]  # fmt: skip
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 0, done.output
    assert done.stdout.splitlines()[-1] == f"page: {work / 'costly' / 'page.html'}"
    assert "estimator: mc\n" in (work / "costly" / "methods.md").read_text()
    assert "tokenize,all,12.5,,costs\n" in (work / "costly" / "costs.csv").read_text()
    costs.write_text("stage,name,seconds\ntokenize,all,12.5\n")
    done = CliRunner().invoke(main, [*words, "--overwrite"])
    assert done.exit_code == 2
    assert re.search(r"costs\.csv has no column memory_mb", done.output)
