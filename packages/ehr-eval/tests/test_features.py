from dataclasses import replace

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest
import torch

from ehr_eval.features.config import FeaturesConfig
from ehr_eval.features.extract import extract_features
from ehr_eval.features.read import read_features
from ehr_eval.features.reader import Reader
from ehr_models.adapters.config import AdapterConfig
from ehr_models.adapters.inject import adapt, trained
from ehr_models.checkpoint import load_checkpoint, save_checkpoint
from ehr_models.data.batch import pack
from ehr_models.data.cutoff import visible_tokens
from ehr_models.data.store import open_split
from ehr_models.data.tokens import open_tokens
from ehr_models.data.windows import Windows
from ehr_models.forecasts.time import time_edges
from ehr_models.heads.forecasts import attach
from ehr_models.heads.token import hidden_states
from ehr_models.kinds.behrt import BehrtModelConfig
from ehr_models.kinds.chrono import ChronoModelConfig
from ehr_models.kinds.gpt2 import Gpt2ModelConfig
from ehr_models.registry import build
from ehr_tracking.config import ConfigError
from ehr_tracking.contracts import ADAPTER, CHECKPOINT, ContractError
from ehr_tracking.errors import UserError
from ehr_tracking.manifest import load_manifest, new_artifact, source, verify

MODELS = {
    "gpt2": Gpt2ModelConfig(size="tiny", hidden=32, layers=2, heads=2),
    "behrt": BehrtModelConfig(size="tiny", hidden=32, layers=2, heads=2),
    "chrono": ChronoModelConfig(size="tiny", hidden=32, layers=2, heads=2),
}
"""The last with a head for the time to the next token beside its own."""


@pytest.fixture(scope="module")
def wire(tmp_path_factory, toys):
    """Tokens, their records, labels at three times a subject, and a checkpoint of each kind."""
    root = tmp_path_factory.mktemp("wire")
    records = toys.records()
    tokens = toys.tokens(root / "tokens", records)
    rows = [(r.subject, toys.day(d), d > 20) for r in records for d in (10, 25, 70)]
    toys.labels(root / "labels", {"one": rows[::2], "two": rows[::3] + rows[1::3]})
    for kind in MODELS:
        write_checkpoint(root / kind, kind, tokens, toys.vocab)
    return root


def write_checkpoint(out, kind, tokens, vocab_size, *, context=None):
    config = MODELS[kind]
    torch.manual_seed(0)
    model = build(config, vocab_size)
    if kind == "chrono":
        attach(model, "time", {"edges": time_edges(8)})
    with new_artifact(out, CHECKPOINT) as partial:
        save_checkpoint(
            partial,
            model,
            tokens,
            metrics={"loss": 1.0},
            producer="test 0",
            config={"data": {"context": context}} if context else {},
            seed=0,
            inputs={"tokens": source(tokens)},
        )
    return out


def run(wire, kind, tmp_path, *, tokens=None, labels=None, name="features", **config):
    out = extract_features(
        wire / kind,
        tokens or wire / "tokens",
        labels or wire / "labels",
        tmp_path / name,
        FeaturesConfig(**{"precision": "fp32", **config}),
    )
    return read_features(out.path)


