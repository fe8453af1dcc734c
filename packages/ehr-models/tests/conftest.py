"""Tiny token data sets and batches, made here since no tokenizer may be imported."""

import json
from importlib import import_module
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

import ehr_models.kinds
from ehr_models.data.batch import pack
from ehr_models.data.tokens import STATIC, Tokens, leading
from ehr_models.data.windows import Windows, newest
from ehr_models.forecasts.time import time_edges
from ehr_models.heads.forecasts import attach
from ehr_models.kinds import KINDS
from ehr_models.kinds.behrt import BehrtModelConfig
from ehr_models.kinds.chrono import ChronoModelConfig
from ehr_models.kinds.exmed_bert import ExMedBertModelConfig
from ehr_models.kinds.gpt2_moe import Gpt2MoeModelConfig
from ehr_models.kinds.hyena import HyenaModelConfig
from ehr_models.registry import build, look_up
from ehr_tracking.contracts import BOS_ID, CLS_ID, SPECIALS, TOKENS
from ehr_tracking.manifest import seal

# A kind that is only here, added as docs/extend.md says: a folder `mixer` among the kinds, ...
ehr_models.kinds.__path__.append(str(Path(__file__).parent / "kinds"))
MIXER = import_module("ehr_models.kinds.mixer").MIXER

VOCAB = 90
ZOO = {**{name: kind for name, kind in KINDS.items() if kind.sizes}, "mixer": MIXER}
OPTIONS = {
    "llama": {"kv_heads": 2},
    "gpt2_moe": {"hidden": 32, "heads": 2, "every": 1},
    "modernbert": {"window": 16, "every": 2},
    "mistral": {"window": 9},
    "qwen3": {"head_width": 16},
    "mamba2": {"hidden": 32, "intermediate": 64, "heads": 4, "state": 16, "chunk": 8},
    "hyena": {"hidden": 32, "intermediate": 48, "filter_width": 16},
}
TINY = {
    name: kind.config(size=next(iter(kind.sizes)), layers=2, **OPTIONS.get(name, {}))
    for name, kind in ZOO.items()
}
"""One of every kind in the table, as small as it comes."""
CODES = [*SPECIALS, "GENDER//F", "GENDER//M", "STATE//NY", "STATE//TX", "STATE//CA"]
CODES += [f"{('ATC', 'DIAGNOSIS', 'LAB')[i % 3]}//{i}" for i in range(len(CODES), VOCAB)]
"""What the tokens stand for, to kinds that go by that."""
VARIANTS = {
    "behrt-original": BehrtModelConfig(size="original", layers=2),
    "exmed_bert-paper": ExMedBertModelConfig(
        size="paper", layers=2, hidden=48, position="learned", initialization="normal"
    ),
    "behrt-narrow": BehrtModelConfig(size="tiny", embedding=24, age="sinusoid", time="months"),
    "gpt2_moe-shared": Gpt2MoeModelConfig(
        size="small-8", hidden=32, heads=2, intermediate=48, layers=2, shared=True, bias_rate=0.01
    ),
    "behrt-learned": BehrtModelConfig(size="tiny", position="learned", age="none", time="none"),
    "hyena-third": HyenaModelConfig(
        size="tiny", layers=2, hidden=32, intermediate=48, order=3, taps=2, tied=True
    ),
    "chrono-time": ChronoModelConfig(size="tiny", layers=2, positions="time", time="date"),
    "chrono-order": ChronoModelConfig(
        size="tiny", layers=2, positions="order", age="none", time="none", kv_heads=4
    ),
    "chrono-forecasts": ChronoModelConfig(size="tiny", layers=2, age="none"),
}
EVENTS = {
    "codes": ["A", "B"],
    "ids": [[8], [9, 10]],
    "value_ids": [[], [9, 10]],
    "edges": [0.0, 3600.0, 86_400.0, 1e8],
    "rank": 4,
}
FORECASTS = {
    "chrono-forecasts": {
        "time": {"edges": time_edges(9)},
        "events": EVENTS,
        "query": {"blocks": 1, "heads": 4},
    }
}
"""Variant -> heads beside that of the next token, and what its configuration says of them."""

