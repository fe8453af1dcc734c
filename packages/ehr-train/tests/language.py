"""Narratives, and tiny language models with tokenizers that are trained on them."""

import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from ehr_tracking.contracts import NARRATIVES
from ehr_tracking.manifest import new_artifact, seal

SPLITS = ("train", "train", "train", "tuning", "held_out")
SIZE = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 64,
}
HEADS = {"num_key_value_heads": 1, "head_dim": 8, "pad_token_id": None}
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
ENCODERS = {
    "Bert": NO_DROPOUT,
    "ModernBert": {"cls_token_id": 2, "sep_token_id": 3, "global_attn_every_n_layers": 2},
    "Roberta": {"max_position_embeddings": 66, **NO_DROPOUT},
}
DECODERS = {
    "Llama": HEADS,
    "Mistral": HEADS,
    "Qwen2": {"num_key_value_heads": 1},
    "Qwen3": HEADS,
    "Gemma": HEADS,
    "Phi": {},
}
SCHEMA = pa.schema(
    {
        **{"subject_id": pa.int64(), "prediction_time": pa.timestamp("us")},
        **{"split": pa.string(), "text": pa.string(), "boolean_value": pa.bool_()},
        **{"events": pa.int64(), "truncated": pa.int64(), "piece": pa.int64()},
    }
)


def texts(n: int = 60) -> list[str]:
    """Some of them of sepsis; every second one."""
    draw = random.Random(0)
    words = ("fever", "cough", "insulin", "aspirin", "visit")
    return [
        f"age {20 + i} years, {', '.join(draw.choices(words, k=1 + i % 6))}, "
        + ("sepsis" if i % 2 else "healthy")
        for i in range(n)
    ]


def write_narratives(
    out: Path, told: list[str], *, labels: bool = True, task: str = "sepsis"
) -> Path:
    """Two texts a subject; without labels a corpus of whole records, in two pieces each."""
    rows = [
        {
            **{"subject_id": i // 2, "split": SPLITS[i // 2 % 5], "text": text, "events": 3},
            "prediction_time": 1_577_836_800_000_000 + i % 2 if labels else None,
            **({"boolean_value": "sepsis" in text, "truncated": 0} if labels else {"piece": i % 2}),
        }
        for i, text in enumerate(told)
    ]
    with new_artifact(out, NARRATIVES) as partial:
        (partial / task).mkdir()
        table = pa.Table.from_pylist(rows, pa.schema([f for f in SCHEMA if f.name in rows[0]]))
        pq.write_table(table, partial / task / "narratives.parquet")
        seal(partial, NARRATIVES, producer="test 0", config={}, seed=0)
    return out


def word_pieces(told: list[str]) -> PreTrainedTokenizerFast:
    """WordPiece, as BERT has it."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    found = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    found.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    found.train_from_iterator(
        told, trainers.WordPieceTrainer(vocab_size=200, special_tokens=special, show_progress=False)
    )
    found.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")
    return PreTrainedTokenizerFast(tokenizer_object=found, **dict(zip(names, special, strict=True)))


def byte_pairs(told: list[str]) -> PreTrainedTokenizerFast:
    """BPE of bytes, as decoders have it: it has no token to pad with."""
    found = Tokenizer(models.BPE())
    found.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    found.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    found.train_from_iterator([f"{t}\nAnswer: {w}" for t in told for w in ("yes", "no")], trainer)
    found.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 0)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=found, bos_token="<s>", eos_token="</s>")


def write_model(out: Path, name: str, tokenizer: PreTrainedTokenizerFast) -> Path:
    """A new model of an architecture, with a tokenizer."""
    more, end = (ENCODERS[name], "MaskedLM") if name in ENCODERS else (DECODERS[name], "CausalLM")
    ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    options = {**SIZE, "pad_token_id": tokenizer.pad_token_id, **ids, **more}
    config = getattr(transformers, f"{name}Config")(vocab_size=len(tokenizer) + 8, **options)
    torch.manual_seed(0)
    getattr(transformers, f"{name}For{end}")(config).save_pretrained(out)
    tokenizer.save_pretrained(out)
    return out
