"""What gives members away: a model that learnt them by heart, records that are theirs; and nothing where nothing does."""

import numpy as np
import polars as pl
import pytest
import torch
from click.testing import CliRunner
from scipy import sparse
from sklearn.metrics import roc_auc_score
from torch.nn.functional import cross_entropy

from ehr_eval.cli import main
from ehr_eval.explain.config import PrivacyConfig
from ehr_eval.explain.continuations import came_true
from ehr_eval.explain.copies import nearest, recited
from ehr_eval.explain.membership import area, score_subjects
from ehr_eval.explain.privacy import probe_privacy
from ehr_models.checkpoint import load_checkpoint, save_checkpoint
from ehr_models.data.batch import pack
from ehr_models.data.store import open_split
from ehr_models.data.tokens import open_tokens
from ehr_models.data.windows import newest
from ehr_models.heads.token import hidden_states, token_logits
from ehr_models.kinds.gpt2 import Gpt2ModelConfig
from ehr_models.registry import build
from ehr_tracking.contracts import CHECKPOINT, TRAJECTORIES, ContractError
from ehr_tracking.manifest import new_artifact, seal, source, verify


@pytest.fixture(scope="module")
def wire(tmp_path_factory, toys):
    """Records of random tokens, a model that was never trained, and one that was, far too long."""
    root = tmp_path_factory.mktemp("privacy")
    tokens = toys.tokens(root / "tokens", toys.records(60, seed=2))
    torch.manual_seed(0)
    model = build(Gpt2ModelConfig(size="tiny", hidden=32, layers=2, heads=2), toys.vocab).eval()
    save(root / "fresh", model, tokens)
    train = open_split(open_tokens(tokens), "train")
    batch = pack(train, newest(train, np.arange(len(train)), np.diff(train.offsets), 512))
    inside = torch.ones(len(batch.input_ids), dtype=torch.bool)
    inside[batch.cu_seqlens[1:].long() - 1] = False
    at = inside.nonzero()[:, 0]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(80):
        logits = token_logits(model, hidden_states(model, batch)[at])
        loss = cross_entropy(logits, batch.input_ids[at + 1])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    save(root / "by_heart", model, tokens)
    return root


def save(out, model, tokens):
    with new_artifact(out, CHECKPOINT) as partial:
        save_checkpoint(partial, model, tokens, metrics={}, producer="test 0", config={}, seed=0, inputs={"tokens": source(tokens)})  # fmt: skip


def test_a_model_that_learnt_subjects_by_heart_gives_them_away_and_a_fresh_one_does_not(
    wire, tmp_path
) -> None:
    found = {}
    for name in ("fresh", "by_heart"):
        said = CliRunner().invoke(main, ["privacy", "--checkpoint", str(wire / name), "--tokens", str(wire / "tokens"), "--out", str(tmp_path / name)])  # fmt: skip
        assert said.exit_code == 0, said.output
        found[name] = pl.read_parquet(tmp_path / name / "privacy.parquet")
        assert not verify(tmp_path / name)
    by_heart, fresh = found["by_heart"], found["fresh"]
    assert by_heart["score"].to_list() == ["loss", "min_k"]
    assert (by_heart["value"] > 0.9).all()
    assert (by_heart["lower"] > 0.75).all()
    assert ((fresh["lower"] < 0.5) & (fresh["upper"] > 0.5)).all()


def test_scores_are_those_of_one_subject_after_the_other(wire) -> None:
    loaded, tokens = (
        load_checkpoint(wire / "by_heart"),
        open_split(open_tokens(wire / "tokens"), "tuning"),
    )
    row = np.arange(len(tokens))
    found = score_subjects(loaded, tokens, row, PrivacyConfig(k=0.3, batch_tokens=64))
    for i in row[:4]:
        ids = torch.from_numpy(
            tokens.token[tokens.offsets[i] : tokens.offsets[i + 1]].astype(np.int64)
        )
        with torch.inference_mode():
            logits = loaded.model(ids[None], position_ids=torch.arange(len(ids))[None]).logits[
                0, :-1, :40
            ]
        said = logits.log_softmax(-1)[torch.arange(len(ids) - 1), ids[1:]].numpy()
        assert found.loss[i] == pytest.approx(said.mean(), abs=1e-4)
        least = np.sort(said)[: max(1, round(0.3 * len(said)))]
        assert found.min_k[i] == pytest.approx(least.mean(), abs=1e-4)


def test_the_area_is_that_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    members, others = rng.integers(0, 9, 40) / 2, rng.integers(0, 8, 30) / 2
    found = area(members, others, bootstraps=300, seed=1)
    label, score = np.r_[np.ones(40), np.zeros(30)], np.r_[members, others]
    assert found.value == pytest.approx(roc_auc_score(label, score), abs=1e-12)
    assert found.lower < found.value < found.upper


def test_a_model_of_other_tokens_cannot_be_tested(wire, tmp_path, toys) -> None:
    other = toys.tokens(tmp_path / "tokens", toys.records(24, seed=9))
    with pytest.raises(ContractError, match="was not trained on"):
        probe_privacy(tmp_path / "out", checkpoint=wire / "fresh", tokens=other)
    assert not (tmp_path / "out").exists()


