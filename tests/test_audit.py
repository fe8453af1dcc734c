"""The audit finds each leak that is planted, by the check that is made for it, and nothing in clean data."""

import json
import re
import shutil
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

import ehr_eval.cli
import ehr_tokenize.cli
import ehr_train.cli
from ehr_eval.audit import checks
from ehr_eval.audit import run as run_module
from ehr_eval.audit.config import AuditConfig
from ehr_eval.audit.inputs import Given
from ehr_eval.audit.run import audit
from ehr_eval.features.read import read_features
from ehr_tracking.arrow.features import write_features
from ehr_tracking.contracts import FEATURES, PREDICTIONS, SHOTS, TOKENS
from ehr_tracking.manifest import load_manifest, new_artifact, seal

KEY = ["subject_id", "prediction_time"]
TASK = "readmission_30d"
TASKS = f"tasks=[{TASK},long_stay,mortality_1y]"


def run(command: object, *words: object) -> str:
    done = CliRunner().invoke(command, [str(w) for w in words])  # type: ignore[arg-type]
    assert done.exit_code == 0, done.output
    return done.output


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small cohort, and all that is made of it."""
    w = tmp_path_factory.mktemp("clean")
    run(ehr_tokenize.cli.main, "synth", "--num-patients", 240, "--seed", 3, "--out", w / "meds")
    run(ehr_tokenize.cli.main, "--meds", w / "meds", "--out", w / "tokens")
    run(ehr_eval.cli.main, "labels", "--meds", w / "meds", "-s", TASKS, "--out", w / "labels")
    counts(w / "meds", w / "labels", w / "counts")
    run(
        ehr_train.cli.main, "--tokens", w / "tokens", "--out", w / "gpt2", "--device", "cpu",
        *(x for s in ("model.kind=gpt2", "model.size=tiny", "objective.kind=clm", "optim.steps=2", "data.context=64") for x in ("-s", s)),
    )  # fmt: skip
    read(w / "tokens", w / "gpt2", w / "labels", w / "states")
    rows = labelled(w)
    held_out = rows.filter(split="held_out")
    probability = pl.col("subject_id").hash(seed=0) % 97 / 97
    predictions(w / "predictions", held_out.with_columns(p=probability))
    shots(w / "shots", rows)
    return w


def counts(meds: Path, labels: Path, out: Path) -> Path:
    run(ehr_eval.cli.main, "counts", "--meds", meds, "--labels", labels, "-s", "windows_days=[30]", "--out", out)  # fmt: skip
    return out


def read(tokens: Path, checkpoint: Path, labels: Path, out: Path) -> Path:
    run(
        ehr_eval.cli.main, "features", "--checkpoint", checkpoint, "--tokens", tokens, "--labels", labels, "--out", out,
        "-s", "batch_tokens=65536",
    )  # fmt: skip
    return out


def labelled(w: Path, task: str = TASK) -> pl.DataFrame:
    rows = pl.read_parquet(w / "labels" / task / "labels.parquet")
    splits = pl.read_parquet(w / "meds/metadata/subject_splits.parquet")
    return rows.select(*KEY, "boolean_value").join(splits, on="subject_id").sort(KEY)


def predictions(out: Path, rows: pl.DataFrame) -> Path:
    with new_artifact(out, PREDICTIONS, overwrite=True) as partial:
        (partial / TASK).mkdir()
        rows.select(
            *KEY,
            "boolean_value",
            predicted_boolean_value=pl.lit(None, pl.Boolean),
            predicted_boolean_probability=pl.col("p").cast(pl.Float32),
        ).write_parquet(partial / TASK / "held_out.parquet")
        seal(partial, PREDICTIONS, producer="test 0", config={})
    return out


def shots(out: Path, rows: pl.DataFrame) -> Path:
    drawn = [
        rows.filter(split=split, boolean_value=value).head(4)
        for split in ("train", "tuning")
        for value in (True, False)
    ]
    kept = pl.concat([*drawn, rows.filter(split="held_out")]).with_columns(
        task=pl.lit(TASK),
        k=pl.when(pl.col("split") == "held_out").then(None).otherwise(pl.lit(4)).cast(pl.Int64),
        replicate=pl.lit(0, pl.Int64),
        order=pl.int_range(pl.len(), dtype=pl.Int64).over("split"),
    )
    with new_artifact(out, SHOTS, overwrite=True) as partial:
        kept.select(c.name for c in SHOTS.columns).write_parquet(partial / "shots.parquet")
        seal(partial, SHOTS, producer="test 0", config={})
    return out


def labels_of(out: Path, rows: pl.DataFrame, task: str = TASK) -> Path:
    (out / task).mkdir(parents=True)
    rows.select(*KEY, "boolean_value").write_parquet(out / task / "labels.parquet")
    return out


def moved(w: Path, out: Path, change: Callable[[pl.DataFrame], pl.DataFrame]) -> Path:
    """The data set, its events changed."""
    shutil.copytree(w / "meds" / "metadata", out / "metadata")
    (out / "data").mkdir()
    events = pl.concat(pl.read_parquet(p) for p in sorted((w / "meds/data").rglob("*.parquet")))
    changed = change(events).sort("subject_id", "time", nulls_last=False, maintain_order=True)
    changed.write_parquet(out / "data" / "0.parquet")
    return out


def resplit(w: Path, out: Path) -> Path:
    """The data set, its held-out subjects called train."""
    shutil.copytree(w / "meds", out)
    path = out / "metadata/subject_splits.parquet"
    pl.read_parquet(path).with_columns(split=pl.lit("train")).write_parquet(path)
    return out


def found(config: AuditConfig | None = None, **given: Any) -> dict[str, list[str]]:
    """Check -> what it found, of the checks that found something."""
    done = audit(Given(**given), config or AuditConfig(rows=12))
    return {c.check.name: [f.what for f in c.findings] or [c.reason] for c in done.checked if c.state not in {"clean", "skipped"}}  # fmt: skip


def test_clean_data_are_silent(clean: Path, tmp_path: Path) -> None:
    said = run(
        ehr_eval.cli.main, "audit", "--meds", clean / "meds", "--labels", clean / "labels", "--tokens", clean / "tokens",
        "--checkpoint", clean / "gpt2", "--features", f"counts={clean}/counts", "--features", f"states={clean}/states",
        "--predictions", f"some={clean}/predictions", "--shots", clean / "shots", "--out", tmp_path / "audit", "-s", "rows=12",
    )  # fmt: skip
    assert "error" not in said
    assert not pl.read_parquet(tmp_path / "audit/findings.parquet").height
    assert set(pl.read_parquet(tmp_path / "audit/checks.parquet")["state"]) == {"clean"}
    assert "Nothing was found" in (tmp_path / "audit/report.html").read_text()


def test_real_data_are_silent(mimic_demo: Path, tmp_path: Path) -> None:
    run(ehr_eval.cli.main, "labels", "--meds", mimic_demo, "--out", tmp_path / "labels")
    assert not found(meds=mimic_demo, labels=tmp_path / "labels")


def test_a_subject_in_two_splits(clean: Path, tmp_path: Path) -> None:
    shutil.copytree(clean / "meds", tmp_path / "meds")
    path = tmp_path / "meds/metadata/subject_splits.parquet"
    splits = pl.read_parquet(path)
    held_out = splits.filter(split="held_out").head(3)
    pl.concat([splits, held_out.with_columns(split=pl.lit("train"))]).write_parquet(path)
    assert found(meds=tmp_path / "meds") == {"splits": ["3 subjects are in two splits"]}


def test_features_of_the_future(clean: Path, tmp_path: Path) -> None:
    later = pl.col("prediction_time") + timedelta(days=200)
    assert found(**counts_at(clean, tmp_path, later)).keys() == {"future"}


def test_features_of_the_next_event(clean: Path, tmp_path: Path) -> None:
    known = pl.concat(pl.read_parquet(p) for p in (clean / "meds/data").rglob("*.parquet"))
    next_ = pl.col("next").fill_null(pl.col("prediction_time"))
    bad = found(
        **counts_at(clean, tmp_path, next_, known.select("subject_id", "time").drop_nulls())
    )
    assert bad.keys() == {"shifted"}


def test_states_of_the_next_token(clean: Path, tmp_path: Path) -> None:
    known = pl.concat(pl.read_parquet(p) for p in (clean / "meds/data").rglob("*.parquet"))
    labels, index = shifted(
        clean, tmp_path, pl.col("next").fill_null(pl.col("prediction_time")), known
    )
    read(clean / "tokens", clean / "gpt2", labels, tmp_path / "made")
    again = rewritten(tmp_path / "made", index, tmp_path / "states", clean / "states")
    given = {
        "tokens": clean / "tokens",
        "checkpoint": clean / "gpt2",
        "features": {"states": again},
    }
    assert found(AuditConfig(rows=12, checks=("future", "shifted")), **given).keys() == {"shifted"}


def shifted(w: Path, tmp: Path, later: pl.Expr, events: pl.DataFrame) -> tuple[Path, pl.DataFrame]:
    """Labels at other times, and which row each of them stands for."""
    times = events.select("subject_id", "time").drop_nulls().unique().sort("time")
    rows = labelled(w).sort("prediction_time").join_asof(
        times.with_columns(next=pl.col("time")), left_on="prediction_time", right_on="time", by="subject_id",
        strategy="forward", allow_exact_matches=False, check_sortedness=False,
    )  # fmt: skip
    rows = rows.select(*KEY, "boolean_value", "split", late=later).unique(["subject_id", "late"])
    labels = labels_of(tmp / "late", rows.with_columns(prediction_time=pl.col("late")))
    return labels, rows


def counts_at(
    w: Path, tmp: Path, later: pl.Expr, events: pl.DataFrame | None = None
) -> dict[str, Any]:
    """Counts that were made at later times than they say."""
    none = pl.DataFrame(schema={"subject_id": pl.Int64, "time": pl.Datetime("us")})
    labels, index = shifted(w, tmp, later, none if events is None else events)
    counts(w / "meds", labels, tmp / "made")
    again = rewritten(tmp / "made", index, tmp / "counts", None)
    true = labels_of(tmp / "labels", labelled(w))
    return {"meds": w / "meds", "labels": true, "features": {"counts": again}, "config": AuditConfig(rows=12, checks=("future", "shifted"))}  # fmt: skip


def rewritten(made: Path, index: pl.DataFrame, out: Path, like: Path | None) -> Path:
    """Features under the prediction times that they should have been made at."""
    features, manifest = read_features(made), load_manifest(like or made)
    named = features.index.join(
        index.select("subject_id", "late", true="prediction_time"),
        left_on=KEY, right_on=["subject_id", "late"], maintain_order="left",
    )  # fmt: skip
    with new_artifact(out, FEATURES) as partial:
        matrix = features.mapped.take(named["row"].to_numpy())
        table = named.select("subject_id", "split", prediction_time="true").to_arrow()
        write_features(partial, matrix, table)
        if (made / "columns.json").is_file():
            shutil.copy(made / "columns.json", partial)
        seal(partial, FEATURES, producer=manifest.producer, config=manifest.config, inputs=manifest.inputs)  # fmt: skip
    return out


def test_the_outcome_at_the_prediction_time(clean: Path, tmp_path: Path) -> None:
    events = pl.read_parquet(clean / "meds/data/**/*.parquet")
    again = events.filter(pl.col("code").str.contains("^HOSPITAL_ADMISSION")).select(
        "subject_id", "time"
    )
    rows = labelled(clean).sort("prediction_time").join_asof(
        again.with_columns(at=pl.col("time")).sort("time"), left_on="prediction_time", right_on="time", by="subject_id",
        strategy="forward", check_sortedness=False,
    )  # fmt: skip
    at = pl.when("boolean_value").then("at").otherwise("prediction_time")
    labels = labels_of(tmp_path / "labels", rows.with_columns(prediction_time=at).unique(KEY))
    assert "outcome" in found(meds=clean / "meds", labels=labels)


def test_a_diagnosis_that_is_there_already(clean: Path, tmp_path: Path) -> None:
    events = pl.read_parquet(clean / "meds/data/**/*.parquet")
    had = events.filter(pl.col("code").str.contains("^MEDS_DEATH")).select("subject_id", at="time")
    rows = labelled(clean).join(had, on="subject_id").with_columns(boolean_value=pl.lit(value=True))
    late = rows.with_columns(prediction_time=pl.col("at")).unique(KEY)
    labels = labels_of(tmp_path / "labels", late, "mortality_1y")
    assert found(meds=clean / "meds", labels=labels).keys() == {"outcome", "times"}


WORDED = """
name: {name}
doc: d
start: {{code: ^VISIT$}}
{what}
censored: negative
"""
SAME_CODE = {
    "high": "outcome: [{code: ^K, units: {mmol/L: 1, mg/dL: 18}, above: 5}]\nhorizon_days: 30",
    "told": "outcome: [{code: ^NOTE$, text: pneumonia}]\nhorizon_days: 30",
    "aged": "outcome: [{code: ^FALL$, min_age: 50}]\nhorizon_days: 30",
    "value": "answer: value\ngiven: [{code: ^K}]",
}
"""Outcomes that are told from others of their code by unit, text or age alone; and a number."""


def test_outcomes_by_unit_text_and_age_and_numbers_that_are_there_already(tmp_path: Path) -> None:
    day = [datetime(2020, 1, d) for d in range(1, 11)]  # noqa: DTZ001 -- MEDS times have no zone
    rows: list[tuple[Any, ...]] = []
    for subject in range(40):
        old = subject % 2 == 0
        rows += [
            (subject, datetime(1950 if old else 2000, 1, 1), "MEDS_BIRTH", None, None, None),  # noqa: DTZ001
            (subject, day[0], "VISIT", None, None, None),
            (
                subject,
                day[2],
                "K",
                99.0 if old else 18.0,
                "mg/dL",
                None,
            ),  # of mmol/L one would be high
            (subject, day[2], "NOTE", None, None, "pneumonia" if old else "nothing new"),
            (subject, day[2], "FALL", None, None, None),
            (subject, day[9], "VISIT", None, None, None),
        ]
    types: dict[str, Any] = {
        "subject_id": pl.Int64,
        "time": pl.Datetime("us"),
        "code": pl.String,
        "numeric_value": pl.Float32,
    }
    (tmp_path / "meds/data").mkdir(parents=True)
    pl.DataFrame(
        rows, {**types, "unit": pl.String, "text_value": pl.String}, orient="row"
    ).write_parquet(tmp_path / "meds/data/0.parquet")
    files = tuple(tmp_path / f"{name}.yaml" for name in SAME_CODE)
    for path, what in zip(files, SAME_CODE.values(), strict=True):
        path.write_text(WORDED.format(name=path.stem, what=what))
    words = [x for path in files for x in ("--task-file", path)]
    run(
        ehr_eval.cli.main,
        "labels",
        "--meds",
        tmp_path / "meds",
        *words,
        "--out",
        tmp_path / "labels",
    )
    only = AuditConfig(checks=("outcome", "times"))
    assert not found(only, meds=tmp_path / "meds", labels=tmp_path / "labels")
    # asked two days later, of the same answers: after what makes the row positive, and after what only looks like it
    late = tmp_path / "late"
    for name in SAME_CODE:
        told = pl.read_parquet(tmp_path / "labels" / name / "labels.parquet")
        told = told.filter(prediction_time=day[0]).with_columns(prediction_time=pl.lit(day[3]))
        (late / name).mkdir(parents=True)
        told.write_parquet(late / name / "labels.parquet")
    (late / "own").mkdir()
    told.write_parquet(late / "own" / "labels.parquet")
    done = audit(Given(meds=tmp_path / "meds", labels=late, task_files=files), only)
    (outcome,) = (c for c in done.checked if c.check.name == "outcome")
    counts = {(f.where, f.severity): f.count for f in outcome.findings}
    assert counts == {
        **{(name, "error"): 40 if name == "value" else 20 for name in SAME_CODE},
        ("own", "warning"): 40,
    }


def test_one_code_that_tells(clean: Path, tmp_path: Path) -> None:
    rows = labelled(clean).filter("boolean_value")

    def plant(events: pl.DataFrame) -> pl.DataFrame:
        time = pl.col("prediction_time") - timedelta(hours=3)
        more = rows.select("subject_id", time=time, code=pl.lit("BILLING//READMITTED"))
        return pl.concat(
            [events, more.cast({"subject_id": events.schema["subject_id"]})], how="diagonal"
        )

    labels = labels_of(tmp_path / "labels", labelled(clean))
    bad = found(meds=moved(clean, tmp_path / "meds", plant), labels=labels)
    assert bad.keys() == {"alone"}
    assert "BILLING//READMITTED" in bad["alone"][0]


def test_a_feature_that_is_the_label(clean: Path, tmp_path: Path) -> None:
    features = read_features(clean / "states")
    index = features.index.join(
        labelled(clean, "long_stay").select(*KEY, "boolean_value"), on=KEY, how="inner"
    )
    matrix = features.mapped.take(index["row"].to_numpy()).copy()
    matrix[:, 5] = index["boolean_value"].to_numpy()
    with new_artifact(tmp_path / "leaky", FEATURES) as partial:
        write_features(partial, matrix, index.select(*KEY, "split").to_arrow())
        seal(partial, FEATURES, producer="somebody 1", config={})
    bad = found(
        labels=labels_of(tmp_path / "labels", labelled(clean, "long_stay")),
        features={"leaky": tmp_path / "leaky"},
    )
    assert bad == {"alone": ["one feature tells the outcome alone, in train and beyond: column 5 (1.000) (AUROC)"]}  # fmt: skip


def test_a_vocabulary_of_all_subjects(clean: Path, tmp_path: Path) -> None:
    run(
        ehr_tokenize.cli.main,
        "--meds",
        resplit(clean, tmp_path / "all"),
        "--out",
        tmp_path / "fitted",
    )
    run(ehr_tokenize.cli.main, "--meds", clean / "meds", "--tokenizer", tmp_path / "fitted", "--out", tmp_path / "tokens")  # fmt: skip
    bad = found(meds=clean / "meds", tokens=tmp_path / "tokens")
    assert bad.keys() == {"vocabulary"}
    assert len(bad["vocabulary"]) == 2  # how often tokens occur, and bins


def test_bins_of_counts_of_all_subjects(clean: Path, tmp_path: Path) -> None:
    made = counts(resplit(clean, tmp_path / "all"), clean / "labels", tmp_path / "made")
    features, manifest = read_features(made), load_manifest(made)
    splits = pl.read_parquet(clean / "meds/metadata/subject_splits.parquet")
    index = features.index.drop("split").join(splits, on="subject_id", maintain_order="left")
    with new_artifact(tmp_path / "counts", FEATURES) as partial:
        write_features(partial, features.matrix, index.select(*KEY, "split").to_arrow())
        shutil.copy(made / "columns.json", partial)
        seal(partial, FEATURES, producer=manifest.producer, config=manifest.config, inputs=manifest.inputs)  # fmt: skip
    only = AuditConfig(rows=12, checks=("bins", "columns"))
    bad = found(
        only, meds=clean / "meds", labels=clean / "labels", features={"counts": tmp_path / "counts"}
    )
    assert bad.keys() == {"bins", "columns"}


def test_a_subject_under_two_ids(clean: Path, tmp_path: Path) -> None:
    splits = pl.read_parquet(clean / "meds/metadata/subject_splits.parquet")
    busy = (
        pl.read_parquet(clean / "meds/data/**/*.parquet")
        .group_by("subject_id")
        .len()
        .sort("len", descending=True)
    )
    who = busy.join(splits.filter(split="train"), on="subject_id")["subject_id"][0]
    other = splits.filter(split="held_out")["subject_id"][0]

    def plant(events: pl.DataFrame) -> pl.DataFrame:
        again = events.filter(subject_id=who).with_columns(
            pl.lit(other).cast(events.schema["subject_id"]).alias("subject_id"),
            pl.col("time") + timedelta(days=37),
        )
        return pl.concat([events.filter(pl.col("subject_id") != other), again.head(-3)])

    bad = found(meds=moved(clean, tmp_path / "meds", plant))
    assert bad.keys() == {"duplicates"}
    assert bad["duplicates"][0].startswith("1 pairs")
    assert bad["duplicates"][0].endswith("1 of them lie across splits")


def test_prediction_times_at_which_nobody_could_have_acted(clean: Path, tmp_path: Path) -> None:
    late = labelled(clean).with_columns(pl.col("prediction_time") + timedelta(days=4000))
    labels = labels_of(tmp_path / "late", late.with_columns(boolean_value=pl.lit(value=False)))
    assert found(meds=clean / "meds", labels=labels).keys() == {"times"}
    stays = pl.read_parquet(clean / "labels/long_stay/labels.parquet").sort(KEY)
    after = stays.with_columns(pl.col("prediction_time") - timedelta(days=3))
    bad = found(AuditConfig(checks=("times",)), meds=clean / "meds", labels=labels_of(tmp_path / "out", after, "long_stay"))  # fmt: skip
    assert any("outside every stay" in what for what in bad["times"])


def test_shots_of_held_out_rows(clean: Path, tmp_path: Path) -> None:
    rows = labelled(clean)
    leak = rows.filter(split="held_out").head(2).with_columns(split=pl.lit("train"))
    made = shots(tmp_path / "shots", pl.concat([leak, rows]))
    assert found(shots=made, meds=clean / "meds").keys() == {"shots"}


def test_predictions_of_training_rows(clean: Path, tmp_path: Path) -> None:
    rows = labelled(clean).with_columns(p=pl.col("subject_id").hash() % 7 / 7)
    made = predictions(tmp_path / "predictions", rows)
    assert found(predictions={"tuned": made}, meds=clean / "meds").keys() == {"fitted_on"}


def test_what_is_predicted_of_tuning_rows_to_recalibrate_by_is_no_leak(
    clean: Path, tmp_path: Path
) -> None:
    rows = labelled(clean).with_columns(p=pl.col("subject_id").hash() % 7 / 7)
    made = predictions(tmp_path / "predictions", rows.filter(split="held_out"))
    beside = predictions(tmp_path / "beside", rows.filter(split="tuning"))
    shutil.copytree(beside / TASK, made / "tuning" / TASK)
    (made / "tuning" / TASK / "held_out.parquet").rename(made / "tuning" / TASK / "tuning.parquet")
    with new_artifact(tmp_path / "whole", PREDICTIONS) as partial:
        for folder in (TASK, "tuning"):
            shutil.copytree(made / folder, partial / folder)
        seal(partial, PREDICTIONS, producer="test 0", config={})
    assert not found(predictions={"tuned": tmp_path / "whole"}, meds=clean / "meds")


def test_predictions_that_are_the_label(clean: Path, tmp_path: Path) -> None:
    rows = labelled(clean).filter(split="held_out")
    rows = pl.concat(
        [rows.with_columns(boolean_value=pl.lit(value=v)) for v in (True, False)]
    ).unique(KEY, keep="any")
    rows = rows.with_columns(boolean_value=pl.int_range(pl.len()) % 2 == 0)
    made = predictions(
        tmp_path / "predictions", rows.with_columns(p=pl.col("boolean_value").cast(float))
    )
    assert found(predictions={"told": made}, meds=clean / "meds").keys() == {"perfect"}


def test_features_of_another_data_set(clean: Path, tmp_path: Path) -> None:
    other = moved(clean, tmp_path / "meds", lambda events: events.head(-1))
    bad = found(AuditConfig(checks=("lineage",)), meds=other, labels=clean / "labels", features={"counts": clean / "counts"}, tokens=clean / "tokens")  # fmt: skip
    assert len(bad["lineage"]) == 3  # labels, tokens and features


def test_features_with_other_delays(clean: Path, tmp_path: Path) -> None:
    delay = json.dumps({"^DIAGNOSIS": 30.0})
    run(ehr_eval.cli.main, "counts", "--meds", clean / "meds", "--labels", clean / "labels", "-s", f"delay={delay}", "--out", tmp_path / "late")  # fmt: skip
    given: dict[str, Any] = {"features": {"counts": clean / "counts", "late": tmp_path / "late"}}
    assert "knows events earlier" in found(AuditConfig(checks=("lineage",)), **given)["lineage"][0]


def test_a_row_with_two_answers(clean: Path, tmp_path: Path) -> None:
    rows = labelled(clean)
    twice = rows.head(4).with_columns(~pl.col("boolean_value"))
    labels = labels_of(tmp_path / "labels", pl.concat([rows, twice]))
    assert found(meds=clean / "meds", labels=labels) == {"contradictions": ["4 rows (subject and time) are there with both answers"]}  # fmt: skip


def test_splits_by_the_outcome(clean: Path, tmp_path: Path) -> None:
    rows = labelled(clean, "long_stay")
    kept = rows.filter((pl.col("split") == "train") | pl.col("boolean_value"))
    labels = labels_of(tmp_path / "labels", kept, "long_stay")
    assert found(meds=clean / "meds", labels=labels).keys() == {"prevalence"}


def test_tokens_known_before_their_event(clean: Path, tmp_path: Path) -> None:
    manifest = load_manifest(clean / "tokens")
    with new_artifact(tmp_path / "tokens", TOKENS) as partial:
        for name in manifest.files:
            (partial / name).parent.mkdir(exist_ok=True)
            table = clean / "tokens" / name
            if "/" not in name:
                shutil.copy(table, partial / name)
                continue
            whole = pq.read_table(table)
            early = pl.col("time").list.eval(pl.element() - timedelta(hours=5))
            frame = pl.DataFrame(pl.from_arrow(whole)).with_columns(early)
            pq.write_table(frame.to_arrow().cast(whole.schema), partial / name)
        seal(partial, TOKENS, producer=manifest.producer, config=manifest.config, inputs=manifest.inputs)  # fmt: skip
    assert found(meds=clean / "meds", tokens=tmp_path / "tokens").keys() == {"early"}


def test_a_finding_ends_with_exit_code_1_and_names_subjects_only_when_asked(
    clean: Path, tmp_path: Path
) -> None:
    rows = labelled(clean)
    labels = labels_of(
        tmp_path / "labels", pl.concat([rows, rows.head(1).with_columns(~pl.col("boolean_value"))])
    )
    who = str(rows["subject_id"][0])
    for flag, shown in (((), False), (("--show-ids",), True)):
        words = ["audit", "--labels", labels, "--out", tmp_path / f"audit{shown}", *flag]
        done = CliRunner().invoke(ehr_eval.cli.main, [str(w) for w in words])
        assert done.exit_code == 1
        assert (f": {who}" in done.output) == shown
        findings = pl.read_parquet(tmp_path / f"audit{shown}" / "findings.parquet")
        assert findings["subject_ids"].to_list() == [[int(who)] if shown else []]
    bad = CliRunner().invoke(ehr_eval.cli.main, ["audit", "--out", str(tmp_path / "x")])
    assert bad.exit_code == 2
    assert "nothing to audit" in bad.output


def test_a_check_is_added_as_the_guide_says(
    clean: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    guide = (Path(__file__).parents[1] / "docs/extend.md").read_text(encoding="utf-8")
    part = guide[guide.index("## A check") : guide.index("## A tracker")]
    table = dict(checks.CHECKS)
    scope: dict[str, Any] = {"CHECKS": table, "Check": checks.Check}
    for block in re.findall(r"```python\n(.*?)```", part, re.DOTALL):
        exec(block, scope)
    monkeypatch.setattr(run_module, "CHECKS", table)
    births = pl.col("code").str.contains("^MEDS_BIRTH")

    def plant(events: pl.DataFrame) -> pl.DataFrame:
        older = pl.when(births).then(pl.col("time") - timedelta(days=200 * 365)).otherwise("time")
        return events.with_columns(time=older)

    labels = labels_of(tmp_path / "labels", labelled(clean))
    only = AuditConfig(checks=("ages",))
    assert not found(only, meds=clean / "meds", labels=labels)
    old = found(only, meds=moved(clean, tmp_path / "meds", plant), labels=labels)
    assert old == {"ages": [f"{labelled(clean).height:,} rows are at more than 120 years"]}
