import itertools
from dataclasses import replace

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest

from ehr_eval.heads.lr import LogisticRegressionConfig
from ehr_eval.protocol.config import EhrshotConfig
from ehr_eval.protocol.ehrshot import run_ehrshot
from ehr_eval.protocol.shots import sample, shots
from ehr_tracking.arrow.label_files import label_source
from ehr_tracking.config import ConfigError, load_config
from ehr_tracking.contracts import SHOTS
from ehr_tracking.errors import UserError
from ehr_tracking.manifest import load_manifest, verify

FAST = {"lr": LogisticRegressionConfig(c=(1.0,))}
KS = EhrshotConfig().ks


def label(positives, negatives, seed=0):
    values = np.array([True] * positives + [False] * negatives)
    return np.random.default_rng(seed).permutation(values)


def test_hand_checked_draw():
    # RandomState(0) permutes three items as 2, 1, 0; seeded anew for each class
    y = np.array([False, True, False, True, False, True])
    assert sample(y, 2, replicate=0, max_k=3).tolist() == [4, 2, 5, 3]


def test_draw_is_the_legacy_generators_choice_per_class():
    y = label(200, 300)
    for replicate in range(3):
        expected = []
        for value in (False, True):
            np.random.seed(replicate)  # noqa: NPY002 -- the protocol as written
            rows = np.flatnonzero(y == value)
            expected += np.random.choice(rows, size=128, replace=False)[:16].tolist()  # noqa: NPY002
        assert sample(y, 16, replicate=replicate).tolist() == expected


def test_shots_are_nested():
    y = label(150, 90)
    for replicate in range(5):
        per_class = [sample(y, k, replicate=replicate).reshape(2, k) for k in KS if k > 0]
        for small, large in itertools.pairwise(per_class):
            np.testing.assert_array_equal(small, large[:, : small.shape[1]])


def test_each_class_gives_k_rows_without_repeats_where_there_are_enough():
    y = label(130, 400)
    rows = sample(y, 128, replicate=3)
    assert y[rows].tolist() == [False] * 128 + [True] * 128
    assert len(set(rows.tolist())) == 256


def test_short_class_is_used_up_before_it_is_drawn_again():
    y = label(5, 400)
    positives = sample(y, 64, replicate=1)[64:]
    assert sorted(positives[:5].tolist()) == np.flatnonzero(y).tolist()
    assert set(positives.tolist()) == set(np.flatnonzero(y).tolist())
    assert len(positives) == 64


def test_replicates_differ():
    y = label(300, 300)
    assert sample(y, 8, replicate=0).tolist() != sample(y, 8, replicate=1).tolist()


def test_all_rows_once_and_training_rows_shuffled_with_the_replicate():
    y = label(20, 30)
    drawn = shots(y, y, -1, replicate=2)
    assert sorted(drawn.train.tolist()) == list(range(50))
    expected = np.arange(50)
    np.random.RandomState(2).shuffle(expected)
    assert drawn.train.tolist() == expected.tolist()
    assert drawn.tuning.tolist() == list(range(50))


@pytest.mark.parametrize("ks", ["[0]", "[129]", "[-2]", "[4, 4]"])
def test_impossible_ks_are_refused(ks):
    with pytest.raises(ConfigError, match="ks holds"):
        load_config(EhrshotConfig, None, [f"ks={ks}"])


@pytest.fixture(scope="module")
def written(toys, tmp_path_factory):
    root = tmp_path_factory.mktemp("shots")
    labels, features = toys.tasks(root, subjects=60)
    config = EhrshotConfig(ks=(1, 4, -1), replicates=2, replicates_all=1, bootstraps=0, heads=FAST)
    run_ehrshot(labels, features, root / "results", config, shots=root / "shots")
    return labels, config, root / "shots"


def test_shots_are_a_sealed_artifact_that_keeps_its_contract(written):
    labels, _, out = written
    assert verify(out) == []
    manifest = load_manifest(out)
    assert manifest.contract == "shots/1"
    assert manifest.inputs["labels"] == label_source(labels)
    schema = pq.read_schema(out / "shots.parquet")
    SHOTS.check({f.name: str(f.type) for f in schema}, where="shots")
    assert manifest.files["shots.parquet"].rows == pq.read_metadata(out / "shots.parquet").num_rows


def test_written_shots_are_the_draws_of_the_protocol_in_order(written):
    labels, config, out = written
    table = pl.read_parquet(out / "shots.parquet")
    for task in ("told", "untold"):
        rows = pl.read_parquet(labels / task / "labels.parquet")
        rows = rows.sort("subject_id", "prediction_time")
        parts = {
            split: rows.filter(pl.col("subject_id") % 3 == place)
            for split, place in (("train", 1), ("tuning", 2), ("held_out", 0))
        }
        y = {split: part["boolean_value"].to_numpy() for split, part in parts.items()}
        for k in config.ks:
            for replicate in range(config.draws(k)):
                drawn = shots(y["train"], y["tuning"], k, replicate=replicate)
                for split, at in drawn._asdict().items():
                    of = {"task": task, "k": k, "replicate": replicate, "split": split}
                    found = table.filter(**of).sort("order")
                    assert found["order"].to_list() == list(range(len(at)))
                    assert found.select(rows.columns).equals(parts[split][at])
        judged = table.filter(task=task, split="held_out")
        assert judged.select(rows.columns).equals(parts["held_out"])
        assert judged["k"].null_count() == judged["replicate"].null_count() == judged.height


def test_the_same_shots_stay_and_others_are_refused(written, toys, tmp_path):
    labels, features = toys.tasks(tmp_path, subjects=60)
    config = EhrshotConfig(ks=(4,), replicates=1, bootstraps=0, heads=FAST)
    for name in ("a", "b"):
        run_ehrshot(labels, features, tmp_path / name, config, shots=tmp_path / "shots")
    with pytest.raises(UserError, match="shots exists; choose another path or pass --overwrite"):
        other = replace(config, replicates=2)
        run_ehrshot(labels, features, tmp_path / "c", other, shots=tmp_path / "shots")
    assert not (tmp_path / "c").exists()