def write_meds(out, records, splits):
    """Subject -> codes, one a day."""
    rows = [(s, n, code) for s, codes in records.items() for n, code in enumerate(codes)]
    frame = pl.DataFrame(rows, schema=["subject_id", "time", "code"], orient="row")
    (out / "data").mkdir(parents=True)
    (out / "metadata").mkdir()
    frame.with_columns(time=pl.datetime(2020, 1, 1) + pl.duration(days="time")).write_parquet(
        out / "data/0.parquet"
    )
    pl.DataFrame({"subject_id": list(splits), "split": list(splits.values())}).write_parquet(out / "metadata/subject_splits.parquet")  # fmt: skip
    return out


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    """120 subjects of 12 random codes out of 60."""
    rng = np.random.default_rng(0)
    records = {i: [f"C{n}" for n in rng.integers(0, 60, 12)] for i in range(1, 121)}
    splits = {i: ("train", "held_out")[i % 2] for i in records}
    return write_meds(tmp_path_factory.mktemp("cohort") / "meds", records, splits), records, splits


def values(rows):
    return {row["score"]: row for row in rows}


def test_records_that_are_those_of_training_are_told(cohort, tmp_path) -> None:
    meds, records, splits = cohort
    copies = {1000 + i: codes for i, codes in records.items() if splits[i] == "train"}
    made = write_meds(tmp_path / "copies", copies, dict.fromkeys(copies, "train"))
    found = values(probe_privacy(tmp_path / "out", generated=made, meds=meds))
    assert found["share_nearer_to_train"]["value"] == 1.0
    assert found["distance_to_train"]["value"] == 0.0
    assert found["rate_of_train"]["value"] == 1.0
    assert found["rate_of_held_out"]["value"] == 0.0


def test_records_of_nobody_are_as_near_to_either(cohort, tmp_path) -> None:
    rng = np.random.default_rng(7)
    fresh = {1000 + i: [f"C{n}" for n in rng.integers(0, 60, 12)] for i in range(200)}
    made = write_meds(tmp_path / "fresh", fresh, dict.fromkeys(fresh, "train"))
    found = values(
        probe_privacy(tmp_path / "out", PrivacyConfig(gram=2), generated=made, meds=cohort[0])
    )
    share = found["share_nearer_to_train"]
    assert share["lower"] < 0.5 < share["upper"]
    train, held_out = found["rate_of_train"]["value"], found["rate_of_held_out"]["value"]
    assert 0.2 < train < 0.8
    assert abs(train - held_out) < 0.1


def test_a_future_is_not_compared_with_the_record_that_it_goes_on_from(cohort, tmp_path) -> None:
    meds, records, splits = cohort
    subject = next(i for i, split in splits.items() if split == "train")
    made = futures(tmp_path / "futures", {subject: records[subject]})
    found = values(probe_privacy(tmp_path / "out", generated=made, meds=meds))
    assert found["distance_to_train"]["value"] > 0.3
    assert found["rate_of_train"]["value"] == 0.0
    assert "came_true" not in found  # of one subject nothing can be told


def futures(out, rows):
    """Subject -> codes that are told of it on the days after the first of its record."""
    start = pl.datetime(2020, 1, 1)
    with new_artifact(out, TRAJECTORIES) as partial:
        for folder in ("events", "futures"):
            (partial / folder).mkdir()
        flat = [(s, n + 1, code) for s, codes in rows.items() for n, code in enumerate(codes)]
        events = pl.DataFrame(flat, schema=["subject_id", "day", "code"], orient="row")
        key = {"prediction_time": start, "sample": pl.lit(0)}
        time = start + pl.duration(days="day")
        events.select("subject_id", **key, time=time, code="code").write_parquet(
            partial / "events/0.parquet"
        )
        until = {
            "reason": pl.lit("horizon"),
            "tokens": pl.lit(9),
            "until": start + pl.duration(days=5),
        }
        subjects = pl.DataFrame({"subject_id": list(rows)})
        subjects.select("subject_id", **key, **until).write_parquet(partial / "futures/0.parquet")
        seal(partial, TRAJECTORIES, producer="test 0", config={})
    return out


def test_futures_that_come_true_for_train_subjects_alone_are_told(cohort, tmp_path) -> None:
    meds, records, splits = cohort
    rng = np.random.default_rng(5)
    rows = {
        i: codes[1:4] if splits[i] == "train" else [f"C{n}" for n in rng.integers(0, 60, 3)]
        for i, codes in records.items()
    }
    made = futures(tmp_path / "futures", rows)
    subject, share = came_true(made, meds)
    by_hand = [np.mean([c in records[i][1:6] for c in set(rows[i])]) for i in subject.tolist()]
    np.testing.assert_allclose(share, by_hand)
    found = values(probe_privacy(tmp_path / "out", generated=made, meds=meds))["came_true"]
    assert found["lower"] > 0.9
    assert (found["train"], found["held_out"]) == (60, 60)


def test_distances_are_those_of_sets() -> None:
    rng = np.random.default_rng(3)
    made, real = rng.random((5, 20)) < 0.4, rng.random((8, 20)) < 0.4
    found = nearest(
        sparse.csr_matrix(made, dtype=np.float32), sparse.csr_matrix(real, dtype=np.float32)
    )
    for i, row in enumerate(made):
        mine = set(np.flatnonzero(row))
        expected = min(len(mine - set(np.flatnonzero(r))) / len(mine) for r in real)
        assert found[i] == pytest.approx(expected)


def test_what_is_rare_in_one_and_absent_in_the_other_counts() -> None:
    mine = sparse.csr_matrix([[1, 1, 1, 0], [0, 1, 0, 0]])
    others = sparse.csr_matrix([[0, 0, 1, 1]])
    made = sparse.csr_matrix([[1, 1, 1, 1]])
    assert recited(made, mine, others, rare=1) == (1, 1)
    assert recited(made, mine, others, rare=2) == (2, 2)
    assert recited(made, mine, others, rare=2, own=np.array([[True, False]])) == (2, 0)
