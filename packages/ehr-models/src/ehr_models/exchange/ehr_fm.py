"""Checkpoints of EHR_FM: `vocab_stoi`, `model_configs` and `model` in one file of `torch.save`.

Its GPT-2 without biases, with experts or without, is our kind gpt2_moe: linear maps under other names. Two
things differ. Its `stride` is not read by its own model: every layer has experts. And its experts have a
capacity, beyond which tokens are dropped; ours have none, so logits are the same wherever nothing was dropped.

V tokens of theirs, W rows of their embedding, D width, E experts.
"""

# transformers leaves some methods untyped
# mypy: allow-untyped-calls

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ehr_models.exchange.weights import read_pickle
from ehr_models.kinds.gpt2_moe.model import Gpt2MoeConfig
from ehr_models.registry import from_architecture
from ehr_models.vocabulary import Word
from ehr_tracking.contracts import SPECIALS
from ehr_tracking.errors import UserError

KEYS = ("vocab_stoi", "model_configs", "model")
_RENAMED = (
    (r"\.router\.w_g\.weight$", ".mlp.router.weight"),
    (r"\.experts\.c_fc$", ".mlp.experts.up"),
    (r"\.experts\.c_proj$", ".mlp.experts.down"),
)
_NOISE = ".router.w_noise.weight"
"""Of training alone."""
_UNIT = {"m": 60, "h": 3600, "d": 86_400, "mt": 30 * 86_400, "mo": 30 * 86_400, "y": 365 * 86_400}
_LENGTH = r"(?:\d+(?:mt|mo|m|h|d|y))+"
_TIME = re.compile(rf"=({_LENGTH})|({_LENGTH})-({_LENGTH})")
_QUANTILE = re.compile(r"Q(\d+)")


def read_checkpoint(path: Path) -> tuple[PreTrainedModel, list[Word]]:
    """The model over our special tokens and all of theirs, and what these are.

    Args:
        path: The .pt file.

    Raises:
        UserError: If it is no such file, or of a model that ours cannot be.
    """
    held = read_pickle(path)
    absent = [
        key for key in KEYS if not isinstance(held, dict) or not isinstance(held.get(key), dict)
    ]
    if absent:
        raise UserError(f"{path} is no checkpoint of EHR_FM: it has no {absent[0]}")
    stoi, settings, state = (held[key] for key in KEYS)
    tokens = _tokens(path, stoi)
    weights = {
        _renamed(name): value
        for name, value in state.items()
        if isinstance(value, Tensor) and not name.endswith(_NOISE)
    }
    rows = weights.get("transformer.wte.weight", weights.get("lm_head.weight"))
    if rows is None:
        raise UserError(f"{path}: model has no transformer.wte.weight")
    if len(rows) < len(tokens):
        raise UserError(
            f"{path}: the embedding has {len(rows):,} rows, but vocab_stoi names {len(tokens):,} tokens"
        )
    model = _model(path, settings, len(SPECIALS) + len(tokens))
    spare = rows[len(tokens)] if len(rows) > len(tokens) else rows.mean(0)
    laid = torch.cat([spare.expand(len(SPECIALS), -1), rows[: len(tokens)]])
    weights["transformer.wte.weight"] = weights["lm_head.weight"] = laid
    own = model.state_dict()
    different = sorted(own.keys() ^ weights.keys()) or sorted(
        name for name in own if own[name].shape != weights[name].shape
    )
    if different:
        raise UserError(
            f"{path}: model_configs do not tell the model: they differ in {different[0]}"
        )
    model.load_state_dict(weights)
    model.eval()
    return model, words(tokens)


def _tokens(path: Path, stoi: Mapping[Any, Any]) -> list[str]:
    """Theirs, in the order of their ids."""
    if sorted(stoi.values()) != list(range(len(stoi))) or not all(isinstance(t, str) for t in stoi):
        raise UserError(f"{path}: vocab_stoi is not text to 0, 1, 2...")
    clash = sorted(set(stoi) & set(SPECIALS))
    if clash:
        raise UserError(f"{path}: vocab_stoi has {clash[0]}, which is a special token here")
    return sorted(stoi, key=stoi.__getitem__)


def _renamed(name: str) -> str:
    for pattern, other in _RENAMED:
        name = re.sub(pattern, other, name)
    return name


def _model(path: Path, settings: Mapping[str, Any], rows: int) -> PreTrainedModel:
    experts = int(settings.get("n_experts") or 1)
    top_k = int(settings.get("top_k") or 1)
    if settings.get("bias"):
        raise UserError(f"{path}: a model with biases, which kind gpt2_moe has not")
    if experts > 1 and top_k < 2:
        raise UserError(
            f"{path}: top_k = 1 counts each expert as 1 there and by its probability here: not the same model"
        )
    try:
        config = Gpt2MoeConfig(
            vocab_size=rows,
            true_vocab_size=rows,
            n_positions=settings["n_positions"],
            n_embd=settings["n_embd"],
            n_layer=settings["n_layer"],
            n_head=settings["n_head"],
            n_inner=settings.get("n_inner") or 4 * settings["n_embd"],
            activation_function=settings["activation_function"],
            experts=experts,
            experts_per_token=top_k if experts > 1 else 1,
            every=1,
            balance=float(
                settings.get("aux_loss_weight", 0.01) if settings.get("use_aux_loss") else 0
            ),
            z=float(
                settings.get("router_z_loss_weight", 0.001)
                if settings.get("use_router_z_loss")
                else 0
            ),
            resid_pdrop=float(settings.get("resid_pdrop") or 0),
            embd_pdrop=float(settings.get("embd_pdrop") or 0),
            attn_pdrop=float(settings.get("attn_pdrop") or 0),
        )
        return from_architecture(config, "token")
    except KeyError as e:
        raise UserError(f"{path}: model_configs has no {e.args[0]}") from None
    except (ValueError, TypeError) as e:
        raise UserError(f"{path}: model_configs: {str(e).splitlines()[0]}") from None


def words(tokens: list[str]) -> list[Word]:
    """What its tokens are, behind ours that are special: quantiles, intervals of time, and codes.

    Examples:
        >>> found = words(["Q3", "15m-45m", "=6mt", "LAB//50912"])[7:]
        >>> [(w.kind, w.bin, w.seconds, w.code) for w in found]
        [('bin', 3, None, None), ('time', None, 1800.0, None), ('time', None, 15552000.0, None), ('code', None, None, 'LAB//50912')]
    """
    made = [_word(i, text, "special") for i, text in enumerate(SPECIALS)]
    for at, text in enumerate(tokens):
        quantile, time = _QUANTILE.fullmatch(text), _TIME.fullmatch(text)
        told: dict[str, Any] = {"origin": at}
        if quantile:
            told |= {"kind": "bin", "bin": int(quantile[1])}
        elif time:
            lengths = [_seconds(part) for part in time.groups() if part]
            told |= {"kind": "time", "seconds": sum(lengths) / len(lengths)}
        else:
            told |= {"kind": "code", "code": text}
        made.append(_word(len(made), text, **told))
    return made


def _word(number: int, text: str, kind: str, **told: Any) -> Word:  # noqa: ANN401 -- fields of `Word`
    blank: dict[str, Any] = dict.fromkeys(
        ("code", "bin", "lower", "upper", "description", "parents")
    )
    return Word(id=number, token=text, kind=kind, count=0, subjects=0, **{**blank, **told})


def _seconds(text: str) -> float:
    return float(sum(int(n) * _UNIT[u] for n, u in re.findall(r"(\d+)(mt|mo|m|h|d|y)", text)))
