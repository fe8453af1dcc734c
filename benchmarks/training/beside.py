"""Ours beside Hugging Face's Trainer, in turns: each round has every contender once."""

import sys
from pathlib import Path
from statistics import median
from typing import Any

import large
from contenders import (
    APART,
    BASE,
    GROUPED,
    LONG,
    LONG_TWO,
    MODELS,
    OURS,
    PADDED,
    STEPS,
    TWO,
    device,
    in_own_process,
    measure,
    our_config,
    places,
    scale,
)
from records import VOCABULARY, write_tokens

Turn = dict[str, dict[str, float]]


def compare(
    scratch: Path, models: list[str], peaks: dict[str, float], *, rounds: int, quick: bool
) -> dict[str, Any]:
    """Rounds over all models and contenders.

    Args:
        scratch: For tokens and runs.
        models: Names of `MODELS`.
        peaks: GFLOP per second of a product of matrices on the device, by precision.
        rounds: Turns of each contender.
        quick: Fewer steps.

    Returns:
        Rows of a table, all turns, and the seconds to the first step of the command.
    """
    data = in_own_process(write_tokens, scratch / "tokens", scale())
    names = [PADDED, GROUPED, OURS]
    if places() > 1:
        names += [TWO, LONG, LONG_TWO] + ([] if quick or device() == "cuda" else [APART])
    turns: dict[str, list[Turn]] = {model: [] for model in models}
    for number in range(1, rounds + 1):
        for model in models:
            order = names if number % 2 else names[::-1]
            turns[model].append(
                {
                    n: in_own_process(measure, n, model, data, number, _steps(n, quick))
                    for n in order
                }
            )
            print(f"... {turns[model][-1]}", file=sys.stderr)
    return {
        "rows": [row for model in models for row in _rows(model, turns[model], peaks)],
        "turns": turns,
        "seconds_to_first_step": round(large.watch(data, scratch / "started", 1)["seconds"], 1),
    }


def _steps(contender: str, quick: bool) -> int:
    return max(1, STEPS[contender] // (2 if quick else 1))


def _rows(model: str, turns: list[Turn], peaks: dict[str, float]) -> list[dict[str, str]]:
    """A row for each contender: medians over rounds and their range."""
    clock = "wall" if device() == "cuda" else "cpu"
    flops = in_own_process(_flops, model)
    rows = []
    for name in turns[0]:
        both, alone = name in BASE, name in (OURS, LONG)
        key = "wall" if both else clock
        rates = [turn[name][key] for turn in turns]
        ratios = [
            turn[name][key] / turn[BASE[name]][key] if both else turn[OURS][key] / turn[name][key]
            for turn in turns
        ]
        share = median(rates) * flops / (peaks[our_config(model).precision] * 1e9)
        rows.append(
            {
                "model": model,
                "contender": name,
                "tokens/s": spread([turn[name]["wall"] for turn in turns], ",.0f"),
                "tokens/CPU-s": "-" if both else spread([t[name]["cpu"] for t in turns], ",.0f"),
                "ours / it": "" if both or alone else spread(ratios, ".2f"),
                "two / one": spread(ratios, ".2f") if both else "",
                "of the peak": f"{share:.0%}" if alone else "",
                "waits": f"{median(t[name]['waited'] for t in turns):.2%}" if alone else "",
                "peak MB": f"{max(turn[name]['peak_mb'] for turn in turns):,.0f}",
            }
        )
    return rows


def _flops(model: str) -> int:
    """Of a token, forward and backward through all matrices but tables and the output layer."""
    from ehr_models.registry import build
    from ehr_train.speed import flops_per_token

    return flops_per_token(build(our_config(model).model, VOCABULARY))


def spread(values: list[float], form: str) -> str:
    """Median and range.

    Examples:
        >>> spread([1.0, 3.0, 2.0], ".1f")
        '2.0 (1.0 to 3.0)'
    """
    return f"{median(values):{form}} ({min(values):{form}} to {max(values):{form}})"


def names(*, quick: bool, large_too: bool) -> list[str]:
    """The models to train."""
    every = list(MODELS)
    if quick:
        return every[:1]
    return every[3:4] if large_too else every[:3]
