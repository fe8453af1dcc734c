"""Features that are read once: stores, interrupted runs, several processes."""

from datetime import datetime

import numpy as np
import polars as pl
import pytest
import torch
from click.testing import CliRunner

from ehr_eval.cli import main
from ehr_eval.features import extract
from ehr_eval.features.config import FeaturesConfig
from ehr_eval.features.extract import extract_features
from ehr_eval.features.read import read_features
from ehr_eval.features.shelf import Shelf
from ehr_models.checkpoint import save_checkpoint
from ehr_models.kinds import KINDS
from ehr_models.registry import build
from ehr_tracking.config import ConfigError
from ehr_tracking.contracts import CHECKPOINT, ContractError
from ehr_tracking.manifest import new_artifact, source, verify

KINDS_READ = {
    "gpt2": {"hidden": 32, "heads": 2},  # packed, past
    "behrt": {"hidden": 32, "heads": 2},  # packed, all
    "hyena": {"hidden": 32},  # resets its state
    "mamba2": {"size": "nano", "hidden": 32, "heads": 2},  # padded
}


@pytest.fixture(scope="module")
def wire(tmp_path_factory, toys):
    """Tokens, two sets of labels that meet in half of their rows, and a checkpoint of each kind."""
    root = tmp_path_factory.mktemp("store")
    records = toys.records(longest=90)
    tokens = toys.tokens(root / "tokens", records)
    for name, days in (("early", (5, 10, 25)), ("late", (10, 25, 40, 70))):
        rows = [(r.subject, toys.day(d), d > 20) for r in records for d in days]
        toys.labels(root / name, {"one": rows})
    for kind, fields in KINDS_READ.items():
        torch.manual_seed(0)
        config = KINDS[kind].config(**{"size": next(iter(KINDS[kind].sizes)), **fields}, layers=2)
        with new_artifact(root / kind, CHECKPOINT) as partial:
            save_checkpoint(
                partial,
                build(config, toys.vocab),
                tokens,
                metrics={},
                producer="test 0",
                config={},
                seed=0,
                inputs={"tokens": source(tokens)},
            )
    return root


def run(wire, kind, out, labels="late", *, store=None, workers=1, **config):
    return extract_features(
        wire / kind,
        wire / "tokens",
        wire / labels,
        out,
        FeaturesConfig(**{"precision": "fp32", **config}),
        store=store,
        workers=workers,
    )


@pytest.mark.parametrize("kind", KINDS_READ)
@pytest.mark.parametrize("pooling", ["last", "last+mean"])
def test_rows_of_a_store_are_those_of_a_fresh_one_to_the_bit(wire, kind, pooling, tmp_path):
    fresh = run(wire, kind, tmp_path / "fresh", store=tmp_path / "one", pooling=pooling)
    assert (fresh.read, fresh.rows) == (48, 48)
    first = run(wire, kind, tmp_path / "first", "early", store=tmp_path / "two", pooling=pooling)
    assert first.read == 36
    reused = run(wire, kind, tmp_path / "reused", store=tmp_path / "two", pooling=pooling)
    assert reused.read == 24
    for name in ("features.safetensors", "index.parquet", "manifest.json"):
        assert (tmp_path / "reused" / name).read_bytes() == (tmp_path / "fresh" / name).read_bytes()
    plain = run(wire, kind, tmp_path / "plain", pooling=pooling)
    found, expected = (read_features(each.path).matrix for each in (reused, plain))
    np.testing.assert_allclose(found, expected, atol=2e-5)


def test_other_settings_and_models_share_no_row_of_a_store(wire, tmp_path):
    store = tmp_path / "store"
    assert run(wire, "gpt2", tmp_path / "a", store=store).read == 48
    assert run(wire, "gpt2", tmp_path / "b", store=store).read == 0
    assert run(wire, "gpt2", tmp_path / "c", store=store, batch_tokens=64).read == 0
    assert run(wire, "gpt2", tmp_path / "d", store=store, pooling="mean").read == 48
    assert run(wire, "gpt2", tmp_path / "e", store=store, context=16).read == 48
    assert run(wire, "behrt", tmp_path / "f", store=store).read == 48
    assert len(list(store.glob("*/about.json"))) == 4
    assert verify(tmp_path / "b") == []


def test_a_damaged_file_of_a_store_is_named(wire, tmp_path):
    run(wire, "gpt2", tmp_path / "a", store=tmp_path / "store")
    (kept,) = (tmp_path / "store").rglob("*.safetensors")
    kept.write_bytes(kept.read_bytes()[:-100])
    with pytest.raises(ContractError, match=rf"{kept.name} is damaged"):
        run(wire, "gpt2", tmp_path / "b", store=tmp_path / "store")
    assert not (tmp_path / "b").exists()


def test_rows_are_the_right_ones_while_another_process_adds_to_the_store(tmp_path, monkeypatch):
    days = pl.datetime_range(datetime(2020, 1, 1), datetime(2020, 1, 16), "1d", eager=True)  # noqa: DTZ001 -- MEDS times have no zone
    rows = pl.DataFrame({"subject_id": range(1, 17), "prediction_time": days})
    shelf, told = Shelf(tmp_path), np.arange(16, dtype=np.float32)[:, None]
    files = Shelf._files

    def added(self):
        """Another process is done with some more, now that this one has looked."""
        found = files(self)
        at = len(found) + 3
        shelf.add(rows[at : at + 1], np.full((1, 1), -1, np.float32))
        return found

    for n in range(4):
        shelf.add(rows[n : n + 1], told[n : n + 1])
    monkeypatch.setattr(Shelf, "_files", added)
    for _ in range(4):
        np.testing.assert_array_equal(shelf.take(rows[:4], 1), told[:4])