@pytest.mark.parametrize("kind", MODELS)
def test_rows_are_the_sorted_union_of_the_tasks_and_the_artifact_holds(wire, kind, tmp_path):
    found = run(wire, kind, tmp_path)
    labels = pl.concat(
        [pl.read_parquet(p) for p in sorted((wire / "labels").glob("*/labels.parquet"))]
    )
    expected = labels.select("subject_id", "prediction_time").unique()
    assert found.index.select("subject_id", "prediction_time").equals(
        expected.sort("subject_id", "prediction_time")
    )
    assert found.index["row"].to_list() == list(range(expected.height))
    assert found.matrix.shape == (expected.height, 32)
    assert found.matrix.dtype == np.float32
    assert verify(found.directory) == []
    manifest = load_manifest(found.directory)
    assert set(manifest.inputs) == {"checkpoint", "tokens", "labels"}
    assert manifest.inputs["checkpoint"] == source(wire / kind)
    assert manifest.config["pooling"] == "mean" if kind == "behrt" else "last"


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("pooling", ["last", "mean", "max", "sum"])
@pytest.mark.parametrize("context", [8, 64])
def test_features_equal_one_plain_forward_per_row(wire, kind, pooling, context, tmp_path):
    found = run(wire, kind, tmp_path, pooling=pooling, context=context)
    model = load_checkpoint(wire / kind).model
    tokens = open_tokens(wire / "tokens")
    rows = {r["subject_id"]: r for split in tokens.splits for r in subjects_of(tokens, split)}
    for i, (subject, time) in enumerate(found.index.select("subject_id", "prediction_time").rows()):
        flat, start = rows[subject]["flat"], rows[subject]["start"]
        known = sum(t is None or t <= time for t in rows[subject]["time"])
        prefix = 2 if known > context else 0  # [BOS] and the static token, then the newest
        where = (0, start, prefix, start + max(0, known - context) + prefix, start + known)
        with torch.inference_mode():
            hidden = hidden_states(model, pack(flat, Windows(*np.array(where)[:, None])))
        expected = {
            "last": hidden[-1],
            "mean": hidden.mean(0),
            "max": hidden.amax(0),
            "sum": hidden.sum(0),
        }[pooling]
        np.testing.assert_allclose(found.matrix[i], expected.numpy(), rtol=1e-5, atol=1e-5)


def test_features_of_an_adapter_are_those_of_its_base_with_it(wire, tmp_path):
    model = load_checkpoint(wire / "behrt").model
    adapt(model, AdapterConfig(kind="lora", rank=4))
    torch.manual_seed(1)
    for parameter in trained(model).values():
        torch.nn.init.normal_(parameter, std=0.2)
    tuned = tmp_path / "tuned"
    tuned.mkdir()
    about = {"metrics": {"loss": 1.0}, "producer": "test 0", "config": {}, "seed": 0}
    inputs = {"tokens": source(wire / "tokens")}
    save_checkpoint(tuned, model, wire / "tokens", **about, inputs=inputs, base=wire / "behrt")
    assert load_manifest(tuned).contract == ADAPTER.tag
    found = run(tmp_path, "tuned", tmp_path, tokens=wire / "tokens", labels=wire / "labels")
    base = run(wire, "behrt", tmp_path, name="base")
    assert np.abs(found.matrix - base.matrix).max() > 0.1
    rows = {r["subject_id"]: r for r in subjects_of(open_tokens(wire / "tokens"), "tuning")}
    last = found.index.filter(
        (pl.col("split") == "tuning") & (pl.col("prediction_time").dt.month() == 3)
    )
    assert last.height
    for subject, row in last.select("subject_id", "row").rows():
        flat, start = rows[subject]["flat"], rows[subject]["start"]
        where = np.array((0, start, 0, start, start + len(rows[subject]["token"])))
        with torch.inference_mode():  # the adapter beside the weights, not worked into them
            expected = hidden_states(model, pack(flat, Windows(*where[:, None]))).mean(0)
        np.testing.assert_allclose(found.matrix[row], expected.numpy(), atol=1e-4)


def test_cls_of_records_that_lead_with_another_token_is_refused(wire, tmp_path):
    with pytest.raises(UserError, match="needs sequences that begin with"):
        run(wire, "behrt", tmp_path, pooling="cls")
    assert not (tmp_path / "features").exists()


def subjects_of(tokens, split):
    flat = open_split(tokens, split)
    table = pq.read_table(tokens.directory / split / "0.parquet").to_pylist()
    return [{**row, "flat": flat, "start": int(flat.offsets[i])} for i, row in enumerate(table)]


@pytest.mark.parametrize("kind", MODELS)
def test_one_pass_per_subject_equals_one_per_row(wire, kind, tmp_path):
    shared = run(wire, kind, tmp_path, name="shared")
    separate = run(wire, kind, tmp_path, name="separate", one_pass=False, batch_tokens=1)
    np.testing.assert_allclose(shared.matrix, separate.matrix, atol=1e-5)


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("context", [8, None])
def test_two_runs_agree_to_the_bit(wire, kind, context, tmp_path):
    first = run(wire, kind, tmp_path, name="first", context=context)
    second = run(wire, kind, tmp_path, name="second", context=context)
    for name in ("features.safetensors", "index.parquet", "manifest.json"):
        assert (first.directory / name).read_bytes() == (second.directory / name).read_bytes()


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_any_number_of_cores_gives_the_same_bits(wire, kind, precision, tmp_path):
    one = run(wire, kind, tmp_path, name="one", precision=precision, batch_tokens=64)
    torch.set_num_threads(3)
    try:
        several = run(wire, kind, tmp_path, name="several", precision=precision, batch_tokens=64)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(1)
    np.testing.assert_array_equal(several.matrix, one.matrix)


