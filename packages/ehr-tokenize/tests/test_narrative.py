"""Narratives: worked cases in `narratives/*/{in,out}.yaml`, and what holds of any record."""

import json
from datetime import date, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest
import yaml
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from ehr_tokenize.build.build import tokenize
from ehr_tokenize.cli import main
from ehr_tokenize.config import TokenizeConfig
from ehr_tokenize.narrative.buckets import SCHEMA
from ehr_tokenize.narrative.config import NarrateConfig
from ehr_tokenize.narrative.corpus import narrate_records
from ehr_tokenize.narrative.driver import narrate
from ehr_tokenize.narrative.pieces import narrate_pieces
from ehr_tokenize.narrative.text import Record, narrate_record, say_value
from ehr_tracking.arrow.parquet import DAY_US
from ehr_tracking.config import ConfigError, load_config, validate
from ehr_tracking.contracts import LABELS, NARRATIVES, ContractError
from ehr_tracking.errors import UserError
from ehr_tracking.manifest import load_manifest, read_manifest, seal, source, verify

CASES = sorted(p.parent for p in Path(__file__).parent.glob("narratives/*/in.yaml"))


def at(text):
    """`2020-01-31`, with a time or without; YAML reads the former as a date."""
    if text is None or isinstance(text, datetime):
        return text
    return datetime.fromisoformat(text.isoformat() if isinstance(text, date) else text)


def rows(subject, events):
    return [(subject, at(e[0]), *e[1:], *[None] * (5 - len(e))) for e in events]


def frame(events):
    return pl.DataFrame(events, schema=SCHEMA, orient="row")


def write_labels(path, keys, values=None, name="labels.parquet"):
    """Keys (subject, time) as labels of the task that the path ends in."""
    path.mkdir(parents=True, exist_ok=True)
    labels = pl.DataFrame(
        [(s, at(t)) for s, t in keys],
        schema={"subject_id": pl.Int64, "prediction_time": pl.Datetime("us")},
        orient="row",
    )
    if values is not None:
        labels = labels.with_columns(boolean_value=pl.Series(values, dtype=pl.Boolean))
    labels.write_parquet(path / name)
    return path


def hold_to_contract(path):
    NARRATIVES.check({f.name: str(f.type) for f in pq.read_schema(path)}, where=path.name)


def texts(out, task="task"):
    return pl.read_parquet(out / task / "narratives.parquet")["text"].to_list()


@pytest.mark.parametrize("case", CASES, ids=lambda p: p.name)
def test_worked_case(case, write_meds, tmp_path, monkeypatch):
    given_, expected = (yaml.safe_load((case / f"{x}.yaml").read_text()) for x in ("in", "out"))
    monkeypatch.chdir(tmp_path)
    for name, table in given_.get("tables", {}).items():
        Path(name).write_text(table, encoding="utf-8")
    meds = write_meds(frame(rows(7, given_["events"])))
    described = given_.get("descriptions", {}), given_.get("parents", {})
    pl.DataFrame(
        [
            (c, described[0].get(c), described[1].get(c))
            for c in sorted({*described[0], *described[1]})
        ],
        schema={"code": pl.String, "description": pl.String, "parent_codes": pl.List(pl.String)},
        orient="row",
    ).write_parquet(meds / "metadata" / "codes.parquet")
    labels = write_labels(tmp_path / "labels" / "task", [(7, t) for t in given_["predict"]])
    config = validate(NarrateConfig, given_.get("config", {}), where="case")
    narrate(meds, labels.parent, tmp_path / "out", config)
    assert texts(tmp_path / "out") == expected


def two(write_meds, late=(), name="meds"):
    """A case and a control with the same past; `late` is added to both after 2020-03-01."""
    past = [
        (None, "GENDER//F"),
        ("1960-01-01", "MEDS_BIRTH"),
        ("2020-01-01", "ICD10CM//I10"),
        ("2020-02-15", "ICD10CM//R63"),
        ("2020-02-29", "ICD10CM//C34"),
    ]
    return write_meds(frame(rows(1, [*past, *late]) + rows(2, [*past, *late])), name=name)


