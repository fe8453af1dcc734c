"""Predictions as the release of meds-evaluation that MEDS-DEV pins (0.0.3) wants them: probabilities of 64 bits."""

import sys

import polars as pl

source, target = sys.argv[1:]
wide = pl.col("predicted_boolean_probability").cast(pl.Float64)
pl.read_parquet(source).with_columns(wide).write_parquet(target)
