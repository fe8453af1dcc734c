"""The card of a model: README.md as hubs show it, and `metadata.json` for programs."""

import json
from collections.abc import Iterable
from typing import Any

from ehr_models import __version__
from ehr_models.exchange.config import SCHEMA, CardConfig
from ehr_models.exchange.facts import FEW, Facts, Scores
from ehr_tracking.manifest import Source

AUTO = {
    "pooled": "AutoModelForSequenceClassification",
    "both": "AutoModelForPreTraining",
    "mlm": "AutoModelForMaskedLM",
    "clm": "AutoModelForCausalLM",
}
"""What transformers calls a model with that head; of one over tokens, by what it is pretrained for."""
_SEES = {"past": "causal: a token's state depends on what came before", "all": "bidirectional"}
_ARRAYS = {"input_ids": "token"}
"""Argument of a model -> column of the tokenizer's arrays, where they are not called alike."""


def title(facts: Facts, card: CardConfig) -> str:
    """The user's, else kind and size."""
    return card.title or " ".join(filter(None, (facts.kind, facts.size, "of health records")))


def readme(facts: Facts, card: CardConfig) -> str:
    """The card as Markdown, with the front matter that hubs read."""
    sections = (
        ("Use", _use(facts)),
        ("Data", _data(facts, card)),
        ("Tokenizer and vocabulary", _vocabulary(facts)),
        ("Architecture", _architecture(facts)),
        ("Training", _training(facts)),
        ("Results", [line for scores in facts.scores for line in _results(scores)]),
        ("Intended use", [card.intended_use]),
        ("Limits", [f"- {limit}" for limit in card.limits]),
        ("Privacy", _privacy(facts)),
        ("Licence and contact", _licence(card)),
        ("Citation", ["```", card.citation.strip(), "```"] if card.citation else []),
        ("Versions", [f"- {v}: {text}" for v, text in sorted(card.changelog.items())]),
    )
    lines = [*_front(facts, card), "", f"# {title(facts, card)}", ""]
    if card.summary:
        lines += [card.summary.strip(), ""]
    for name, text in sections:
        if text:
            lines += [f"## {name}", "", *text, ""]
    lines.append(
        f"Written by ehr-models {__version__} from the manifests of the model; `manifest.json` lists every "
        "file with its SHA-256 and carries the whole lineage."
    )
    return "\n".join(lines) + "\n"


def metadata(facts: Facts, card: CardConfig, packages: dict[str, str]) -> dict[str, Any]:
    """The same for programs, in the manner of MONAI's bundles."""
    return {
        "schema": SCHEMA,
        "name": title(facts, card),
        "version": card.version,
        "changelog": dict(sorted(card.changelog.items())),
        "licence": card.licence,
        "authors": list(card.contacts),
        "description": card.summary,
        "intended_use": card.intended_use,
        "limits": list(card.limits),
        "packages": dict(facts.environment.get("packages") or packages),
        "data": {
            "description": card.data,
            "sources": {role: _named(s) for role, s in facts.licensed_data.items()},
            "inputs": {role: _named(s) for role, s in facts.manifest.inputs.items()},
        },
        "model": {
            "kind": facts.kind,
            "size": facts.size,
            "head": facts.head,
            "parameters": facts.parameters,
            "adapter": facts.adapter is not None,
            "checkpoint": facts.source.fingerprint,
            "producer": facts.manifest.producer,
        },
        "tokenizer": {
            "scheme": facts.scheme.get("kind"),
            "tokens": len(facts.words),
            "kinds": dict(sorted(facts.kinds.items())),
            "min_subjects": facts.fitted.get("min_subjects"),
            "tokens_of_few_subjects": facts.rare,
        },
        "training": {
            "objective": _objective(facts),
            "seed": facts.manifest.seed,
            **facts.progress,
            "config": facts.manifest.config,
        },
        "metrics": dict(facts.metrics),
        "results": {
            s.name: [
                {"task": r.task, "head": r.head, "metric": r.metric, "value": r.value,
                 "lower": r.lower, "upper": r.upper, "n": r.n}
                for r in s.rows
            ]
            for s in facts.scores
        },
    }  # fmt: skip


def _named(source: Source) -> dict[str, str]:
    return {
        "contract": source.contract,
        "producer": source.producer,
        "fingerprint": source.fingerprint,
    }