@pytest.mark.parametrize("gap_days", [0, 5, 30])
def test_controls_are_cut_like_cases(write_meds, tmp_path, gap_days):
    keys = [(1, "2020-03-01"), (2, "2020-03-01")]
    labels = write_labels(tmp_path / "labels" / "task", keys, [True, False])
    narrate(two(write_meds), labels, tmp_path / "out", NarrateConfig(gap_days=gap_days))
    table = pl.read_parquet(tmp_path / "out" / "task" / "narratives.parquet")
    assert table["boolean_value"].to_list() == [True, False]
    assert table["text"].n_unique() == table["events"].n_unique() == 1
    assert table["events"].to_list() == [{0: 3, 5: 2, 30: 1}[gap_days]] * 2


@pytest.mark.parametrize("gap_days", [0, 10])
def test_the_future_changes_no_byte(write_meds, tmp_path, gap_days):
    labels = write_labels(tmp_path / "task", [(1, "2020-03-01"), (2, "2020-02-20")], [True, False])
    late = [
        ("2020-03-01 00:00:01", "INSURANCE//Other"),
        ("2021-01-01", "LAB//LOINC//1//mg", 4.0),
        ("2022-01-01", "MEDS_DEATH"),
    ]
    config = NarrateConfig(gap_days=gap_days, dates="relative", max_words=12)
    for name, future in (("a", ()), ("b", late)):
        narrate(two(write_meds, future, name), labels, tmp_path / f"out-{name}", config)
    one, other = (tmp_path / f"out-{n}" / "task" / "narratives.parquet" for n in "ab")
    assert one.read_bytes() == other.read_bytes()
    assert pl.read_parquet(one)["events"].sum() > 0


DELAYED = [
    ("2020-01-10", "DIAGNOSIS//A"),
    ("2020-01-15", "LAB//X"),
    ("2020-02-09", "LAB//Y"),
    ("2020-02-20", "LAB//Z"),
]


def test_what_is_delayed_is_told_when_it_is_known_and_in_that_order(write_meds, tmp_path):
    times = ["2020-01-20", "2020-02-08 23:59:59", "2020-02-09", "2020-03-01"]
    labels = write_labels(tmp_path / "task", [(1, t) for t in times])
    config = NarrateConfig(delay={"^DIAGNOSIS": 30}, separator=";", prefixes={"LAB": ""})
    narrate(write_meds(frame(rows(1, DELAYED))), labels, tmp_path / "out", config)
    # the diagnosis of 10 January is known from 9 February on, and stands before the lab of that day
    assert texts(tmp_path / "out") == ["X", "X", "X;A;Y", "X;A;Y;Z"]
    manifest = load_manifest(tmp_path / "out")
    assert manifest.config["delay"] == {"^DIAGNOSIS": 30.0}


def test_texts_tell_what_the_tokens_show_at_the_same_time(write_meds, tmp_path):
    meds = write_meds(frame(rows(1, DELAYED)), splits={1: "train"})
    config = TokenizeConfig(delay={"^DIAGNOSIS": 30})
    tokenize(meds, tmp_path / "tokens", config)
    times = ["2020-01-10", "2020-01-20", "2020-02-09", "2020-02-10", "2020-02-20"]
    labels = write_labels(tmp_path / "task", [(1, t) for t in times])
    narrate(meds, labels, tmp_path / "out", tokens=tmp_path / "tokens")
    names = pl.read_parquet(tmp_path / "tokens" / "vocab.parquet")["code"].to_list()
    record = pl.read_parquet(tmp_path / "tokens" / "train").row(0, named=True)
    for time, text in zip(times, texts(tmp_path / "out"), strict=True):
        seen = [
            names[token]
            for token, known in zip(record["token"], record["time"], strict=True)
            if known is not None and known <= at(time) and names[token] is not None
        ]
        assert text.split(", ") == ([code.split("//")[1] for code in seen] or [""])
    assert load_manifest(tmp_path / "out").inputs["tokens"] == source(tmp_path / "tokens")


