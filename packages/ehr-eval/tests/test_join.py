import numpy as np
import polars as pl
import pytest
from scipy import sparse

from ehr_eval.features.join import join_features
from ehr_eval.features.read import read_features
from ehr_tracking.arrow.features import write_features
from ehr_tracking.contracts import FEATURES, ContractError
from ehr_tracking.errors import UserError
from ehr_tracking.manifest import new_artifact, seal


def rows(toys, order=(0, 1, 2)):
    found = [(7, toys.day(0), "train"), (7, toys.day(3), "train"), (9, toys.day(1), "held_out")]
    return [found[i] for i in order]


def write_sparse(out, toys, matrix):
    index = pl.DataFrame(
        rows(toys, (2, 0, 1)),
        schema={"subject_id": pl.Int64, "prediction_time": pl.Datetime("us"), "split": pl.String},
        orient="row",
    )
    with new_artifact(out, FEATURES, overwrite=True) as partial:
        written = write_features(partial, sparse.csr_matrix(matrix), index.to_arrow())
        seal(partial, FEATURES, producer="test 0", config={}, seed=0, rows=written)
    return out


def test_rows_meet_by_subject_and_time_in_the_order_of_the_first(toys, tmp_path):
    dense = toys.features(tmp_path / "a", rows(toys), [[1, 2], [3, 4], [5, 6]])
    counts = write_sparse(tmp_path / "b", toys, [[50, 0, 0], [10, 0, 7], [30, 0, 0]])
    joined = read_features(join_features([dense, counts], tmp_path / "c"))
    expected = [[1, 2, 10, 0, 7], [3, 4, 30, 0, 0], [5, 6, 50, 0, 0]]
    assert joined.matrix.toarray().tolist() == expected
    assert joined.index["split"].to_list() == ["train", "train", "held_out"]
    assert joined.manifest.config["widths"] == [2, 3]
    both = read_features(join_features([dense, dense], tmp_path / "d")).matrix
    assert isinstance(both, np.ndarray)
    assert both[1].tolist() == [3, 4, 3, 4]


@pytest.mark.parametrize(
    ("other", "delay", "error", "message"),
    [
        ([(7, 0, "train"), (7, 3, "train")], {}, ContractError, "first subject 9 at 2020-01-02"),
        (
            [(7, 0, "train"), (7, 3, "tuning"), (9, 1, "held_out")],
            {},
            ContractError,
            "first subject 7 at 2020-01-04",
        ),
        (
            [(7, 0, "train"), (7, 3, "train"), (9, 1, "held_out")],
            {"^LAB": 1.0},
            UserError,
            "one knows events earlier",
        ),
    ],
)
def test_others_rows_splits_or_delays_are_refused(toys, tmp_path, other, delay, error, message):
    one = toys.features(tmp_path / "a", rows(toys), np.zeros((3, 2)))
    named = [(subject, toys.day(n), split) for subject, n, split in other]
    two = toys.features(tmp_path / "b", named, np.zeros((len(named), 1)), config={"delay": delay})
    with pytest.raises(error, match=message):
        join_features([one, two], tmp_path / "c")
    assert not (tmp_path / "c").exists()


def test_one_alone_is_refused(toys, tmp_path):
    one = toys.features(tmp_path / "a", rows(toys), np.zeros((3, 2)))
    with pytest.raises(UserError, match="--features twice"):
        join_features([one], tmp_path / "c")