def _front(facts: Facts, card: CardConfig) -> list[str]:
    """YAML; JSON's texts are YAML's."""
    tags = ["electronic-health-records", "meds", facts.kind, facts.pretraining]
    lines = ["---", f"license: {json.dumps(card.licence)}"] if card.licence else ["---"]
    library = "peft" if facts.adapter is not None else "transformers"
    lines += [f"library_name: {library}", "tags:", *(f"- {json.dumps(tag)}" for tag in tags)]
    rows = [(scores, row) for scores in facts.scores for row in scores.rows]
    if rows:
        lines += ["model-index:", f"- name: {json.dumps(title(facts, card))}", "  results:"]
    for scores, row in rows:
        source = json.dumps(f"results {scores.source.fingerprint[:16]}")
        lines += [
            "  - task:",
            "      type: tabular-classification",
            "    dataset:",
            f"      name: {json.dumps(row.task)}",
            f"      type: {source}",
            "    metrics:",
            f"    - type: {row.metric}",
            f"      name: {json.dumps(f'{row.metric} ({row.head})')}",
            f"      value: {row.value:.6g}",
        ]
    return [*lines, "---"]


def _use(facts: Facts) -> list[str]:
    if facts.adapter is not None:
        base = facts.manifest.inputs["base"].fingerprint
        return [
            f"An adapter: it needs the checkpoint whose manifest has the SHA-256 `{base}`.",
            "",
            "```python",
            "from ehr_models.checkpoint import load_adapter",
            "",
            'model = load_adapter(".", base="path/of/that/checkpoint").model',
            "```",
        ]
    auto = AUTO[facts.pretraining if facts.head == "token" else facts.head]
    remote = ", trust_remote_code=True" if facts.remote else ""
    arguments = [f'{name}=inputs["{_ARRAYS.get(name, name)}"]' for name in facts.inputs]
    if facts.scheme.get("visits") == "none":
        arguments = [a for a in arguments if not a.startswith("segment")]
    code = [
        "```python",
        "import torch",
        "from datetime import datetime",
        f"from transformers import {auto}",
        "from ehr_tokenize.tokenizer.encode import Event",
        "from ehr_tokenize.tokenizer.tokenizer import Tokenizer",
        "",
        f'model = {auto}.from_pretrained("."{remote}).eval()',
        'tokenizer = Tokenizer.from_pretrained(".")',
        f"events = [Event({_example(facts)!r}, time=datetime(2020, 1, 1))]",
        "inputs = {k: torch.from_numpy(v) for k, v in tokenizer([events]).padded().items()}",
        f'logits = model({", ".join(arguments)}, attention_mask=inputs["attention_mask"].long()).logits',
        "```",
    ]
    if facts.remote:
        code += ["", "The code that this runs lies beside the weights; read it before."]
    return code


def _example(facts: Facts) -> str:
    """The code that most people have: nobody can be told by it."""
    known = [w for w in facts.words if w.kind == "code" and w.code]
    return max(known, key=lambda w: w.subjects).code or "CODE" if known else "CODE"


def _data(facts: Facts, card: CardConfig) -> list[str]:
    lines = [card.data.strip(), ""] if card.data else []
    lines += ["| input | contract | written by | fingerprint |", "|---|---|---|---|"]
    given = {**facts.manifest.inputs, **facts.licensed_data}
    for role, s in given.items():
        lines.append(f"| {role} | {s.contract} | {s.producer} | `{s.fingerprint}` |")
    if not card.data:
        lines += ["", "Where these records are from and under which terms was not said."]
    return lines


def _vocabulary(facts: Facts) -> list[str]:
    kinds = ", ".join(f"{n:,} {kind}" for kind, n in facts.kinds.most_common())
    lines = [f"- {len(facts.words):,} tokens: {kinds}"]
    if facts.scheme:
        scheme = facts.scheme
        parts = {k: v for k, v in scheme.items() if k != "kind" and v not in (False, "none")}
        told = ", ".join(f"{k} {v}" if v is not True else k for k, v in parts.items())
        lines.append(f"- scheme `{scheme.get('kind')}`: {told}")
    if facts.fitted.get("n_bins"):
        lines.append(f"- at most {facts.fitted['n_bins']} value bins a code, from the train split")
    limits = ("min_count", "min_subjects", "max_size", "rank")
    told = ", ".join(f"{k} = {facts.fitted[k]}" for k in limits if facts.fitted.get(k) is not None)
    return [*lines, f"- limits: {told}"] if told else lines