def test_delays_that_contradict_are_refused(write_meds, tmp_path):
    meds = write_meds(frame(rows(1, DELAYED)), splits={1: "train"})
    tokenize(meds, tmp_path / "tokens", TokenizeConfig(delay={"^DIAGNOSIS": 30}))
    labels = write_labels(tmp_path / "task", [(1, "2020-03-01")])
    with pytest.raises(UserError, match=r"delay is .* in the config, but .* in .*tokens") as error:
        config = NarrateConfig(delay={"^DIAGNOSIS": 7})
        narrate(meds, labels, tmp_path / "out", config, tokens=tmp_path / "tokens")
    assert "\n" not in str(error.value)


def test_bytes_do_not_depend_on_shards_or_on_the_size_of_a_bucket(
    write_meds, tmp_path, cohort, monkeypatch
):
    subjects = [frame([(*r, None, None) for r in rows_]) for rows_ in cohort(40)]
    keys = [(s, f"{y}-06-01") for s in range(40) for y in (1970, 1990, 2020)]
    labels = write_labels(tmp_path / "labels" / "task", keys, [s % 3 == 0 for s, _ in keys])
    one = write_meds(pl.concat(subjects), name="one")
    many = write_meds(*(pl.concat(subjects[i::7][::-1]) for i in range(7)), name="many")
    narrate(one, labels, tmp_path / "a")
    monkeypatch.setattr("ehr_tokenize.narrative.buckets._BUCKET_ROWS", 90)
    monkeypatch.setattr("ehr_tokenize.narrative.buckets._BATCH_ROWS", 37)
    narrate(many, labels, tmp_path / "b")
    narrate(one, labels, tmp_path / "c")
    files = [(tmp_path / x / "task" / "narratives.parquet").read_bytes() for x in "abc"]
    assert files[0] == files[1] == files[2]
    again = tmp_path / "again"
    narrate(one, labels, again)
    assert (again / "manifest.json").read_bytes() == (tmp_path / "a" / "manifest.json").read_bytes()


def test_each_task_gets_its_own_rows_and_labels_and_the_artifact_is_sealed(write_meds, tmp_path):
    labels = tmp_path / "labels"
    write_labels(labels / "a", [(2, "2020-03-01"), (1, "2020-03-01")], [True, False])
    write_labels(labels / "icu" / "b", [(1, "2019-01-01")], name="0.parquet")
    write_labels(labels / "icu" / "b", [(1, "2020-03-01")], name="1.parquet")
    splits = {1: "train", 2: "held_out"}
    past = rows(1, [("2020-01-01", "A")]) + rows(2, [("2020-01-01", "B")])
    done = narrate(write_meds(frame(past), splits=splits), labels, tmp_path / "out")
    a, b = (pl.read_parquet(tmp_path / "out" / t / "narratives.parquet") for t in ("a", "icu/b"))
    assert a.select("subject_id", "split", "text", "boolean_value").rows() == [
        (1, "train", "A", False),
        (2, "held_out", "B", True),
    ]
    assert b["text"].to_list() == ["", "A"]
    assert "boolean_value" not in b.columns
    assert [(t.task, t.rows, t.empty) for t in done.tasks] == [("a", 2, 0), ("icu/b", 2, 1)]
    assert done.unknown == ("A", "B")
    manifest = read_manifest(tmp_path / "out", NARRATIVES, reader="test")
    assert set(manifest.inputs) == {"meds", "labels"}
    assert manifest.inputs["meds"].contract == "meds/0.4"
    assert verify(tmp_path / "out") == []
    hold_to_contract(tmp_path / "out" / "a" / "narratives.parquet")