EVERY_HEAD = [
    *({"pooling": how} for how in ("last", "mean", "max", "sum", "attention", "bigru", "cls")),
    {"shape": "ffn", "hidden": 12, "layers": 2, "pooling": "attention"},
    {"shape": "gru", "hidden": 6, "layers": 2},
    {"shape": "lstm"},
]
"""Each pooling and each shape."""


@pytest.fixture(autouse=True)
def mixer_in_the_table(monkeypatch):
    """... and a line in the table; for these tests alone."""
    monkeypatch.setitem(KINDS, "mixer", MIXER)


def pytest_generate_tests(metafunc):
    """`kind_name` is every kind of the table; `model` every kind and variant, built; `by_spans` the
    names of those whose subjects attention keeps apart."""
    if "kind_name" in metafunc.fixturenames:
        metafunc.parametrize("kind_name", list(TINY))
    if "model" in metafunc.fixturenames:
        metafunc.parametrize("model", [*TINY, *VARIANTS], indirect=True)
    if "by_spans" in metafunc.fixturenames:
        configs = (TINY | VARIANTS).items()
        metafunc.parametrize("by_spans", [n for n, c in configs if ZOO[c.kind].isolates == "spans"])


def sizes_over_depth(backbone, input_ids, **inputs):
    """Root mean square of the states before the first block and behind each."""
    sizes = []

    def note(states):
        sizes.append(states.square().mean().sqrt().item())

    blocks = next(m for m in backbone.modules() if isinstance(m, torch.nn.ModuleList))
    blocks[0].register_forward_pre_hook(lambda _module, args: note(args[0]))
    for block in blocks:
        block.register_forward_hook(
            lambda _module, _args, out: note(out[0] if isinstance(out, tuple) else out)
        )
    with torch.no_grad():
        backbone(input_ids=input_ids, **inputs)
    return sizes


def _write_tokens(directory, subjects=None, *, first="bos", vocab=VOCAB, contract=TOKENS, seed=0):
    """Write and seal `tokens/1`; `subjects` is split -> subjects of each shard."""
    rng = np.random.default_rng(seed)
    directory.mkdir(parents=True)
    codes = [f"C//{seed}//{i}" for i in range(vocab - len(SPECIALS))]
    pq.write_table(
        pa.table({"id": pa.array(range(vocab), pa.int32()), "token": [*SPECIALS, *codes]}),
        directory / "vocab.parquet",
    )
    (directory / "tokenizer.json").write_text(json.dumps({"seed": seed}))
    subject = 0
    for split, shards in (subjects or {"train": [3, 2], "tuning": [2]}).items():
        (directory / split).mkdir()
        for shard, n in enumerate(shards):
            rows = []
            for _ in range(n):
                subject += 1
                length = int(rng.integers(3, 12))
                times = np.sort(rng.integers(10**15, 16 * 10**14, length))
                rows.append(
                    {
                        "subject_id": subject,
                        "token": [
                            BOS_ID if first == "bos" else CLS_ID,
                            *rng.integers(len(SPECIALS), vocab, length).tolist(),
                        ],
                        "time": [None, *times.tolist()],
                        "age": [0.0, *np.sort(rng.uniform(0, 30_000, length)).tolist()],
                        "visit": [0, *np.sort(rng.integers(1, 5, length)).tolist()],
                        "segment": [0, *rng.integers(0, 2, length).tolist()],
                    }
                )
            pq.write_table(
                pa.Table.from_pylist(rows, schema=SCHEMA), directory / split / f"{shard}.parquet"
            )
    seal(directory, contract, producer="test 0", config={}, seed=seed)
    return directory


SCHEMA = pa.schema(
    {
        "subject_id": pa.int64(),
        "token": pa.list_(pa.uint16()),
        "time": pa.list_(pa.timestamp("us")),
        "age": pa.list_(pa.float32()),
        "visit": pa.list_(pa.uint16()),
        "segment": pa.list_(pa.uint8()),
    }
)


@pytest.fixture(scope="session")
def make_tokens():
    return _write_tokens