@pytest.mark.parametrize("kind", MODELS)
def test_bf16_is_near_fp32_and_the_manifest_names_what_was_taken(wire, kind, tmp_path, monkeypatch):
    full = run(wire, kind, tmp_path, name="full")
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": True})
    half = run(wire, kind, tmp_path, name="half", precision="auto")
    assert half.manifest.config["precision"] == "bf16"
    assert not np.array_equal(half.matrix, full.matrix)
    scale = np.abs(full.matrix).max()
    np.testing.assert_allclose(half.matrix, full.matrix, atol=0.03 * scale)


def changed_after(records, when):
    """Every token after the time is another one."""
    return [
        with_events(r, [(d, 8 + (t + 5) % 30 if d > when else t) for d, t in r.events])
        for r in records
    ]


def with_events(record, events):
    return type(record)(record.subject, events, record.split)


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("pooling", ["last", "mean"])
@pytest.mark.parametrize("context", [8, None])
def test_other_tokens_after_a_prediction_time_change_no_bit_of_it(
    toys, wire, kind, pooling, context, tmp_path
):
    before = run(wire, kind, tmp_path, name="before", pooling=pooling, context=context)
    for when in (10, 25, 70):
        tokens = toys.tokens(tmp_path / "tokens", changed_after(toys.records(), when))
        after = run(
            wire,
            kind,
            tmp_path,
            tokens=tokens,
            name=f"after{when}",
            pooling=pooling,
            context=context,
        )
        past = (before.index["prediction_time"] <= toys.day(when)).to_numpy()
        np.testing.assert_array_equal(before.matrix[past], after.matrix[past])
        if when < 25:  # the test can fail: later rows do see the change
            assert not np.array_equal(before.matrix[~past], after.matrix[~past])


@pytest.mark.parametrize("kind", MODELS)
def test_a_record_that_ends_or_goes_on_after_the_last_prediction_time_changes_no_bit(
    toys, wire, kind, tmp_path
):
    rows = [(r.subject, toys.day(d), True) for r in toys.records() for d in (10, 25)]
    labels = toys.labels(tmp_path / "labels", {"one": rows})
    whole = run(wire, kind, tmp_path, labels=labels, name="whole")
    for name, change in {
        "ends": lambda events: [e for e in events if e[0] <= 25],
        "goes on": lambda events: [*events, *((80.0, 9),) * 17],
    }.items():
        records = [with_events(r, change(r.events)) for r in toys.records()]
        tokens = toys.tokens(tmp_path / "tokens", records)
        found = run(wire, kind, tmp_path, tokens=tokens, labels=labels, name=name)
        np.testing.assert_array_equal(found.matrix, whole.matrix)


@pytest.mark.parametrize("kind", MODELS)
def test_events_between_two_prediction_times_change_no_bit_of_the_first_read_alone(
    toys, wire, kind, tmp_path
):
    whole = run(wire, kind, tmp_path, name="whole", one_pass=False, batch_tokens=1)
    records = [with_events(r, [e for e in r.events if not 10 < e[0] <= 25]) for r in toys.records()]
    tokens = toys.tokens(tmp_path / "tokens", records)
    found = run(wire, kind, tmp_path, tokens=tokens, name="cut", one_pass=False, batch_tokens=1)
    first = (whole.index["prediction_time"] == toys.day(10)).to_numpy()
    np.testing.assert_array_equal(found.matrix[first], whole.matrix[first])


def test_events_at_the_prediction_time_are_seen(toys, wire, tmp_path):
    records = [toys.Record(1, [(1, 8), (2, 9), (3, 10)])]
    tokens = toys.tokens(tmp_path / "tokens", records)
    rows = [(1, toys.day(d), True) for d in (1, 1.9, 2)]
    labels = toys.labels(tmp_path / "labels", {"one": rows})
    found = run(wire, "gpt2", tmp_path, tokens=tokens, labels=labels)
    assert np.array_equal(found.matrix[0], found.matrix[1])
    assert not np.array_equal(found.matrix[1], found.matrix[2])