def test_a_manifest_names_tables_without_their_path(write_meds, tmp_path):
    table = tmp_path / "terms.csv"
    table.write_text("code,term\nA,apple\n")
    labels = write_labels(tmp_path / "task", [(1, "2020-03-01")])
    config = validate(NarrateConfig, {"lookups": [{"table": str(table)}]}, where="test")
    meds = write_meds(frame(rows(1, [("2020-01-01", "A")])))
    narrate(meds, labels, tmp_path / "out", config)
    text = (tmp_path / "out" / "manifest.json").read_text()
    assert str(tmp_path) not in text
    assert json.loads(text)["config"]["lookups"] == [{"table": "terms.csv", "prefix": ""}]
    assert texts(tmp_path / "out") == ["apple"]


def refused(write_meds, tmp_path, labels, events=None, config=None, match=""):
    meds = write_meds(frame(events or rows(1, [("2020-01-01", "A")])))
    with pytest.raises(UserError, match=match) as caught:
        narrate(meds, labels, tmp_path / "out", config)
    assert not (tmp_path / "out").exists()
    assert "\n" not in str(caught.value)
    return caught


def test_a_missing_prediction_time_is_refused_by_file_and_row(write_meds, tmp_path):
    labels = write_labels(tmp_path / "task", [(1, "2020-03-01"), (1, None)], [True, False])
    caught = refused(
        write_meds, tmp_path, labels, match=r"labels.parquet row 1: prediction_time is null"
    )
    assert caught.type is ContractError


def test_sealed_labels_that_were_changed_are_refused(write_meds, tmp_path):
    labels = write_labels(tmp_path / "labels" / "task", [(1, "2020-03-01")], [True])
    seal(labels.parent, LABELS, producer="test 0", config={})
    write_labels(labels, [(1, "2020-03-01")], [False])
    match = r"task/labels\.parquet was changed: its SHA-256 differs"
    refused(write_meds, tmp_path, labels, match=match)


def test_contradicting_labels_are_refused(write_meds, tmp_path):
    labels = write_labels(tmp_path / "task", [(1, "2020-03-01")] * 2, [True, False])
    refused(write_meds, tmp_path, labels, match="contradicting labels of subject 1 at 2020-03-01")


def test_labels_of_absent_subjects_are_refused(write_meds, tmp_path):
    labels = write_labels(tmp_path / "task", [(1, "2020-03-01"), (9, "2020-03-01")])
    for i, splits in enumerate(({1: "train", 9: "train"}, {1: "train"})):
        meds = write_meds(frame(rows(1, [("2020-01-01", "A")])), splits=splits, name=f"meds{i}")
        with pytest.raises(UserError, match=r"1 subjects that .* does not have, the first 9"):
            narrate(meds, labels, tmp_path / "out")


def test_aces_labels_with_unused_columns_are_read(write_meds, tmp_path):
    (tmp_path / "task").mkdir()
    pl.DataFrame(
        {
            "subject_id": [1],
            "prediction_time": [datetime(2020, 3, 1)],  # noqa: DTZ001
            "boolean_value": [True],
            "integer_value": pl.Series([None], dtype=pl.Int64),
            "float_value": pl.Series([None], dtype=pl.Float64),
            "categorical_value": pl.Series([None], dtype=pl.String),
        }
    ).write_parquet(tmp_path / "task" / "0.parquet")
    narrate(two(write_meds), tmp_path / "task", tmp_path / "out")
    table = pl.read_parquet(tmp_path / "out" / "task" / "narratives.parquet")
    assert [c for c in table.columns if c.endswith("_value")] == ["boolean_value"]


def test_a_subject_in_two_places_is_refused(write_meds, tmp_path):
    labels = write_labels(tmp_path / "task", [(1, "2020-03-01")])
    apart = rows(1, [("2020-01-01", "A")]) + rows(2, [("2020-01-01", "A")])
    events = [*apart, *rows(1, [("2020-01-02", "B")])]
    refused(write_meds, tmp_path, labels, events, match=r"row 2: subject 1 begins again")