def test_workers_change_no_byte(wire, tmp_path, monkeypatch):
    monkeypatch.setattr(extract, "PIECE", 24)
    for name, workers in (("one", 1), ("two", 2)):
        assert run(wire, "gpt2", tmp_path / name, workers=workers).read == 48
    for name in ("features.safetensors", "manifest.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


@pytest.mark.parametrize("store", [None, "store"])
def test_what_was_interrupted_goes_on(wire, store, tmp_path, monkeypatch):
    monkeypatch.setattr(extract, "PIECE", 12)
    whole = run(wire, "gpt2", tmp_path / "whole", store=store and tmp_path / "other")
    read, done = extract._read, []

    def interrupted(piece, **given):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(piece)
        read(piece, **given)

    again = store and tmp_path / store
    monkeypatch.setattr(extract, "_read", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(wire, "gpt2", tmp_path / "resumed", store=again)
    assert not (tmp_path / "resumed").exists()
    monkeypatch.setattr(extract, "_read", read)
    resumed = run(wire, "gpt2", tmp_path / "resumed", store=again)
    assert resumed.read == 48 - sum(piece.rows.height for piece in done) < 48
    for name in ("features.safetensors", "manifest.json"):
        assert (resumed.path / name).read_bytes() == (whole.path / name).read_bytes()
    assert [p.name for p in tmp_path.iterdir() if "resumed" in p.name] == ["resumed"]


@pytest.mark.parametrize("kind", KINDS_READ)
def test_layers_are_those_of_the_model_and_poolings_stand_side_by_side(wire, kind, tmp_path):
    last = read_features(run(wire, kind, tmp_path / "last", pooling="last").path).matrix
    many = run(
        wire, kind, tmp_path / "many", pooling="last+mean", layers=(-1, -2), combine="concat"
    )
    wide = read_features(many.path).matrix
    assert wide.shape == (48, 4 * last.shape[1])
    parts = np.split(wide, 4, axis=1)
    np.testing.assert_allclose(parts[0], last, atol=1e-5)
    one = read_features(run(wire, kind, tmp_path / "one", pooling="last", layers=1).path).matrix
    np.testing.assert_allclose(parts[1], one, atol=1e-5)
    assert np.abs(one - last).max() > 0.01
    mean = run(wire, kind, tmp_path / "mean", pooling="last", layers=(-1, 1))
    np.testing.assert_allclose(read_features(mean.path).matrix, (last + one) / 2, atol=1e-5)


def test_attention_weighs_states_by_what_the_last_one_is_like(wire, tmp_path):
    """Worked out from the states of each token: those that `last` gives at the time of each."""
    from ehr_eval.features.pool import attended

    rng = np.random.default_rng(0)
    states = rng.normal(size=(7, 4)).astype(np.float32)
    found = attended(torch.from_numpy(states), torch.tensor([0, 3, 7])).numpy()
    for row, (a, b) in enumerate([(0, 3), (3, 7)]):
        score = np.exp(states[a:b] @ states[b - 1] / 2)
        np.testing.assert_allclose(found[row], score @ states[a:b] / score.sum(), rtol=1e-5)
    assert run(wire, "gpt2", tmp_path / "a", pooling="attention").read == 48


def test_an_unknown_layer_or_pooling_is_refused(wire, tmp_path):
    with pytest.raises(ConfigError, match=r"layer 3: this gpt2 has layers 0 \(embeddings\) to 2"):
        run(wire, "gpt2", tmp_path / "a", layers=(3,))
    arguments = ["features", "--checkpoint", wire / "gpt2", "--tokens", wire / "tokens", "--out", tmp_path / "a"]  # fmt: skip
    words = [*map(str, arguments), "--labels", str(wire / "late")]
    for setting, message in (("pooling=lats", "'lats' is none of"), ("layers=[]", "layers")):
        result = CliRunner().invoke(main, [*words, "-s", setting])
        assert result.exit_code == 2
        assert message in result.output
    missing = CliRunner().invoke(main, list(map(str, arguments)))
    assert (missing.exit_code, "--tokens needs --labels" in missing.output) == (2, True)


def test_a_model_that_gives_no_numbers_is_refused_in_one_line(wire, toys, tmp_path):
    torch.manual_seed(0)
    model = build(KINDS["gpt2"].config(size="tiny", hidden=32, heads=2, layers=1), toys.vocab)
    with torch.no_grad():
        model.get_input_embeddings().weight[9] = float("nan")
    tokens = wire / "tokens"
    about = {"metrics": {}, "producer": "test 0", "config": {}, "seed": 0}
    with new_artifact(tmp_path / "broken", CHECKPOINT) as partial:
        save_checkpoint(partial, model, tokens, **about, inputs={"tokens": source(tokens)})
    with pytest.raises(ContractError, match=r"gives NaN or infinite values, first of subject") as e:
        extract_features(tmp_path / "broken", tokens, wire / "late", tmp_path / "out")
    assert len(str(e.value).splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_the_command_says_what_was_read_and_what_the_store_had(wire, tmp_path):
    words = ["features", "--checkpoint", wire / "gpt2", "--tokens", wire / "tokens"]
    words += ["--store", tmp_path / "store"]
    for labels, told in (
        ("early", "36 rows; read 36 of 36 rows, 0 from the store"),
        ("late", "48 rows; read 24 of 48 rows, 24 from the store"),
    ):
        more = ["--labels", wire / labels, "--out", tmp_path / labels]
        result = CliRunner().invoke(main, [str(word) for word in words + more])
        assert result.exit_code == 0, result.output
        assert told in result.output