def test_nothing_known_yet_is_a_row_of_zeros_and_counted(toys, wire, tmp_path):
    tokens = toys.tokens(tmp_path / "tokens", [toys.Record(1, [(5, 8)])])
    path = tokens / "train" / "0.parquet"
    bare = pq.read_table(path).to_pylist()
    assert bare[0]["token"] == [5, 7, 8]
    flat = open_split(open_tokens(tokens), "train")
    late = replace(flat, time=np.maximum(flat.time, flat.time[-1]))  # no static token
    assert visible_tokens(late, np.array([0]), late.time[-1:] - 1).tolist() == [0]

    reader = Reader(load_checkpoint(wire / "gpt2"), FeaturesConfig())
    features = reader.read(late, np.array([0, 0]), np.array([0, 3]))
    assert not features[0].any()
    assert features[1].any()


def test_context_is_that_of_the_training_unless_said_otherwise(toys, wire, tmp_path):
    checkpoint = write_checkpoint(
        tmp_path / "short", "gpt2", wire / "tokens", toys.vocab, context=16
    )
    args = (checkpoint, wire / "tokens", wire / "labels", tmp_path / "features")
    assert load_manifest(extract_features(*args).path).config["context"] == 16
    config = FeaturesConfig(context=32)
    assert (
        load_manifest(extract_features(*args, config, overwrite=True).path).config["context"] == 32
    )


def test_the_store_of_the_tokens_is_made_once_and_used_again(wire, tmp_path, monkeypatch):
    monkeypatch.setenv("EHR_STORE", str(tmp_path / "store"))
    first = run(wire, "gpt2", tmp_path, name="first")
    made = {p: p.stat().st_mtime_ns for p in (tmp_path / "store").rglob("*.safetensors")}
    assert {p.parent.name for p in made} == {"train", "tuning", "held_out"}
    second = run(wire, "behrt", tmp_path, name="second")
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "store").rglob("*.safetensors")} == made
    assert second.index.equals(first.index)


def test_features_say_with_which_delays_their_tokens_were_made(toys, wire, tmp_path):
    assert run(wire, "gpt2", tmp_path, name="none").manifest.config["delay"] == {}
    delay = {"^DIAGNOSIS": 7.0}
    tokens = toys.tokens(tmp_path / "tokens", toys.records(), config={"delay": delay})
    found = run(wire, "gpt2", tmp_path, tokens=tokens, name="delayed")
    assert found.manifest.config["delay"] == delay


def test_unknown_subjects_are_refused_and_nothing_is_written(toys, wire, tmp_path):
    labels = toys.labels(
        tmp_path / "labels", {"one": [(100, toys.day(1), True), (999, toys.day(1), False)]}
    )
    with pytest.raises(ContractError, match="999"):
        run(wire, "gpt2", tmp_path, labels=labels)
    assert not (tmp_path / "features").exists()


def test_vocabulary_of_another_data_set_is_refused(toys, wire, tmp_path):
    tokens = toys.tokens(tmp_path / "tokens", toys.records(), vocabulary="other")
    with pytest.raises(ContractError, match="another vocabulary"):
        run(wire, "gpt2", tmp_path, tokens=tokens)
    assert not (tmp_path / "features").exists()


def test_context_beyond_the_model_and_absent_devices_are_refused(wire, tmp_path):
    with pytest.raises(ConfigError, match="at most 1024"):
        run(wire, "gpt2", tmp_path, context=1025)
    with pytest.raises(ConfigError, match="device 'nonsense'"):
        extract_features(
            wire / "gpt2",
            wire / "tokens",
            wire / "labels",
            tmp_path / "features",
            device="nonsense",
        )


def test_existing_output_is_kept_unless_told_otherwise(wire, tmp_path):
    found = run(wire, "gpt2", tmp_path)
    with pytest.raises(UserError, match="--overwrite"):
        run(wire, "gpt2", tmp_path)
    assert verify(found.directory) == []