@pytest.mark.parametrize(
    ("unit", "told"), [(pl.Categorical, "A 3 mg"), (pl.Int64, "A 3"), (None, "A 3")]
)
def test_a_unit_column_counts_if_it_is_text(write_meds, tmp_path, unit, told):
    events = frame(rows(1, [("2020-01-01", "A", 3.0, None, "mg")]))
    strict = unit != pl.Int64
    events = (
        events.with_columns(pl.col("unit").cast(unit, strict=strict))
        if unit
        else events.drop("unit")
    )
    labels = write_labels(tmp_path / "task", [(1, "2020-03-01")])
    narrate(write_meds(events), labels, tmp_path / "out")
    assert texts(tmp_path / "out") == [told]


def test_rows_out_of_order_are_refused(write_meds, tmp_path):
    labels = write_labels(tmp_path / "task", [(1, "2020-03-01")])
    events = rows(1, [("2020-01-02", "A"), ("2020-01-01", "B")])
    refused(
        write_meds, tmp_path, labels, events, match=r"row 1: time is before that of the row above"
    )


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (b"code,name\nA,b\n", r"column term is missing; its header has 'code', 'name'"),
        (b"code,term\nA\n", r"row 2: 1 columns, need 2"),
        (b"code,term\nA,\n", r"row 2: term is empty"),
        (b"code,term\nA,b\nA,c\n", r"row 3: code 'A' is 'c', but row 2 has 'b'"),
        (b"code,term\nA,caf\xe9\n", r"byte 15 is not UTF-8"),
        (None, "no such file"),
    ],
)
def test_a_bad_lookup_table_is_refused(write_meds, tmp_path, table, message):
    path = tmp_path / "terms.csv"
    if table is not None:
        path.write_bytes(table)
    labels = write_labels(tmp_path / "task", [(1, "2020-03-01")])
    config = validate(NarrateConfig, {"lookups": [{"table": str(path)}]}, where="test")
    refused(write_meds, tmp_path, labels, config=config, match=message)


def test_values_are_told_by_the_bins_of_a_tokenizer(write_meds, tmp_path):
    past = [("2020-01-01", "LAB//K//mmol/L", float(v)) for v in range(8)]
    past += [("2020-01-02", "LAB//CL//mmol/L", 3.0), ("2020-01-03", "LAB//K//mmol/L", np.nan)]
    meds = write_meds(frame(rows(1, past)))
    config = {"numeric": {"n_bins": 4, "min_values": 8}}
    tokenize(meds, tmp_path / "tokens", validate(TokenizeConfig, config, where="test"))
    labels = write_labels(tmp_path / "task", [(1, "2020-03-01")])
    narrate(meds, labels, tmp_path / "out", NarrateConfig(bins=tmp_path / "tokens"))
    assert texts(tmp_path / "out") == [
        "K below 2 mmol/L, K below 2 mmol/L, K 2 to 4 mmol/L, K 2 to 4 mmol/L, K 4 to 6 mmol/L, "
        "K 4 to 6 mmol/L, K at least 6 mmol/L, K at least 6 mmol/L, CL 3 mmol/L, K"
    ]
    manifest = read_manifest(tmp_path / "out", NARRATIVES, reader="test")
    assert manifest.inputs["bins"].contract == "tokens/1"
    assert str(tmp_path) not in (tmp_path / "out/manifest.json").read_text()


RECIPE = Path(__file__).parents[3] / "configs" / "narrate" / "deciles.yaml"


