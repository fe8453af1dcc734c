import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from safetensors.numpy import save_file
from scipy import sparse

from ehr_eval.cli import main
from ehr_eval.features.read import align, read_features
from ehr_tracking.arrow.features import INDEX
from ehr_tracking.contracts import FEATURES, ContractError
from ehr_tracking.manifest import new_artifact, seal

SPLIT = "train"


def write(out, index, tensors, **columns):
    """Features as anybody may write them: nothing is checked."""
    frame = pl.DataFrame(index, schema=["subject_id", "prediction_time", "row"], orient="row")
    frame = frame.with_columns(pl.lit(SPLIT).alias("split"), **columns)
    with new_artifact(out, FEATURES, overwrite=True) as partial:
        save_file(tensors, partial / "features.safetensors")
        pq.write_table(frame.to_arrow().cast(INDEX), partial / "index.parquet")
        seal(partial, FEATURES, producer="theirs 1", config={})
    return out


@pytest.fixture
def index(toys):
    return [(1, toys.day(0), 2), (1, toys.day(3), 0), (2, toys.day(3), 1)]


DENSE = np.arange(6, dtype=np.float32).reshape(3, 2)


def test_dense_and_sparse_matrices_are_read_alike(index, tmp_path):
    dense = read_features(write(tmp_path / "dense", index, {"features": DENSE}))
    csr = sparse.csr_matrix(DENSE)
    tensors = {"data": csr.data, "indices": csr.indices, "indptr": csr.indptr}
    tensors["shape"] = np.array(csr.shape)
    found = read_features(write(tmp_path / "csr", index, tensors))
    np.testing.assert_array_equal(found.matrix.toarray(), dense.matrix)
    np.testing.assert_array_equal(dense.matrix, DENSE)
    assert found.index.equals(dense.index)


def test_a_key_that_is_there_twice_is_one_line_that_names_it(index, toys, tmp_path):
    twice = [*index, (1, toys.day(3), 3)]
    tensors = {"features": np.zeros((4, 2), np.float32)}
    features = write(tmp_path / "features", twice, tensors)
    message = r"index\.parquet row 3: subject 1 at 2020-01-04 00:00:00 is there twice"
    with pytest.raises(ContractError, match=message):
        read_features(features)
    labels = toys.labels(tmp_path / "labels", {"one": [(1, toys.day(3), True)]})
    arguments = ["--labels", labels, "--features", f"a={features}", "--out", tmp_path / "out"]
    result = CliRunner().invoke(main, ["ehrshot", *map(str, arguments)])
    assert result.exit_code == 2
    assert "is there twice" in result.output
    assert len(result.output.strip().splitlines()) == 1


def test_rows_that_are_not_those_of_the_matrix_are_refused(index, tmp_path):
    for matrix in (DENSE[:2], np.zeros((4, 2), np.float32)):
        with pytest.raises(ContractError, match="which are not rows"):
            read_features(write(tmp_path / "features", index, {"features": matrix}))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_no_finite_numbers_are_refused_where_labels_are_at_them(
    index, toys, tmp_path, value
):
    matrix = DENSE.copy()
    matrix[1, 1] = value
    csr = sparse.csr_matrix(matrix)
    tensors = {"data": csr.data, "indices": csr.indices, "indptr": csr.indptr}
    of_csr = write(tmp_path / "csr", index, tensors | {"shape": np.array(csr.shape)})
    for features in (write(tmp_path / "dense", index, {"features": matrix}), of_csr):
        with pytest.raises(ContractError, match="holds NaN or infinite values; did"):
            read_features(features)
        found = read_features(features, broken=True)
        assert found.broken.tolist() == [1]
        times = {"subject_id": [1, 2], "prediction_time": [toys.day(0), toys.day(3)]}
        labels = pl.DataFrame(times, schema_overrides={"prediction_time": pl.Datetime("us")})
        assert align(found, labels[:1], task="one")["row"].to_list() == [2]
        with pytest.raises(ContractError, match=r"infinite values in 1 of 2 rows of task one"):
            align(found, labels, task="one")


def test_labels_find_their_rows_whatever_the_order_of_the_index(index, toys, tmp_path):
    features = read_features(write(tmp_path / "features", index, {"features": DENSE}))
    labels = pl.DataFrame(
        {"subject_id": [2, 1], "prediction_time": [toys.day(3), toys.day(0)]},
        schema_overrides={"prediction_time": pl.Datetime("us")},
    )
    assert align(features, labels, task="t")["row"].to_list() == [1, 2]
    with pytest.raises(ContractError, match=r"lacks 1 of 2 labels of task t, the first"):
        align(features, labels.with_columns(subject_id=pl.Series([2, 7])), task="t")
