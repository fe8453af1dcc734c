"""Models whose every probability is known: a Markov chain written into the weights of a decoder."""

import json
import math

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from ehr_models.checkpoint import save_checkpoint
from ehr_models.kinds import KINDS
from ehr_models.registry import build
from ehr_tracking.contracts import BOS_ID, SPECIALS, TOKENS, VOCABULARY_COLUMNS
from ehr_tracking.manifest import new_artifact, seal

TYPES = {
    **{"int32": pa.int32(), "int64": pa.int64(), "string": pa.string(), "bool": pa.bool_()},
    **{"float": pa.float32(), "double": pa.float64()},
    "list<element: string>": pa.list_(pa.string()),
}
WORDS = pa.schema([(c.name, TYPES[c.dtype]) for c in VOCABULARY_COLUMNS])
NEVER = -1e4
"""Logit of what does not happen."""
DAY = 86_400_000_000


def word(token, kind="code", **fields):
    """A row of a vocabulary that train has seen."""
    told = {"code": token} if kind == "code" else {}
    return {"token": token, "kind": kind, "count": 9, "subjects": 9, **told, **fields}


class Chain:
    """A vocabulary, and for each token what follows it: {token: {next token: probability}}.

    Args:
        words: Behind the special tokens.
        follows: Probabilities of 1 in all, by token.
        gaps: Token -> probabilities of the bins of the time head for the gap before it.
        edges: Seconds between these bins, as of `TimeHead`.
        special: Count of special tokens that train has.
        scheme: Of the tokenizer's config.
        inner: Edges of bins by code.
    """

    def __init__(
        self, words, follows, *, gaps=None, edges=None, special=None, scheme=None, inner=None
    ):
        special = {"[BOS]": 9, **(special or {})}
        self.words = [word(t, "special", count=special.get(t, 0)) for t in SPECIALS] + list(words)
        self.ids = {w["token"]: i for i, w in enumerate(self.words)}
        self.follows, self.gaps, self.edges = follows, gaps, edges
        self.tokenizer = {"edges": inner or {}, "config": {"scheme": scheme or {}}}

    def logits(self):
        """[V, V] logarithm of the probability of each token after each."""
        found = np.full((len(self.words), len(self.words)), NEVER)
        for before, after in self.follows.items():
            for token, p in after.items():
                found[self.ids[before], self.ids[token]] = math.log(p)
        return torch.from_numpy(found).float()

    def tokens(self, out, records):
        """Write `tokens/1`; records are (subject, split, [(day or None, token)])."""
        with new_artifact(out, TOKENS, overwrite=True) as partial:
            rows = [{"id": i, **w} for i, w in enumerate(self.words)]
            pq.write_table(pa.Table.from_pylist(rows, WORDS), partial / "vocab.parquet")
            (partial / "tokenizer.json").write_text(json.dumps(self.tokenizer))
            for split in dict.fromkeys(r[1] for r in records):
                mine = [self._record(r) for r in records if r[1] == split]
                (partial / split).mkdir()
                pq.write_table(pa.Table.from_pylist(mine, RECORD), partial / split / "0.parquet")
            seal(partial, TOKENS, producer="test 0", config={}, seed=0)
        return out

    def _record(self, record):
        subject, _, events = record
        days = [d for d, _ in events]
        return {
            "subject_id": subject,
            "token": [BOS_ID, *(self.ids[t] for _, t in events)],
            "time": [None, *(None if d is None else round(d * DAY) for d in days)],
            "age": [0.0, *(0.0 if d is None else 10_000.0 + d for d in days)],
            "visit": [0, *(0 if d is None else 1 for d in days)],
        }

    def model(self, kind="llama", **overrides):
        """The chain as a model: states are one-hot, and the head holds the logarithms."""
        width = -(-len(self.words) // 4) * 4
        config = KINDS[kind].config(
            size="tiny", layers=1, hidden=width, heads=2, intermediate=8, **overrides
        )
        torch.manual_seed(0)
        model = build(config, len(self.words))
        model.config.tie_word_embeddings = False
        n = len(self.words)
        with torch.no_grad():
            table = torch.zeros(model.config.vocab_size, width)
            table[:n, :n] = torch.eye(n)
            model.get_input_embeddings().weight.copy_(table)
            model.model.layers[0].self_attn.o_proj.weight.zero_()
            model.model.layers[0].mlp.down_proj.weight.zero_()
            head = torch.nn.Linear(width, model.config.vocab_size, bias=False)
            head.weight.zero_()
            head.weight[:n, :n] = self.logits().T / math.sqrt(width)
            model.lm_head = head
            if self.gaps is not None:
                self._tell_gaps(model, width)
        return model.eval()

    def _tell_gaps(self, model, width):
        from ehr_models.heads.forecasts import attach

        attach(model, "time", {"edges": self.edges})
        head = model.time_head
        head.from_state.weight.zero_()
        head.from_token.weight.copy_(torch.eye(width))
        head.out.weight.fill_(0.0)
        head.out.bias.zero_()
        scale = torch.nn.functional.silu(torch.tensor(math.sqrt(width)))
        for token, shares in self.gaps.items():
            logs = [math.log(p) if p else NEVER for p in shares]
            head.out.weight[:, self.ids[token]] = torch.tensor(logs) / scale

    def checkpoint(self, out, tokens, kind="llama", *, context=None, **overrides):
        """Write it as a run's checkpoint."""
        out.mkdir(parents=True)
        save_checkpoint(
            out,
            self.model(kind, **overrides),
            tokens,
            metrics={},
            producer="test 0",
            config={"data": {"context": context}} if context else {},
            seed=0,
            inputs={},
        )
        return out


RECORD = pa.schema(
    {
        "subject_id": pa.int64(),
        "token": pa.list_(pa.uint16()),
        "time": pa.list_(pa.timestamp("us")),
        "age": pa.list_(pa.float32()),
        "visit": pa.list_(pa.uint16()),
    }
)


def labels(out, rows):
    """One task's labels of (subject, day)."""
    (out / "task").mkdir(parents=True)
    table = pa.table(
        {
            "subject_id": pa.array([s for s, _ in rows], pa.int64()),
            "prediction_time": pa.array([round(d * DAY) for _, d in rows], pa.timestamp("us")),
            "boolean_value": pa.array([False] * len(rows)),
        }
    )
    pq.write_table(table, out / "task" / "labels.parquet")
    return out