def test_the_wording_of_deciles(write_meds, tmp_path):
    """Twenty subjects of train: values 0 to 19, ages at the end of the record 40 to 59.

    Edge k is the value of rank 2k: the fifth decile of values holds 8 and 9, that of ages 48 and 49.
    """
    events = []
    for i in range(22):  # two more are held out: they take no part in what is fitted
        value, born = (float(i), 1980 - i) if i < 20 else (8.0, 1972)
        past = [(None, "GENDER//F" if i % 2 else "GENDER//M"), (f"{born}-01-01", "MEDS_BIRTH")]
        past += [("2020-01-01", "MEDICAL//C10"), ("2020-01-02", "LAB//GLUCOSE", value, None, "mg")]
        events += rows(
            i, [*past, ("2020-01-03", "LAB//RARE", 5.0, None, "mg")][: 5 if i > 20 else 4]
        )
    splits = {i: "train" if i < 20 else "held_out" for i in range(22)}
    meds = write_meds(frame(events), splits=splits)
    scheme = {"numeric": {"n_bins": 10, "min_values": 20}}
    tokenize(meds, tmp_path / "tokens", validate(TokenizeConfig, scheme, where="test"))
    tables = {"MEDICAL//C10": "Diseases of the circulatory system", "LAB//GLUCOSE": "Glucose"}
    override = [f"bins={tmp_path / 'tokens'}", *(f"terms.{c}={t}" for c, t in tables.items())]
    config = load_config(NarrateConfig, RECIPE, override)
    labels = write_labels(tmp_path / "task", [(i, "2020-01-03") for i in (0, 9, 19, 20, 21)])
    narrate(meds, labels, tmp_path / "out", config)
    told = "{}, {}, Diseases of the circulatory system, Glucose {}"
    assert texts(tmp_path / "out") == [
        told.format("AGE_decile 1", "MALE", 1),
        told.format("AGE_decile 5", "FEMALE", 5),
        told.format("AGE_decile 10", "FEMALE", 10),
        told.format("AGE_decile 5", "MALE", 5),
        told.format("AGE_decile 5", "FEMALE", 5) + ", RARE 5 mg",
    ]
    narrate_records(meds, tmp_path / "corpus", config)
    manifests = [load_manifest(tmp_path / x).config for x in ("out", "corpus")]
    assert manifests[0]["age_edges"] == manifests[1]["age_edges"]
    assert np.round(manifests[0]["age_edges"]).tolist() == [42, 44, 46, 48, 50, 52, 54, 56, 58]
    assert texts(tmp_path / "corpus", "records")[9] == told.format("AGE_decile 5", "FEMALE", 5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"scheme": {"kind": "cookbook"}}, "bins: .* has bins by unit; fit one"),
        ({"maps": [{"entries": {"A": "B"}}]}, "bins: .* maps codes to others; fit one"),
    ],
)
def test_bins_of_other_codes_or_by_unit_are_refused(write_meds, tmp_path, settings, message):
    labels = write_labels(tmp_path / "task", [(1, "2020-03-01")])
    meds = write_meds(frame(rows(1, [("2020-01-01", "A")])), name="train")
    tokenize(meds, tmp_path / "tokens", validate(TokenizeConfig, settings, where="test"))
    config = NarrateConfig(bins=tmp_path / "tokens")
    refused(write_meds, tmp_path, labels, config=config, match=message)
    config = NarrateConfig(bins=tmp_path / "none")
    with pytest.raises(UserError, match="holds no tokenizer"):
        narrate(meds, labels, tmp_path / "out", config)


@pytest.mark.parametrize(
    "override",
    [
        "gap_days=-1",
        "exclude=['(']",
        "unit_codes=['a']",
        "separator=''",
        "gap=3",
        "age_edges=[1, 2]",
    ],
)
def test_a_wrong_setting_is_refused(override):
    with pytest.raises(ConfigError):
        load_config(NarrateConfig, None, [override])


def test_the_command_says_what_it_wrote_and_does_not_overwrite(write_meds, tmp_path):
    labels = write_labels(tmp_path / "task", [(1, "2020-03-01"), (2, "2020-03-01")])
    arguments = ["narrate", "--meds", str(two(write_meds)), "--labels", str(labels)]
    arguments += ["--out", str(tmp_path / "out"), "-s", "max_words=5"]
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 0, done.output
    assert "2 narratives" in done.output
    assert texts(tmp_path / "out") == ["age 60 years, female, C34"] * 2
    assert CliRunner().invoke(main, arguments).exit_code == 2
    assert CliRunner().invoke(main, [*arguments, "--overwrite"]).exit_code == 0