def _architecture(facts: Facts) -> list[str]:
    lines = [
        f"- kind `{facts.kind}`, size `{facts.size or 'not named'}`; {_SEES[facts.sees]}",
        f"- {facts.parameters:,} parameters (a tied weight counts once)",
    ]
    names = {
        "width": ("hidden_size", "n_embd"), "layers": ("num_hidden_layers", "n_layer"),
        "heads": ("num_attention_heads", "n_head"), "MLP": ("intermediate_size", "n_inner"),
        "positions": ("max_position_embeddings", "n_positions"), "experts": ("experts",),
    }  # fmt: skip
    for what, keys in names.items():
        value = next((facts.architecture[k] for k in keys if facts.architecture.get(k)), None)
        if value:
            lines.append(f"- {what}: {value}")
    if facts.adapter is not None:
        lines.append(
            f"- adapter: {facts.adapter.get('peft_type')}, rank {facts.adapter.get('r')}, on "
            f"{', '.join(facts.adapter.get('target_modules') or ())}"
        )
    return lines


def _objective(facts: Facts) -> str:
    objective = facts.manifest.config.get("objective") or {}
    return str(objective.get("kind") or "not known")


def _training(facts: Facts) -> list[str]:
    config, progress = facts.manifest.config, facts.progress
    rows: dict[str, object] = {
        "written by": facts.manifest.producer,
        "objective": _objective(facts),
        "steps": _count(progress.get("steps")),
        "tokens seen": _count(progress.get("tokens")),
        "hours": f"{progress['hours']:.2f}" if "hours" in progress else None,
        "seed": facts.manifest.seed,
        "context": _count((config.get("data") or {}).get("context")),
        "tokens a step": _count((config.get("data") or {}).get("batch_tokens")),
        "learning rate": (config.get("optim") or {}).get("lr"),
        "precision": config.get("precision"),
        "hardware": _hardware(facts.environment),
    }
    known = [f"| {k} | {v} |" for k, v in rows.items() if v is not None]
    known += [f"| {k} | {v:.6g} |" for k, v in sorted(facts.metrics.items()) if k != "step"]
    return ["| | |", "|---|---|", *known]


def _count(value: float | None) -> str | None:
    return None if value is None else f"{value:,.0f}"


def _hardware(environment: Any) -> str | None:  # noqa: ANN401 -- of a run's JSON
    told = {k: v for k, v in environment.items() if k != "packages"}
    return ", ".join(f"{k} {v}" for k, v in told.items()) or None


def _results(scores: Scores) -> Iterable[str]:
    yield f"`{scores.name}` in results `{scores.source.fingerprint[:16]}` (written by {scores.source.producer}):"
    yield ""
    yield "| task | head | metric | value | 95 % interval | rows |"
    yield "|---|---|---|---|---|---|"
    for r in scores.rows:
        interval = "" if r.lower is None or r.upper is None else f"{r.lower:.3f} to {r.upper:.3f}"
        yield f"| {r.task} | {r.head} | {r.metric} | {r.value:.3f} | {interval} | {r.n:,} |"
    yield ""


def _privacy(facts: Facts) -> list[str]:
    least = facts.fitted.get("min_subjects")
    lines = [
        "Weights of a model can hold parts of single records; `vocab.parquet` holds codes, bounds of "
        "value bins and how many subjects of the train split have each. Share both only as the terms "
        "of the data allow. No record, identifier or prediction of a person is among the files.",
        "",
    ]
    if least is None:
        lines.append("- Whether rare codes were left out of the vocabulary is not known.")
    elif least > 1:
        lines.append(f"- Every code in the vocabulary is of at least {least} subjects.")
    else:
        lines.append("- **No minimum of subjects per code was set**: a code may be of one person.")
    lines.append(f"- Tokens of fewer than {FEW} subjects in train: {facts.rare:,}.")
    if facts.scheme.get("text"):
        lines.append("- Text values are tokens: read them before the vocabulary is given away.")
    return lines


def _licence(card: CardConfig) -> list[str]:
    licence = (
        f"Licence: {card.licence}."
        if card.licence
        else "No licence was given: ask before you use or share this."
    )
    return [f"- {line}" for line in (licence, *card.contacts)]
