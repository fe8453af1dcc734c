"""What was not known at the prediction time, but moves a feature."""

from collections.abc import Iterator

import numpy as np

from ehr_eval.audit.again import Again, extracted_again
from ehr_eval.audit.found import Finding, Skipped, ids
from ehr_eval.audit.inputs import Inputs

_SHIFTED = 0.5
"""Share of the rows that differ which equal those of the next event: they are shifted, not merely other."""


def future_moves_features(inputs: Inputs) -> Iterator[Finding]:
    """Rows that a record without its future does not give."""
    for name, again in _each(inputs):
        other = ~again.same(again.cut)
        if other.any() and not is_shifted(again):
            n = int(other.sum())
            yield Finding(
                f"features {name}",
                f"{n:,} of {len(other):,} sampled rows are not what the record up to the prediction time gives: "
                "something later, or of elsewhere, moves them",
                n,
                subjects=ids(np.array(again.subjects)[other]),
            )


def features_are_shifted(inputs: Inputs) -> Iterator[Finding]:
    """Rows that are those of the next event."""
    for name, again in _each(inputs):
        if is_shifted(again):
            late = ~again.same(again.cut) & again.same(again.later)
            n = int(late.sum())
            yield Finding(
                f"features {name}",
                f"{n:,} of {len(late):,} sampled rows are those at the next event, not at the prediction time: shifted "
                "by one event",
                n,
                subjects=ids(np.array(again.subjects)[late]),
            )


def columns_chosen_beyond_train(inputs: Inputs) -> Iterator[Finding]:
    """Columns of counts that train rows would not have chosen."""
    for name, again in _each(inputs):
        if again.columns:
            yield Finding(f"features {name}", again.columns, 1)


def is_shifted(again: Again) -> bool:
    """Whether what differs mostly equals the next event's."""
    other = ~again.same(again.cut)
    late = other & again.same(again.later)
    return bool(late.sum() > _SHIFTED * other.sum()) if other.any() else False


def _each(inputs: Inputs) -> Iterator[tuple[str, Again]]:
    if not inputs.features:
        raise Skipped("needs --features")
    reasons, looked = [], False
    for name in inputs.features:
        try:
            again = inputs.again(name, extracted_again)
        except Skipped as e:
            reasons.append(str(e))
            continue
        looked = True
        yield name, again
    if not looked:
        raise Skipped("; ".join(dict.fromkeys(reasons)))