times = st.lists(st.integers(0, 20), max_size=25).map(sorted)


@given(
    days=times,
    words=st.lists(st.integers(1, 4), min_size=25, max_size=25),
    statics=st.lists(st.sampled_from(["female", "born here"]), max_size=2, unique=True),
    ask=st.integers(0, 20),
    gap=st.integers(0, 5),
    limit=st.integers(1, 40),
    by=st.sampled_from(["max_words", "max_characters"]),
    separator=st.sampled_from([", ", "|", " ; ", "\n"]),
    dates=st.sampled_from(["none", "relative", "absolute"]),
)
def test_the_newest_visible_events_that_fit_are_told(
    days, words, statics, ask, gap, limit, by, separator, dates
):
    """Against the slow way: build every suffix and take the longest within the limit."""
    text = [" ".join([f"e{i}"] * words[i]) for i in range(len(days))]
    record = Record(None, statics, [], np.array(days, np.int64) * DAY_US, text)
    config = NarrateConfig(**{by: limit}, gap_days=gap, separator=separator, dates=dates)
    told = narrate_record(record, ask * DAY_US, config)

    visible = [i for i, d in enumerate(days) if (d < ask - gap if gap else d <= ask)]

    def build(suffix):
        pieces, before = list(statics), None
        for i in suffix:
            head = ""
            if dates != "none" and days[i] != before:
                n = ask - days[i]
                ago = "same day" if n == 0 else f"{n} day{'s' if n != 1 else ''} before"
                head = (
                    str(date(1970, 1, 1) + timedelta(days[i])) if dates == "absolute" else ago
                ) + ": "
            before = days[i]
            pieces.append(head + text[i])
        return separator.join(pieces)

    def size(s):
        return len(s.split()) if by == "max_words" else len(s)

    fits = [n for n in range(len(visible) + 1) if size(build(visible[n:])) <= limit]
    first = min(fits, default=len(visible))
    assert told.text == build(visible[first:])
    assert (told.events, told.truncated) == (len(visible) - first, first)


@given(
    days=times,
    words=st.lists(st.integers(1, 4), min_size=25, max_size=25),
    moves=st.lists(st.integers(0, 22), max_size=3).map(sorted),
    limit=st.integers(1, 30),
    dates=st.sampled_from(["none", "relative", "absolute"]),
)
def test_pieces_tell_each_event_once_and_read_like_narratives(days, words, moves, limit, dates):
    text = [" ".join([f"e{i}"] * words[i]) for i in range(len(days))]
    ahead = [(d * DAY_US, "CITY", f"city {d}") for d in moves]
    record = Record(-1, ["female"], ahead, np.array(days, np.int64) * DAY_US, text)
    config = NarrateConfig(max_words=limit, dates=dates)
    pieces = narrate_pieces(record, config)
    end = max([-1, *(d * DAY_US for d in [*days, *moves])])
    assert sum(p.events for p in pieces) == len(days)
    assert [x for p in pieces for x in p.text.replace(", ", " ").split() if x.startswith("e")] == [
        x for t in text for x in t.split()
    ]
    for piece in pieces:
        assert piece.text.startswith("age 0 years, female")
        assert len(piece.text.split()) <= limit or piece.events <= 1
    last = narrate_record(record, end, config)
    assert last == pieces[-1] or (last.events, pieces[-1].events) == (0, 1)


