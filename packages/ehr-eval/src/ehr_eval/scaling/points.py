"""The points of a study: what each run came to, with how many parameters, after how many tokens."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ehr_eval.compare.models import records
from ehr_eval.compare.opened import Artifact, Given
from ehr_eval.compare.shares import best
from ehr_eval.protocol.best import mean_share
from ehr_eval.protocol.evaluation import AUROC
from ehr_eval.scaling.config import ScalingConfig
from ehr_tracking.comparison.records import Record
from ehr_tracking.contracts import ContractError
from ehr_tracking.errors import UserError

LOSS, SHARE = "loss", "share"
_TOKEN_LOSSES = ("clm", "mlm")
"""Objectives of tokens, each with a loss of its own; of a sum the part that is one is told."""


def read_points(given: Given, config: ScalingConfig) -> list[dict[str, Any]]:
    """A row a run and figure, in the columns of `scaling/1`.

    Args:
        given: Results that know the best possible, and the runs of their models.
        config: Head and k of the shares.

    Raises:
        ContractError: If results do not say how far from the best possible models are.
        UserError: If there is no run, or no results have the head.
    """
    if not given.runs:
        raise UserError("name the run of at least one model: --run MODEL@SEED=PATH")
    shares = {name: _shares(item, config) for name, item in given.results.items()}
    return [row for record in records(given) for row in _of_run(record, given, shares, config.ks)]


def family(config: Mapping[str, Any]) -> str:
    """What runs have in common that differ in size and tokens: kind and objective.

    Args:
        config: Of a run, resolved.

    Examples:
        >>> family({"model": {"kind": "gpt2"}, "objective": {"kind": "clm"}})
        'gpt2 clm'
        >>> parts = [{"objective": {"kind": "clm"}}, {"objective": {"kind": "time"}}]
        >>> family({"model": {"kind": "chrono"}, "objective": {"kind": "sum", "parts": parts}})
        'chrono clm+time'
    """
    kind = (config.get("model") or {}).get("kind")
    return f"{kind} {'+'.join(_parts(config))}"


def _parts(config: Mapping[str, Any]) -> list[str]:
    objective = config.get("objective") or {}
    parts = objective.get("parts") or [{"objective": objective}]
    return [str(part["objective"].get("kind")) for part in parts]


def _loss(record: Record, config: Mapping[str, Any]) -> float | None:
    """The least mean loss of a token of the tuning split, in nats."""
    parts = _parts(config)
    told = next((part for part in parts if part in _TOKEN_LOSSES), None)
    return record.best("val_loss" if len(parts) == 1 or told is None else f"val_{told}_loss")


def _of_run(
    record: Record,
    given: Given,
    shares: Mapping[str, Mapping[tuple[str, int], float]],
    ks: Sequence[int],
) -> Iterator[dict[str, Any]]:
    config = given.runs[record.name].manifest.config
    n, d = record.facts["parameters"], record.facts["tokens"]
    if not n or not d:
        raise ContractError(f"{record.path} has no checkpoint, or made no step")
    about = {
        "family": family(config),
        "model": record.name,
        "parameters": n,
        "tokens": d,
        "compute": 6.0 * n * d,
    }
    loss = _loss(record, config)
    if loss is not None:
        yield {**about, "results": None, "figure": LOSS, "k": None, "value": loss}
    for name, of in shares.items():
        for k in ks:
            if (record.name, k) in of:
                value = of[record.name, k]
                yield {**about, "results": name, "figure": SHARE, "k": k, "value": value}


def _shares(item: Artifact, config: ScalingConfig) -> dict[tuple[str, int], float]:
    """Model and k -> the mean over tasks, where there is one."""
    known = best(item)
    if not known:
        raise ContractError(
            f"{item.path} knows no best possible: evaluate with --risks, of a synthetic data set"
        )
    scores = item.table("results.parquet").filter(metric=AUROC, replicate=-1).drop_nulls("value")
    if config.head not in scores["head"]:
        there = ", ".join(scores["head"].unique(maintain_order=True))
        raise UserError(f"head: {item.path} has no head {config.head}; it has {there}")
    pairs: dict[tuple[str, int], list[tuple[float, float]]] = {}
    columns = scores.filter(head=config.head).select("model", "k", "task", "value")
    for model, k, task, value in columns.iter_rows():
        if task in known:
            pairs.setdefault((model, k), []).append((value, known[task]))
    means = {setting: mean_share(of) for setting, of in pairs.items()}
    return {setting: mean for setting, mean in means.items() if mean is not None}
