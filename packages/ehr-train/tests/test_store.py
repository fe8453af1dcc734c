import mmap
from dataclasses import fields

import numpy as np

from ehr_models.tokens import Tokens, open_tokens, read_split
from ehr_train.data.store import build_cache, open_cache


def test_the_mapped_arrays_equal_those_of_the_parquet(tokens, tmp_path):
    token_set = open_tokens(tokens)
    path = build_cache(tmp_path / "cache", token_set, "train")
    mapped, read = open_cache(path), read_split(token_set, "train")
    for field in fields(Tokens):
        a, b = getattr(mapped, field.name), getattr(read, field.name)
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)
        assert not a.flags.writeable
        base = a
        while isinstance(base, np.ndarray):
            base = base.base
        assert isinstance(base.obj if isinstance(base, memoryview) else base, mmap.mmap)


def test_a_cache_is_built_once_and_named_by_its_tokens(tokens, tmp_path):
    token_set = open_tokens(tokens)
    path = build_cache(tmp_path, token_set, "train")
    before = path.stat().st_mtime_ns
    assert build_cache(tmp_path, token_set, "train") == path
    assert path.stat().st_mtime_ns == before
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