def test_a_corpus_holds_whole_records_of_train_and_tuning_alone(
    write_meds, tmp_path, cohort, monkeypatch
):
    made = cohort(12)
    subjects = [frame([(*r, None, None) for r in rows_]) for rows_ in made]
    splits = {s: ("train", "tuning", "held_out")[s % 3] for s in range(12)}
    config = NarrateConfig(max_words=12)
    done = narrate_records(write_meds(*subjects, splits=splits), tmp_path / "a", config)
    monkeypatch.setattr("ehr_tokenize.narrative.buckets._BUCKET_ROWS", 50)
    monkeypatch.setattr("ehr_tokenize.narrative.buckets._BATCH_ROWS", 17)
    again = write_meds(pl.concat(subjects[::-1]), splits=splits, name="again")
    narrate_records(again, tmp_path / "b", config)
    paths = [tmp_path / x / "records" / "narratives.parquet" for x in "ab"]
    assert paths[0].read_bytes() == paths[1].read_bytes()
    table = pl.read_parquet(paths[0])
    assert {(s, n) for s, n in table.select("subject_id", "split").iter_rows()} == {
        (s, n) for s, n in splits.items() if n != "held_out"
    }
    assert table["prediction_time"].null_count() == table.height == done.pieces > 20
    told = table.group_by("subject_id").agg(pl.col("events").sum(), pl.col("piece"))
    for subject, events, piece in told.iter_rows():
        about = ("GENDER", "MEDS_BIRTH")
        assert events == sum(not code.startswith(about) for _, _, code, _ in made[subject])
        assert piece == list(range(len(piece)))
    manifest = read_manifest(tmp_path / "a", NARRATIVES, reader="test")
    assert set(manifest.inputs) == {"meds"}
    assert verify(tmp_path / "a") == []
    hold_to_contract(paths[0])


def test_whole_records_have_no_gap_and_need_someone_in_train(write_meds, tmp_path):
    meds = write_meds(frame(rows(1, [("2020-01-01", "A")])), splits={1: "held_out"})
    with pytest.raises(UserError, match=r"whole records have none: give --labels"):
        narrate_records(meds, tmp_path / "out", NarrateConfig(gap_months=1))
    with pytest.raises(UserError, match=r"no subject with events is in train"):
        narrate_records(meds, tmp_path / "out")
    with pytest.raises(UserError, match=r"births of train, but there are none"):
        narrate_records(meds, tmp_path / "out", NarrateConfig(age="decile"))
    assert not (tmp_path / "out").exists()


@given(st.floats(width=32, allow_nan=False))
def test_a_value_is_told_without_loss(value):
    assert np.float32(say_value(value)) == np.float32(value)


def test_real_records(mimic_demo, tmp_path):
    """Every text holds only what the raw rows up to its cut-off hold, and the newest of it."""
    events = pl.concat(
        [
            pl.read_parquet(p, columns=["subject_id", "time", "code", "numeric_value"])
            for p in sorted((mimic_demo / "data").rglob("*.parquet"))
        ]
    )
    starts = events.filter(pl.col("code").str.starts_with("HOSPITAL_ADMISSION"))
    keys = starts.select(
        "subject_id", prediction_time=pl.col("time") + pl.duration(hours=48)
    ).unique()
    (tmp_path / "task").mkdir()
    keys.write_parquet(tmp_path / "task" / "0.parquet")
    config = NarrateConfig(gap_days=1)
    narrate(mimic_demo, tmp_path / "task", tmp_path / "out", config)
    table = pl.read_parquet(tmp_path / "out" / "task" / "narratives.parquet")
    about = r"^(MEDS_BIRTH|(GENDER|RACE|MARITAL_STATUS|LANGUAGE|INSURANCE)//)"
    expected = (
        keys.join(events.filter(~pl.col("code").str.contains(about)), on="subject_id")
        .filter(pl.col("time") < pl.col("prediction_time") - pl.duration(days=1))
        .group_by("subject_id", "prediction_time")
        .agg(n=pl.len())
    )
    counted = table.join(expected, on=["subject_id", "prediction_time"], how="left")
    assert table.height == keys.height > 200
    assert counted["events"].to_list() == counted["n"].fill_null(0).to_list()
    assert table["text"].str.contains(r"^age \d+ years, (fe)?male").all()
    assert table["text"].str.contains(r"Glucose \[Mass/volume\] in Serum or Plasma \d+ mg/dL").any()
    assert not table["text"].str.contains(r"(?i)(^|, )unk(nown)?(,|$)").any()