@pytest.fixture
def records():
    """Flat arrays of seven subjects of 1 to 60 tokens, behind a [CLS] and up to two static ones."""
    rng = np.random.default_rng(1)
    lengths = np.array([1, 9, 60, 2, 17, 9, 33])
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    n = offsets[-1]
    token = rng.integers(len(SPECIALS), VOCAB, n).astype(np.uint16)
    token[offsets[:-1]] = CLS_ID
    time = rng.integers(10**15, 16 * 10**14, n)
    for first, length, static in zip(offsets, lengths, [1, 3, 2, 1, 1, 3, 2], strict=False):
        time[first : first + length].sort()
        time[first : first + static] = STATIC
    return Tokens(
        subject_id=np.arange(len(lengths)),
        offsets=offsets,
        prefix=leading(offsets, token, time),
        token=token,
        time=time,
        age=rng.uniform(0, 30_000, n).astype(np.float32),
        visit=rng.integers(0, 5, n).astype(np.uint16),
        segment=rng.integers(0, 2, n).astype(np.uint8),
    )


@pytest.fixture
def windows(records) -> Windows:
    """Every record, whole."""
    return newest(records, np.arange(len(records)), np.diff(records.offsets), 60)


@pytest.fixture
def spans(windows):
    """The same, one at a time."""
    return [windows.take(slice(i, i + 1)) for i in range(len(windows))]


@pytest.fixture
def batch(records, windows):
    return pack(records, windows)


@pytest.fixture
def make_model():
    """A seeded model in evaluation mode, with biases and norms away from their initial values."""

    def make(name, **overrides):
        config = (TINY | VARIANTS)[name]
        if overrides:
            config = type(config)(**{**config.__dict__, **overrides})
        torch.manual_seed(0)
        model = build(config, VOCAB)
        if KINDS[config.kind].lookups is not None:
            look_up(model, config, CODES)
        for head, settings in FORECASTS.get(name, {}).items():
            attach(model, head, settings)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=0.05)
        return model.eval()

    make.configs = TINY | VARIANTS
    return make


@pytest.fixture
def every_name():
    return [*TINY, *VARIANTS]


@pytest.fixture
def model(request, make_model):
    return make_model(request.param)


@pytest.fixture
def inputs_of():
    """The arguments of a model from a batch, each [T]."""

    def inputs(model, batch):
        fields = KINDS[model.config.model_type].inputs
        return {name: getattr(batch, field) for name, field in fields.items()}

    return inputs


@pytest.fixture
def padded(inputs_of):
    """The arguments of a model from a batch, padded to [S, L], and their mask."""

    def pad(model, batch, side="right"):
        rows = {**inputs_of(model, batch), "attention_mask": torch.ones_like(batch.input_ids)}
        lengths = batch.cu_seqlens.diff().tolist()
        return {
            name: torch.nn.utils.rnn.pad_sequence(v.split(lengths), True, 0, padding_side=side)
            for name, v in rows.items()
        }

    return pad


@pytest.fixture
def tokens_with_words(tmp_path: Path):
    """Tokens whose vocabulary holds these codes behind the special tokens."""

    def write(codes):
        directory = _write_tokens(tmp_path / "tokens", vocab=len(SPECIALS) + len(codes))
        words = [
            {
                "id": i,
                "token": t,
                "kind": "code" if i >= len(SPECIALS) else "special",
                "count": 0,
                "subjects": 0,
            }
            | ({"code": t} if i >= len(SPECIALS) else {})
            for i, t in enumerate([*SPECIALS, *codes])
        ]
        schema = pa.schema([(c.name, TYPES[c.dtype]) for c in TOKENS.beside["vocab.parquet"]])
        pq.write_table(pa.Table.from_pylist(words, schema), directory / "vocab.parquet")
        (directory / "manifest.json").unlink()
        seal(directory, TOKENS, producer="test 0", config={}, seed=0)
        return directory

    return write


TYPES = {
    **{"int32": pa.int32(), "int64": pa.int64(), "string": pa.string(), "bool": pa.bool_()},
    **{"float": pa.float32(), "double": pa.float64()},
    "list<element: string>": pa.list_(pa.string()),
}


@pytest.fixture
def tokens_dir(tmp_path: Path):
    return _write_tokens(tmp_path / "tokens")
