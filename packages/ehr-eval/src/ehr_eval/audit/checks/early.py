"""Tokens that are known before their event."""

from collections.abc import Iterator

import polars as pl

from ehr_eval.audit.found import Finding, Skipped, ids
from ehr_eval.audit.inputs import Inputs, unrolled
from ehr_models.vocabulary import read_vocabulary

_SUBJECTS = 2000
"""That are compared, drawn by hash."""


def tokens_before_their_event(inputs: Inputs) -> Iterator[Finding]:
    """Codes of which a subject has as many tokens as events: each has to be known no earlier."""
    inputs.require("meds", "tokens")
    if inputs.token_manifest.config.get("maps"):
        raise Skipped("maps give events other codes in the tokens than in the data")
    words = [w for w in read_vocabulary(inputs.tokens) if w.code and w.kind in {"code", "value"}]
    named = pl.DataFrame(
        [(w.id, w.code) for w in words], schema={"token": pl.Int64, "code": pl.String}, orient="row"
    )
    chosen = inputs.splits.sort(pl.col("subject_id").hash(seed=inputs.config.seed)).head(_SUBJECTS)
    who = chosen["subject_id"].implode()
    tokens = pl.concat(
        unrolled(frame.filter(pl.col("subject_id").is_in(who)), "token", "time")
        .with_columns(pl.col("token").cast(pl.Int64))
        .drop_nulls("time")
        .join(named, on="token")
        .select("subject_id", "code", "time")
        for _, frame in inputs.token_shards()
    )
    events = pl.concat(
        e.filter(pl.col("subject_id").is_in(who) & pl.col("time").is_not_null()).select(
            "subject_id", "code", "time"
        )
        for e in inputs.events(inputs.delays)
    )
    told, happened = (
        frame.group_by("subject_id", "code").agg(pl.col("time").sort())
        for frame in (tokens, events)
    )
    both = told.join(happened, on=["subject_id", "code"], suffix="_of_event").filter(
        pl.col("time").list.len() == pl.col("time_of_event").list.len()
    )
    early = unrolled(both, "time", "time_of_event").filter(pl.col("time") < pl.col("time_of_event"))
    if early.height:
        yield Finding(
            "tokens",
            f"{early.height:,} tokens are known before their event (of {early['code'].n_unique():,} codes): `time` is "
            "when something becomes known",
            early.height,
            subjects=ids(early["subject_id"]),
        )
