"""Inputs that were not made from each other: another data set, other tokens, other delays."""

from collections.abc import Iterator

from ehr_eval.audit.found import Finding, Skipped
from ehr_eval.audit.inputs import Inputs
from ehr_eval.features.read import refuse_other_delays
from ehr_tracking.errors import UserError
from ehr_tracking.manifest import load_manifest

_KINDS = ("meds", "labels", "tokens", "checkpoint")


def other_inputs(inputs: Inputs) -> Iterator[Finding]:
    """What an artifact says that it was made from, against what was given."""
    given = inputs.sources
    made = {name: source for name, source in given.items() if source.inputs}
    looked = False
    for name, source in made.items():
        # by the kind of its own parents only: those of a checkpoint may be of another site
        for kind, parent in source.inputs.items():
            role = kind if kind in _KINDS or kind.startswith(("features.", "predictions.")) else ""
            if not role or role not in given:
                continue
            looked = True
            if parent.fingerprint != given[role].fingerprint:
                yield Finding(
                    _told(name),
                    f"was made from other {role.partition('.')[0]} than those given",
                    1,
                )
    if len(inputs.features) > 1:
        looked = True
        try:
            refuse_other_delays(inputs.features)
        except UserError as e:
            yield Finding("features", str(e), len(inputs.features))
    yield from _other_vocabulary(inputs)
    if not looked:
        raise Skipped("needs two inputs of which one says that it was made from the other")


def _other_vocabulary(inputs: Inputs) -> Iterator[Finding]:
    path, tokens = inputs.given.checkpoint, inputs.given.tokens
    if path is None or tokens is None:
        return
    from ehr_tracking.checkpoints import reading

    with reading(path) as directory:
        theirs = load_manifest(directory).files.get("vocab.parquet")
    ours = load_manifest(tokens).files.get("vocab.parquet")
    if theirs and ours and theirs.sha256 != ours.sha256:
        yield Finding(
            "checkpoint", "was trained with another vocabulary than that of the tokens", 1
        )


def _told(name: str) -> str:
    kind, _, own = name.partition(".")
    return f"{kind} {own}" if own else kind
